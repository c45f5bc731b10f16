"""Gradients as they are recorded: of one number, at a handle's value.

In: a loss and a handle of one recording.  Out: a handle on the gradient, known when the whole
forward is over.  Never: differentiates; that is the running side's.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlxgraph.errors import GradientError
from mlxgraph.errors.source_line import here
from mlxgraph.graph import ops
from mlxgraph.graph.nested import leaves
from mlxgraph.graph.node import walk
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record.conform import shape_and_dtype
from mlxgraph.record.freeze import freeze
from mlxgraph.record.handle import is_handle
from mlxgraph.record.no_value import written
from mlxgraph.record.write_through import is_part


def gradient(recording: Any, loss: Any, handle: Any) -> Any:
    """The gradient of a scalar loss at a handle's value, of the same shape.

    At a view it is that part of the whole value's gradient.

    Raises: GradientError for what is not recorded, a loss of several numbers, one that holds a
        gradient itself, or a value of whole numbers.
    """
    if not is_handle(handle):
        raise GradientError(
            f"a gradient is taken at a recorded value, and {_said(handle)} is none.\n"
            f"  at {here()}\n  Write `t.grad(loss, {_instead(handle)})`."
        )
    if not isinstance(loss, ARRAY) and not is_handle(loss):
        raise GradientError(
            f"a gradient is taken of a recorded number, and {_said(loss)} is none.\n"
            f"  at {here()}\n  Write `t.grad(loss, h)`, with a loss that is computed from what the"
            " model gives: `loss = model.output[0, -1].max()`."
        )
    node = freeze(loss, recording)
    value = recording.info(node).value
    if not isinstance(value, ARRAY) or value.size != 1:
        raise GradientError(
            f"a gradient is taken of one number, and this loss is {shape_and_dtype(value)}.\n"
            f"  at {here()}\n  Reduce it first: `.sum()` or `.mean()`."
        )
    if any(below.op == ops.GRAD for below in walk([node])):
        raise GradientError(
            "this loss holds a gradient, and a gradient of a gradient cannot be recorded.\n"
            f"  at {here()}\n  Take the second one around the block: `mx.grad` of a function that"
            " opens the trace."
        )
    if value.ndim:
        node = recording.build(ops.MX_SQUEEZE, (node, None))
    chain = []
    while is_part(handle):
        chain.append(handle._origin.view)
        handle = handle._origin.base
    at = freeze(handle, recording)
    if not any(map(_is_float, leaves(recording.info(at).value))):
        raise GradientError(
            f"{handle._describe()} is {shape_and_dtype(recording.info(at).value)}: there is no"
            f" gradient at whole numbers.\n  at {here()}\n"
            "  Take it where they have become vectors: at the embedding's output, say."
        )
    recording.takes_gradients = True
    result = recording.result(ops.GRAD, (node, at))
    for view in reversed(chain):
        result = recording.view(result, view)
    return result


def _said(value: Any) -> str:
    return written(value) if hasattr(type(value), "_names_a_module") else f"{value!r:.60}"


def _instead(value: Any) -> str:
    """A recorded value in place of what was given: the output of a module."""
    is_module = hasattr(type(value), "_names_a_module")
    return f"{written(value)}.output" if is_module else "model.layers[1].output"


def _is_float(value: Any) -> bool:
    return isinstance(value, ARRAY) and mx.issubdtype(value.dtype, mx.floating)
