"""A model called as a function: `model(x)`, outside of any block and inside of one.

In: inputs as for `trace`.  Out: the output, with the edits that stay on the model.  A call on
recorded values is recorded, and so is one of the block's own model; any other runs at once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import mlx.core as mx

from mlxgraph.model.compiled_pass import edited_output
from mlxgraph.record.apply import apply
from mlxgraph.record.handle import handle_in
from mlxgraph.record.stack import paused, recording_on
from mlxgraph.run.call import Forward, call_model, describe_call
from mlxgraph.run.engine import Engine
from mlxgraph.run.no_input import raise_no_input
from mlxgraph.trace.encoding import is_messages
from mlxgraph.trace.ids import check_plain
from mlxgraph.trace.inputs import prepare
from mlxgraph.trace.open_block import call_module


def called(engine: Engine, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The model's output, lazy."""
    run = edited_output if engine.is_edited else _plain
    return run(engine, args, kwargs)


def called_in_block(engine: Engine, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The model's output: a proxy of recorded values, and of the model that the block is of."""
    is_recorded = handle_in(args) is not None or handle_in(kwargs.values()) is not None
    if engine.is_edited:
        if is_recorded:
            return apply(partial(_on_values, engine), *args, **kwargs)
        return edited_output(engine, args, kwargs)
    if not is_recorded:
        if recording_on(engine.root) is None:
            return _at_once(engine, args, kwargs)
        if _is_to_be_prepared(args):
            call = prepare(args, engine)
            if call.is_ragged:
                return _at_once(engine, args, kwargs)
            args = call.args
    return call_module(engine, "", args, kwargs)


def _on_values(engine: Engine, *args: Any, **kwargs: Any) -> Any:
    return edited_output(engine, args, kwargs)


def _at_once(engine: Engine, args: tuple, kwargs: dict[str, Any]) -> Any:
    with paused():  # what the model draws is its own
        return _plain(engine, args, kwargs)


def _plain(engine: Engine, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The bare model on inputs as for `trace`; arrays are handed on as they are."""
    forward: Forward = call_model
    if len(args) > 1 and all(isinstance(given, str) or is_messages(given) for given in args):
        prepare(args, engine)  # says that several texts are a list
    if _is_to_be_prepared(args):
        call = prepare(args, engine)
        if call.turned:
            return edited_output(engine, args, kwargs)
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


def _is_to_be_prepared(args: tuple) -> bool:
    """Whether ids are to be made of what is given: of text, and of rows of tokens."""
    return len(args) == 1 and not (isinstance(args[0], mx.array) and args[0].ndim != 1)
