"""What the running side lends to a recording: evaluation on placeholders."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlxgraph.errors import LookError
from mlxgraph.graph.node import CALL, Node
from mlxgraph.record.recording import Recording
from mlxgraph.record.where import here
from mlxgraph.run.ops import evaluate, thaw
from mlxgraph.run.placeholder import placeholder

if TYPE_CHECKING:
    from mlxgraph.model import InterpretableModel


class ModelTools:
    """`record.recording.Tools` for one model; looks are for those who know the inputs."""

    def __init__(self, model: InterpretableModel):
        self._model = model

    def evaluate(self, node: Node, values: Callable[[Node], Any]) -> Any:
        """The value of one node, given its inputs' values: on placeholders, or real ones."""
        if node.op == CALL:
            module = self._model._runner.bare().modules[node.args[0]]
            args = [thaw(value, values) for value in node.args[1:]]
            return module(*args, **{name: thaw(v, values) for name, v in node.kwargs})
        return evaluate(node, values)

    @staticmethod
    def placeholder(shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        """An array that cannot be evaluated."""
        return placeholder(shape, dtype)

    def look(self, recording: Recording, node: Node) -> Any:
        """Refuse: a value can be looked at only where the inputs are all known."""
        raise LookError(
            f"this value cannot be looked at yet: not all inputs are known here.\n  at {here()}\n"
            "  Save it and look after the block, or open a trace of its own for this prompt."
        )
