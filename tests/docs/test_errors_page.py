"""docs/errors.md has every error class, with code that raises it and code that does not."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from mlxgraph import errors
from tests.docs.blocks import Block, blocks

PAGE = (Path(__file__).parent.parent.parent / "docs" / "errors.md").read_text()
NOT_RAISED = {
    "MissingDependencyError",  # what is missing is there when the page is tested
    "RankError", "RanksDifferError", "PartError",  # of several processes: tests/ranks raises them
}  # fmt: skip
OURS = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, errors.MLXGraphError)
}


def sections(page: str) -> dict[str, str]:
    """The text below each error's heading."""
    parts = re.split(r"^##+ (.*)$", page, flags=re.M)[1:]
    named = zip(parts[::2], parts[1::2], strict=True)
    return {title.strip("`"): text for title, text in named if title.startswith("`")}


def problems(page: str) -> list[str]:
    """What is missing from the page, or is too much."""
    found = sections(page)
    wanted = set(OURS) - {"MLXGraphError"}
    said = [f"{name} is not on the page" for name in sorted(wanted - set(found))]
    said += [f"{name} is no error" for name in sorted(set(found) - wanted)]
    for name in sorted(wanted & set(found)):
        wrong, right = (blocks(found[name]) + [Block("", 0)] * 2)[:2]
        if name not in NOT_RAISED and wrong.raises != name:
            said.append(f"{name} is not raised below its heading")
        if not right.code or right.raises or right.skip:
            said.append(f"{name} has no code that does not raise it")
    return said


def test_every_error_has_its_wrong_and_its_right_code() -> None:
    assert not problems(PAGE)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("### `OrderError`", "### `OtherError`", "OrderError is not on the page"),
        ("### `OrderError`", "### `OtherError`", "OtherError is no error"),
        ("<!-- raises: OrderError -->", "", "OrderError is not raised"),
        ("<!-- raises: OrderError -->", "<!-- raises: ShapeError -->", "OrderError is not raised"),
    ],
)
def test_a_page_that_lacks_something_is_caught(old: str, new: str, said: str) -> None:
    assert old in PAGE
    assert any(said in problem for problem in problems(PAGE.replace(old, new)))
