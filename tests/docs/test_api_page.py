"""The API page names everything public, with the signatures and defaults that the code has."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from pathlib import Path

import pytest

import mlxgraph as mg
from mlxgraph import errors
from tests.docs.signatures import FOR_OTHER_ROOMS, OWNERS, exists, problems, promised, public

PAGE = (Path(__file__).parent.parent.parent / "docs" / "api.md").read_text()


def _documented_errors() -> list[type]:
    found = [value for value in vars(errors).values() if inspect.isclass(value)]
    return [e for e in found if issubclass(e, errors.MLXGraphError) and e is not mg.MLXGraphError]


def test_the_page_and_the_code_say_the_same() -> None:
    assert not problems(PAGE)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('compile="auto"', "compile=True", "model.trace"),  # another default
        ("top_k=10", "top_k=10.0", "model.get_token_predictions"),  # of another type
        (
            "batch_size=None, progress=None",
            "batch_size=None",
            "mg.batch_get_activations",
        ),  # one missing
        ("std=0.1", "std=0.1, seed=0", "iv.noise"),  # one too many
        ("sites, name=None, *, expect", "sites, name=None, expect", "mg.read"),  # of another kind
        ("graph, *inputs, optimize", "graph, inputs, optimize", "model.explain"),
        ("`trace.get_activation(name)`", "`trace.get_activations(name)`", "no such name"),
        ("`model.refresh()`", "`the refresh`", "model.refresh is not on the page"),
        ("`trace.lengths`", "`lengths`", "trace.lengths is not on the page"),
        ("`model.compilations`", "`compilations`", "model.compilations is not on the page"),
        ("`module.skip(value)`", "`module.skip`", "module.skip is on the page without"),
        ("`iv.scale(factor)`", "`iv.scale(factor=)`", "is no signature"),
    ],
)
def test_a_page_that_says_something_else_is_caught(old: str, new: str, said: str) -> None:
    assert old in PAGE
    assert any(said in problem for problem in problems(PAGE.replace(old, new)))


def test_a_name_that_the_page_does_not_have_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mg.Trace, "fresh", lambda self: None, raising=False)
    assert problems(PAGE) == ["trace.fresh is not on the page"]


def test_the_page_promises_enough_to_be_compared() -> None:
    signatures = [promise for promise in promised(PAGE) if promise[2] is not None]
    assert len(signatures) > 60 and len(list(public())) > 100
    assert not set(FOR_OTHER_ROOMS) & {f"{owner}.{name}" for owner, name, _ in promised(PAGE)}


def test_every_error_is_in_the_table_with_its_builtins() -> None:
    rows = Counter(re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.M))
    errors = _documented_errors()
    assert [error.__name__ for error in errors if rows[error.__name__] != 1] == []
    for error in errors:
        (row,) = re.findall(rf"^\| `{error.__name__}` \| (.*?) \|", PAGE, flags=re.M)
        builtins = [b.__name__ for b in error.__mro__ if b.__module__ == "builtins"]
        direct = [b for b in builtins if f"`{b}`" in row]
        assert direct, f"{error.__name__} is also a {builtins[0]}"
        assert set(re.findall(r"`(\w+)`", row)) <= set(builtins), error.__name__


def test_every_call_in_the_text_of_the_page_exists() -> None:
    for owner in OWNERS:
        for name in set(re.findall(rf"`{owner}\.(\w+)\(", PAGE)):
            assert exists(owner, name), f"{owner}.{name}"
