"""A model called as a function: `model(x)`, outside of any block."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlxgraph.run.call import Forward, call_model, describe_call
from mlxgraph.run.engine import Engine
from mlxgraph.run.no_input import raise_no_input
from mlxgraph.trace.ids import check_plain
from mlxgraph.trace.inputs import prepare


def plain_call(engine: Engine, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The bare model on inputs as for `trace`; arrays are handed on as they are."""
    forward: Forward = call_model
    if len(args) > 1 and all(isinstance(given, str) for given in args):
        prepare(args, engine)  # says that several texts are a list
    if len(args) == 1 and not (isinstance(args[0], mx.array) and args[0].ndim != 1):
        call = prepare(args, engine)
        if call.is_ragged:
            engine.runner.census(call)  # raises where the model cannot hide padding
        if not kwargs:
            check_plain(engine, call)
        forward, args = call.forward, call.args
    else:
        one = len(args) == 1 and not kwargs
        check_plain(engine, prepare(args, engine) if one else describe_call(args, kwargs))
    try:
        return forward(engine.root, args, kwargs)
    except Exception as error:
        raise_no_input(args, kwargs, error, engine.runner.tree.modules.values())
        raise
