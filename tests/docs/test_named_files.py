"""The files that the pages name exist, and the picture of the rooms shows the imports."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "mlxgraph"
PAGES = ["CONTRIBUTING.md", "README.md", "docs/how_it_works.md", "docs/words.md"]
FILE = re.compile(r"`([\w.]+(?:/[\w.]+)*/?)`")
ENDINGS = (".py", ".md", ".svg", ".toml", ".ipynb", "/")


def named(page: str) -> list[str]:
    """The files and folders that stand as code in a page."""
    return [name for name in FILE.findall(page) if name.endswith(ENDINGS)]


def missing(page: str) -> list[str]:
    """Those of them that are nowhere: not in the checkout, and not in the package."""
    return [n for n in named(page) if not (ROOT / n).exists() and not (PACKAGE / n).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_names_exist(page: str) -> None:
    assert missing((ROOT / page).read_text()) == []


def test_a_file_that_is_gone_is_caught() -> None:
    assert missing("`record/recording.py` and `record/nowhere.py`") == ["record/nowhere.py"]


def test_one_value_is_walked_through_the_house_in_ten_lines() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    lines = re.findall(r"^\d+\. .*$", page, flags=re.M)
    assert len(lines) == 10
    assert all(any(name.endswith(".py") for name in named(line)) for line in lines)
    assert len(page.splitlines()) <= 50, "one screen"


# -- the picture of the rooms --------------------------------------------------------------------


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_rooms", ROOT / "docs" / "rooms.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_shows_the_imports_as_they_are(script: ModuleType) -> None:
    assert script.PICTURE.read_text() == script.svg(), "write: python docs/rooms.py"


def test_the_picture_is_in_the_page(script: ModuleType) -> None:
    page = ROOT / "docs" / "how_it_works.md"
    assert f"({script.PICTURE.relative_to(page.parent)})" in page.read_text()


def _laid_out(script: ModuleType, root: Path) -> tuple[list[list[str]], dict[str, Any]]:
    found = script.rooms(root)
    rows, paths = script.levels(found, script.needed(script.links(root)))
    rows = script.ordered(rows, paths)
    return paths, script.placed(rows, paths, found)


def _overlap(one: Any, two: Any) -> bool:
    along = one.x < two.x + two.width and two.x < one.x + one.width
    return along and one.y < two.y + two.height and two.y < one.y + one.height


def test_nothing_overlaps_and_everything_points_down(script: ModuleType) -> None:
    paths, boxes = _laid_out(script, ROOT)
    for name, one in boxes.items():
        assert 0 <= one.x and one.x + one.width <= script.WIDTH, name
        beside = [n for n, two in boxes.items() if n != name and _overlap(one, two)]
        assert beside == [], name
    assert len(paths) > 10
    for path in paths:
        heights = [boxes[name].y for name in path]
        assert heights == sorted(set(heights)), path


def test_another_file_or_import_is_another_picture(script: ModuleType, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "mlxgraph", ignore=shutil.ignore_patterns("weights"))
    before = script.svg(tmp_path)
    assert before == script.svg(ROOT)
    (tmp_path / "mlxgraph/plot/violin.py").write_text('"""Violins."""\n')
    assert "violin" in script.svg(tmp_path)
    (tmp_path / "mlxgraph/plot/violin.py").write_text("from mlxgraph.mlx_facts import arrays\n")
    assert ("plot", "mlx_facts") in script.needed(script.links(tmp_path))


def test_an_import_for_types_alone_is_drawn_with_dashes(script: ModuleType, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "mlxgraph", ignore=shutil.ignore_patterns("weights"))
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
    (tmp_path / "mlxgraph/plot/violin.py").write_text(guarded + "import mlxgraph.mlx_facts.arrays")
    assert script.links(tmp_path)["plot", "mlx_facts"] is True
    dashes = script.svg(ROOT).count("dasharray")
    assert script.svg(tmp_path).count("dasharray") == dashes + 1


def test_boxes_that_overlap_are_told(script: ModuleType) -> None:
    assert _overlap(script.Box(0, 0, 10, 10), script.Box(9, 9, 10, 10))
    assert not _overlap(script.Box(0, 0, 10, 10), script.Box(10, 0, 10, 10))


def test_an_arrow_that_follows_from_others_is_left_out(script: ModuleType) -> None:
    found = {("trace", "record"): False, ("record", "graph"): False, ("trace", "graph"): False}
    assert script.needed(found) == [("record", "graph"), ("trace", "record")]
