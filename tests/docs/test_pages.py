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

import pytest

from tests.docs.blocks import Block, blocks
from tests.docs.shell import shell

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ("*.md", "docs/**/*.md", "benchmarks/*.md", "mlxgraph/**/*.md")
PAGES = sorted(page for folder in FOLDERS for page in ROOT.glob(folder))
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)]*))?\)")


def named(path: Path) -> str:
    """A page's name in test reports."""
    return str(path.relative_to(ROOT))


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pages write their files into a folder of their own, and draw without a screen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("COLUMNS", "80")
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def run_page(text: str, name: str) -> dict[str, Any]:
    """Run a page's blocks in one namespace, which is returned.  Fails with the page's line."""
    names: dict[str, Any] = {"__name__": "__page__"}
    for block in blocks(text):
        if not block.skip:
            (_run_shell if block.language == "sh" else _run)(block, name, names)
    return names


def _run_shell(block: Block, name: str, _: Any) -> None:
    status, printed = shell(block.code)
    if status != int(block.exits or 0):
        pytest.fail(f"{name}:{block.line} ended with status {status}:\n{printed}", pytrace=False)
    _compare(block, printed, f"{name}:{block.line}")


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
    _compare(block, printed.getvalue(), at)


def _compare(block: Block, printed: str, at: str) -> None:
    if block.output is not None and not _same(block.output, printed):
        pytest.fail(f"{at} printed\n{printed}\nbut the page shows\n{block.output}", pytrace=False)


def _same(shown: str, printed: str) -> bool:
    check = doctest.OutputChecker().check_output
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return check(shown.strip() + "\n", printed.strip() + "\n", flags)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_block_of_the_page_runs(page: Path) -> None:
    run_page(page.read_text(), named(page))


def without_blocks(text: str) -> str:
    """A page's text without its code."""
    return re.sub(r"```.*?```", "", text, flags=re.S)


def anchors(page: Path) -> set[str]:
    """What a link may point to in a page: its headings, as GitHub names them, and `<a id=...>`."""
    text = without_blocks(page.read_text())
    found = set(re.findall(r'<a id="([^"]+)">', text))
    for heading in re.findall(r"^#+ (.*)$", text, flags=re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)|`", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-"))
    return found


def dead_links(page: Path) -> list[str]:
    """Links of a page to files, or to places in them, that are not there."""
    gone = []
    for link, anchor in LINK.findall(without_blocks(page.read_text())):
        file = page.parent / link if link else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            gone.append(f"{link}#{anchor}")
    return gone


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_of_the_page_leads_somewhere(page: Path) -> None:
    assert dead_links(page) == []


def test_a_dead_link_is_caught(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# The `first` part\n[a](#the-first-part) [b](page.md#the-first-part) [c](#gone) [d](no.md)"
    )
    assert dead_links(page) == ["#gone", "no.md#"]


def test_the_commands_of_the_pages_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    shown = set()
    for page in PAGES:
        shown |= set(re.findall(r"^\s*make ([\w-]+)", page.read_text(), flags=re.M))
    assert {"demo", "test"} <= shown <= targets
