"""One command at a time, in this process, on models that are loaded once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.cli import arguments, main

TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


class Ran(NamedTuple):
    """What a command left."""

    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture(scope="session")
def tiny() -> mg.InterpretableModel:
    return mg.tiny()


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny: mg.InterpretableModel
) -> Run:
    """Runs a command in 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    real = arguments.loaded
    monkeypatch.setattr(arguments, "loaded", lambda name: tiny if name == "tiny" else real(name))

    def one(*given: str) -> Ran:
        capsys.readouterr()
        status = main(list(given))
        return Ran(status, *capsys.readouterr())

    return one


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the embedded model in 4 bits, whose tokenizer has a chat template."""
    model = mg.tiny()
    nn.quantize(model.module)
    target = tmp_path_factory.mktemp("models") / "in 4 bits"
    model.save(target)
    config = target / "tokenizer_config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps({**said, "chat_template": TEMPLATE}))
    return target
