"""Every example in a docstring runs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.tiny import tiny


def _with_examples() -> list[str]:
    found = []
    for info in pkgutil.walk_packages(mg.__path__, "mlxgraph."):
        path = Path(info.module_finder.path) / info.name.rpartition(".")[2]  # type: ignore[union-attr]
        source = path / "__init__.py" if info.ispkg else path.with_suffix(".py")
        if ">>> " in source.read_text():
            found.append(info.name)
    return found


@pytest.mark.parametrize("name", _with_examples())
def test_the_examples_of_the_docstrings_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    globs = {"mg": mg, "mx": mx, "nn": nn, "model": tiny()}
    if hasattr(mg, "interventions"):
        globs["iv"] = mg.interventions
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    module = importlib.import_module(name)
    results = doctest.testmod(module, extraglobs=globs, optionflags=flags, verbose=False)
    assert results.attempted > 0
    assert results.failed == 0


def test_there_are_examples_to_run() -> None:
    assert "mlxgraph.model" in _with_examples()
