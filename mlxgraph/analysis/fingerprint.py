"""Which model it is: a hash of its modules, their settings and every byte of its weights."""

from __future__ import annotations

import hashlib
import tempfile
import zlib
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import GraphFileError, InputError

_SETTINGS = (bool, int, float, str, type(None))
_CARRIED = {mx.bfloat16: mx.uint16, mx.float64: mx.uint64}  # what numpy has no dtype for


def model_hash(model: Traceable) -> str:
    """The modules by name and class, their numbers and texts (an epsilon, a number of heads), and
    each weight: what a model computes changes with any of these.

    Weights are read once, at about the speed of memory.
    """
    found = hashlib.sha256()
    for name, module in model.named_modules():
        found.update(f"{name} {type(module).__qualname__} {_settings(module)}\n".encode())
    for name, weight in model.parameters().items():
        kind = _CARRIED.get(weight.dtype)
        plain = np.ascontiguousarray(
            np.array(weight if kind is None else weight.view(kind), copy=False)
        )
        check = zlib.crc32(memoryview(plain.data).cast("B")) if plain.size else 0
        found.update(f"{name} {weight.dtype} {weight.shape} {check}\n".encode())
    return found.hexdigest()


def _settings(module: Any) -> str:
    """A module's own settings, those in its `args` or `config` too."""
    said = [
        (name, value)
        for held in (module, vars(module))
        for name, value in sorted(held.items())
        if isinstance(value, _SETTINGS) and not name.startswith("_")
    ]
    return f"{said} training={module.training}"


def edits_hash(model: Traceable) -> str:
    """The edits that stay on a model; "" where there are none.

    Raises: InputError for edits that no file can hold, such as opaque functions.
    """
    if model.without_edits() is model:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edits.mlxg"
        try:
            model.edits.save(path)
        except GraphFileError as error:
            raise InputError(
                f"the edits on this model cannot be told from others: {error}\n"
                "  Write them in operations of MLX, or collect without to=."
            ) from error
        return hashlib.sha256(path.read_bytes()).hexdigest()
