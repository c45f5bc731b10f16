"""Whole numbers in an array of one axis: one text's token ids, or whatever the model takes.

Whether they are a row that wants a batch around it, the model decides: one that has a tokenizer
takes texts, and of the others one that runs on the array as it is is given it as it is.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlxgraph.record.stack import paused
from mlxgraph.run.call import describe_call
from mlxgraph.run.engine import Engine
from mlxgraph.trace.open_block import refreshed


def is_one_text(engine: Engine, ids: mx.array, kwargs: dict[str, Any]) -> bool:
    """Whether an array of one axis is a text's token ids.

    Args: kwargs: the model's own keyword arguments.
    """
    if engine.tokenizer is not None:
        return True
    runner = refreshed(engine).runner
    as_given, as_row = describe_call((ids,), kwargs), describe_call((ids[None],), kwargs)
    key = (as_given.key, engine.root.training) if as_given.plain else None
    known = runner.texts.get(key)
    if known is None:
        with paused():
            known = not runner.runs_on(as_given)
            sure = not known or runner.runs_on(as_row)
        if key is not None and sure:  # where neither runs, something else is wrong
            runner.texts.put(key, known)
    return known
