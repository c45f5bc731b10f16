"""One prepared run: a plan on one kind of call, and its compiled form once there is one.

In: what the plan's sources are worth at this run.  Out: the saves, lazy.
Keeps no value of any run: another array, number or weight needs no other prepared run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx

from mlxgraph.evaluate.values import source_values
from mlxgraph.graph import ops
from mlxgraph.graph.census import Census
from mlxgraph.graph.nested import leaves, unflatten
from mlxgraph.graph.node import Node
from mlxgraph.mlx_facts.compiling import Compiled
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.run.call import Call
from mlxgraph.run.forward import run_plan
from mlxgraph.run.plan import Plan
from mlxgraph.run.tree import ModuleTree


class PreparedRun:
    """A plan, ready to be run on calls of one kind.

    Args:
        tree: gives the module tree of the moment.
        traced: is told whenever `mx.compile` traces the run.
    """

    def __init__(
        self,
        plan: Plan,
        census: Census,
        call: Call,
        tree: Callable[[], ModuleTree],
        traced: Callable[[], None],
    ):
        self.plan = plan
        self.runs = 0
        self.compilable = census.traceable and call.plain
        self.failure = ""  # why it could not be compiled, once that was tried
        self._tree = tree
        self._traced = traced
        # Kept for the trace only: where the inputs hold arrays, and what the others are.
        self._call = call.without_values()
        self._compiled = Compiled(self._trace, plan.draws or census.draws)
        self._template: Any = None

    @property
    def is_compiled(self) -> bool:
        """Whether there is a compiled form to replay."""
        return self._compiled.ready

    def stay_eager(self, reason: str) -> None:
        """Not to be compiled again: that failed where an eager run did not."""
        self.compilable = False
        self.failure = reason

    def eager(self, call: Call, constants: Sequence[Any], params: Mapping[str, Any]) -> list[Any]:
        """Run the forward in Python; the saves come back lazy."""
        self.runs += 1
        return run_plan(
            self.plan, source_values(self.plan.sources, constants, params), self._tree(), call
        )

    def compiled(
        self, call: Call, constants: Sequence[Any], params: Mapping[str, Any]
    ) -> list[Any]:
        """Replay the compiled forward, compiling it first if need be."""
        lifted = [_as_input(node, constants, params) for node in self.plan.sources]
        arrays = self._compiled(self._tree().weights(), call.arrays, lifted)
        if self._template is None:
            return arrays
        return _with_arrays(self._template, arrays)

    def _trace(
        self, weights: list[mx.array], inputs: list[mx.array], lifted: list[mx.array]
    ) -> list[mx.array]:
        """What `mx.compile` traces: the forward over tracers, its saves as a flat list."""
        self._traced()
        known = dict(zip(self.plan.sources, lifted, strict=True))
        values = run_plan(self.plan, known, self._tree(), self._call.with_arrays(inputs), weights)
        if all(isinstance(value, ARRAY) for value in values):
            return values
        self._template = values = list(values)
        return [value for value in leaves(values) if isinstance(value, ARRAY)]


def _with_arrays(template: list[Any], arrays: list[mx.array]) -> list[Any]:
    """Saves of nested values, put together again around the compiled forward's arrays."""
    rest = iter(arrays)
    filled = [next(rest) if isinstance(v, ARRAY) else v for v in leaves(template)]
    return unflatten(template, filled)


def _as_input(node: Node, constants: Sequence[Any], params: Mapping[str, Any]) -> mx.array:
    value = params[node.args[0]] if node.op == ops.PARAM else constants[node.args[0]]
    return value if isinstance(value, ARRAY) else ARRAY(value)
