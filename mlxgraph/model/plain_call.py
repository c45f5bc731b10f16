"""A model called as a function: `model(x)`, outside of any block."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlxgraph.run.engine import Engine
from mlxgraph.trace.inputs import prepare


def plain_call(engine: Engine, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The bare model on inputs as for `trace`; arrays are handed on as they are."""
    if len(args) != 1 or (isinstance(args[0], mx.array) and args[0].ndim != 1):
        return engine.root(*args, **kwargs)
    call = prepare(args, engine)
    if call.is_ragged:
        engine.runner.census(call)  # raises where the model cannot hide padding
    return call.forward(engine.root, call.args, kwargs)
