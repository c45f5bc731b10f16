"""What the running side lends to a recording: evaluation on placeholders."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlxgraph.errors import LookError
from mlxgraph.errors.source_line import here
from mlxgraph.graph.nested import map_nested
from mlxgraph.graph.node import APPLY, CALL, Node
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.placeholders import placeholder
from mlxgraph.record.recording import Recording
from mlxgraph.run.ops import evaluate, thaw

if TYPE_CHECKING:
    from mlxgraph.model.model import InterpretableModel


class ModelTools:
    """`record.recording.Tools` for one model; looks are for those who know the inputs."""

    def __init__(self, model: InterpretableModel):
        self._model = model

    def evaluate(self, node: Node, values: Callable[[Node], Any]) -> Any:
        """The value of one node, given its inputs' values: on placeholders, or real ones.

        What is drawn here is drawn for its shape, and leaves the random state as it was.
        """
        key = random_state.current()
        try:
            return self._value(node, values)
        finally:
            random_state.restore(key)

    def _value(self, node: Node, values: Callable[[Node], Any]) -> Any:
        if node.op == CALL:
            module = self._model._runner.bare().modules[node.args[0]]
            args = [thaw(value, values) for value in node.args[1:]]
            return module(*args, **{name: thaw(v, values) for name, v in node.kwargs})
        if node.op == APPLY:
            return _opaque(node, values)
        return evaluate(node, values)

    @staticmethod
    def placeholder(shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        """An array that cannot be evaluated."""
        return placeholder(shape, dtype)

    def look(self, recording: Recording, node: Node) -> Any:
        """Refuse: a value can be looked at only where the inputs are all known."""
        raise LookError(
            "this value cannot be looked at: what is recorded here runs later, on inputs that are"
            f" not known yet.\n  at {here()}\n"
            "  Write mx.where(...) for a choice, mg.apply(fn, h) for a function that needs values,"
            " or save it and look after the block."
        )


def _opaque(node: Node, values: Callable[[Node], Any]) -> Any:
    """A Python function's value; one that looks at placeholders is tried on zeros of their kind."""
    try:
        return evaluate(node, values)
    except (RuntimeError, ValueError) as error:
        if "without a primitive" not in str(error):
            raise
    return evaluate(node, lambda child: map_nested(values(child), _zeros))


def _zeros(value: Any) -> Any:
    return mx.zeros(value.shape, value.dtype) if isinstance(value, mx.array) else value
