"""Loading: a path or hub name becomes a model and its tokenizer."""

from __future__ import annotations

from typing import Any

import mlx.nn as nn

from mlxgraph.errors import ModelLoadError


def loaded(name: str) -> tuple[nn.Module, Any]:
    """The model and the tokenizer that `mlx_lm.load` reads.  Raises: ModelLoadError."""
    from mlx_lm import load  # transformers takes seconds to import: only who loads a model pays

    try:
        found = load(name)
    except Exception as error:  # mlx-lm raises whatever its parts raise
        raise ModelLoadError(name, f"{type(error).__name__}: {error}") from error
    return found[0], found[1]
