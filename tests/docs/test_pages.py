"""Every code block of the README and of docs/ runs, in order, on the embedded model."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs.blocks import Block, blocks

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(?:#[^)]*)?\)")


def named(path: Path) -> str:
    """A page's name in test reports."""
    return str(path.relative_to(ROOT))


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pages write their files into a folder of their own, and draw without a screen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def run_page(text: str, name: str) -> dict[str, Any]:
    """Run a page's blocks in one namespace, which is returned.  Fails with the page's line."""
    names: dict[str, Any] = {"__name__": "__page__"}
    for block in blocks(text):
        if not block.skip:
            _run(block, name, names)
    return names


def _run(block: Block, name: str, names: dict[str, Any]) -> None:
    at = f"{name}:{block.line}"
    printed = io.StringIO()
    try:
        # Empty lines in front give the code its real line numbers in errors and graph listings.
        code = compile("\n" * (block.line - 1) + block.code, name, "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, names)
    except Exception as error:
        if block.raises and type(error).__name__ == block.raises:
            printed = io.StringIO(str(error))
        else:
            pytest.fail(
                f"{at} raised {type(error).__name__}: {error}\n{traceback.format_exc()}",
                pytrace=False,
            )
    else:
        if block.raises:
            pytest.fail(f"{at} did not raise {block.raises}", pytrace=False)
    if block.output is not None and not _same(block.output, printed.getvalue()):
        pytest.fail(
            f"{at} printed\n{printed.getvalue()}\nbut the page shows\n{block.output}", pytrace=False
        )


def _same(shown: str, printed: str) -> bool:
    check = doctest.OutputChecker().check_output
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return check(shown.strip() + "\n", printed.strip() + "\n", flags)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_block_of_the_page_runs(page: Path) -> None:
    run_page(page.read_text(), named(page))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_of_the_page_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    gone = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    assert not gone


def test_the_commands_of_the_pages_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    shown = set()
    for page in PAGES:
        shown |= set(re.findall(r"^\s*make ([\w-]+)", page.read_text(), flags=re.M))
    assert {"demo", "test"} <= shown <= targets


@pytest.mark.parametrize("notebook", sorted(ROOT.glob("docs/*.ipynb")), ids=named)
def test_every_cell_of_the_notebook_runs(notebook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the kernel is a process of its own
    cells = nbformat.read(notebook, as_version=4)
    assert any(cell.get("outputs") for cell in cells.cells), "a notebook is kept with its outputs"
    NotebookClient(cells, timeout=120, kernel_name="python3").execute()
