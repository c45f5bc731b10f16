"""Every example in a docstring runs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph import interventions
from mlxgraph.tiny import tiny


def _with_examples() -> list[str]:
    found = []
    for info in pkgutil.walk_packages(mg.__path__, "mlxgraph."):
        path = Path(info.module_finder.path) / info.name.rpartition(".")[2]  # type: ignore[union-attr]
        source = path / "__init__.py" if info.ispkg else path.with_suffix(".py")
        if ">>> " in source.read_text():
            found.append(info.name)
    return found


def known() -> dict[str, Any]:
    """What an example may use without saying where it comes from."""
    model = tiny()
    x = mx.array([model.encode("The capital of France is")])
    graph = mg.edit("layers.2.mlp", mx.tanh) >> mg.read("layers.5", name="h")
    names = {"mg": mg, "mx": mx, "nn": nn, "iv": interventions}
    return {**names, "model": model, "x": x, "v": mx.ones((128,)), "graph": graph}


class ShownIsTrue(doctest.OutputChecker):
    """What an example shows must come out; an example that shows nothing need only run."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


@pytest.mark.parametrize("name", _with_examples())
def test_the_examples_of_the_docstrings_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    globs = known()
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(checker=ShownIsTrue(), verbose=False, optionflags=flags)
    report: list[str] = []
    module = importlib.import_module(name)
    for test in doctest.DocTestFinder().find(module, extraglobs=globs):
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).attempted > 0
    assert not report, "".join(report)


def test_there_are_examples_to_run() -> None:
    assert "mlxgraph.model.model" in _with_examples()
