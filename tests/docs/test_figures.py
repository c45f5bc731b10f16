"""The figures in the pages are those of benchmarks/results.json; every script can make its own."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
BENCHMARKS = ROOT / "benchmarks"
PAGES = ("benchmarks/README.md", "README.md")
RESULTS: dict[str, Any] = json.loads((BENCHMARKS / "results.json").read_text())
SHARED = {"everything", "figures", "llamas", "report"}
SCRIPTS = sorted({path.stem for path in BENCHMARKS.glob("*.py")} - SHARED)


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("figures", BENCHMARKS / "figures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_what_the_results_give(page: str, figures: ModuleType) -> None:
    text = (ROOT / page).read_text()
    assert figures.MARKED.search(text)
    assert text == figures.page(text, RESULTS), "write: python benchmarks/figures.py"


def test_other_results_are_another_page(figures: ModuleType) -> None:
    other = copy.deepcopy(RESULTS)
    for size in other["trace_overhead"]["found"]["sizes"].values():
        size["traced block"]["host beyond"][1] += 1.0
    for page in PAGES:
        text = (ROOT / page).read_text()
        assert text != figures.page(text, other)
    other = copy.deepcopy(RESULTS)
    other["rooms"]["machine"]["python"] = "4.0"
    text = (BENCHMARKS / "README.md").read_text()
    assert "python 4.0" in figures.page(text, other)


def test_what_stands_outside_of_the_marks_stays(figures: ModuleType) -> None:
    text = "before\n<!-- begin rooms -->\nold\n<!-- end -->\nafter\n"
    made = figures.page(text, RESULTS)
    assert made.startswith("before\n<!-- begin rooms -->\n") and "old" not in made
    assert made.endswith("\n<!-- end -->\nafter\n")
    assert figures.page(made, RESULTS) == made


def test_a_mark_without_results_is_caught(figures: ModuleType) -> None:
    with pytest.raises(KeyError, match="nothing"):
        figures.page("<!-- begin nothing -->\n<!-- end -->", RESULTS)


def test_every_script_has_its_figures_in_the_page_and_none_was_measured_quickly() -> None:
    page = (BENCHMARKS / "README.md").read_text()
    assert sorted(re.findall(r"<!-- begin (\w+) -->", page)) == SCRIPTS
    assert sorted(RESULTS) == SCRIPTS
    assert [name for name, result in RESULTS.items() if result["quick"]] == []
    for name in SCRIPTS:
        assert f"({name}.py)" in page


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_runs_and_shows_what_it_wrote(name: str, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    command = [sys.executable, BENCHMARKS / "everything.py", name, "--quick", "--to", file]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert list(found) == [name] and found[name]["quick"] is True
    assert done.stdout.startswith(f"## {name}") and done.stdout.count("|") > 10
