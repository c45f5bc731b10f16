"""The API page names everything public, and nothing that is not there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import mlxgraph as mg
from mlxgraph import errors, interventions

PAGE = (Path(__file__).parent.parent.parent / "docs" / "api.md").read_text()


FOR_THE_RECORDING = {"look", "recorded"}  # what other rooms ask of a Trace, not users


def _public(owner: object) -> list[str]:
    names = [name for name in vars(owner) if not name.startswith("_")]
    return [name for name in names if name not in FOR_THE_RECORDING]


def _documented_errors() -> list[type]:
    found = [value for value in vars(errors).values() if inspect.isclass(value)]
    return [e for e in found if issubclass(e, errors.MLXGraphError) and e is not mg.MLXGraphError]


@pytest.mark.parametrize("name", mg.__all__)
def test_every_exported_name_is_on_the_page(name: str) -> None:
    assert re.search(rf"\b{name}\b", PAGE)


@pytest.mark.parametrize(
    ("owner", "name"),
    [(cls, name) for cls in (mg.InterpretableModel, mg.Trace) for name in _public(cls)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_every_public_method_is_on_the_page(owner: type, name: str) -> None:
    assert re.search(rf"\b{name}\b", PAGE)


@pytest.mark.parametrize("error", _documented_errors(), ids=lambda error: error.__name__)
def test_every_error_is_in_the_table_with_its_builtins(error: type) -> None:
    (row,) = re.findall(rf"^\| `{error.__name__}` \| (.*?) \|", PAGE, flags=re.M)
    builtins = [b.__name__ for b in error.__mro__ if b.__module__ == "builtins"]
    direct = [b for b in builtins if f"`{b}`" in row]
    assert direct, f"{error.__name__} is also a {builtins[0]}"
    assert set(re.findall(r"`(\w+)`", row)) <= set(builtins)


def test_every_function_on_the_page_exists() -> None:
    for name in set(re.findall(r"`mg\.(\w+)", PAGE)):
        assert hasattr(mg, name), f"mg.{name}"
    for name in set(re.findall(r"`iv\.(\w+)", PAGE)):
        assert hasattr(interventions, name), f"iv.{name}"
    for name in set(re.findall(r"`model\.(\w+)\(", PAGE)):
        assert hasattr(mg.InterpretableModel, name), f"model.{name}"
    for name in set(re.findall(r"`g\.(\w+)", PAGE)):
        assert hasattr(mg.Graph, name), f"g.{name}"
    for name in set(re.findall(r"`trace\.(\w+)\(", PAGE)):
        assert hasattr(mg.Trace, name), f"trace.{name}"
