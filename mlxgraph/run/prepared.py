"""One prepared run: a plan on one kind of call, and its compiled form once there is one.

In: what the plan's sources are worth at this run.  Out: the saves, lazy.
Keeps no value of any run: another array, number or weight needs no other prepared run.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx

from mlxgraph.evaluate.values import source_values
from mlxgraph.graph import ops
from mlxgraph.graph.census import Census
from mlxgraph.graph.nested import hiding, leaves, unflatten
from mlxgraph.graph.node import Node
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.compiling import Compiled
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.run.call import Call, is_stateful
from mlxgraph.run.forward import gradient_of_nothing, run_plan
from mlxgraph.run.plan import Plan
from mlxgraph.run.tree import ModuleTree


class _Draws(Exception):  # noqa: N818 - not an error: the trace begins anew
    """A trace turned out to use the random state, which it was not given."""

    def __init__(self, before: mx.array):
        super().__init__()
        self.before = before


class Unreachable(Exception):  # noqa: N818 - a reason, not an error
    """A trace gave arrays that a compiled run could not put its own in place of."""


class PreparedRun:
    """A plan, ready to be run on calls of one kind.

    Attributes:
        indices, numbers: those that come with each run, for whoever checks them.
        rows: which of the inputs' arrays number the rows of an embedding, as the census says.

    Args:
        runner: gives the runner, which is asked for the module tree of the moment and told
            whenever `mx.compile` traces the run; not the runner itself, which keeps this.
    """

    def __init__(
        self,
        plan: Plan,
        census: Census,
        call: Call,
        runner: Callable[[], Any],
    ):
        self.plan = plan
        self.runs = 0
        self.indices: tuple[Any, ...] = ()
        self.numbers: tuple[Any, ...] = ()
        self.rows = census.rows
        self.unasked = plan.gradients  # whether they are gradients of anything
        self.compilable = census.traceable and not is_stateful(call, census)
        self.failure = ""  # why it could not be compiled, once that was tried
        self._runner = runner
        # Kept for the trace only: where the inputs hold arrays, and what the others are.
        self._call = call.without_values()
        self._changes = is_stateful(call, census)
        self._draws = plan.draws or census.draws
        self._compiled: Compiled | None = None
        self._template: Any = None

    @property
    def is_compiled(self) -> bool:
        """Whether there is a compiled form to replay."""
        return self._compiled is not None and self._compiled.ready

    def gradient_of_nothing(
        self, call: Call, constants: Sequence[Any], params: Mapping[str, Any]
    ) -> Node | None:
        """A gradient node that can only be zero: its loss does not depend on its value."""
        nothing = None
        if self.compilable:
            known = source_values(self.plan.sources, constants, params)
            nothing = gradient_of_nothing(self.plan, known, self._tree(), call)
        self.unasked = nothing is not None
        return nothing

    def stay_eager(self, reason: str) -> None:
        """Not to be compiled again: that failed where an eager run did not."""
        self.compilable = False
        self.failure = reason

    def eager(self, call: Call, constants: Sequence[Any], params: Mapping[str, Any]) -> list[Any]:
        """Run the forward in Python; the saves come back lazy."""
        self.runs += 1
        return run_plan(
            self.plan,
            source_values(self.plan.sources, constants, params),
            self._tree(),
            call.itself() if self._changes else call,
        )

    def compiled(
        self, call: Call, constants: Sequence[Any], params: Mapping[str, Any]
    ) -> list[Any]:
        """Replay the compiled forward, compiling it first if need be."""
        lifted = [_as_input(node, constants, params) for node in self.plan.sources]
        inputs = (self._tree().weights(), call.arrays, lifted)
        if self._compiled is None:
            self._compiled = Compiled(_tracing(self), self._draws)
        try:
            arrays = self._compiled(*inputs)
        except _Draws as draws:  # a module called by hand, in another mode than it was recorded in
            random_state.restore(draws.before)
            self._draws = True
            self._compiled = Compiled(_tracing(self), True)
            arrays = self._compiled(*inputs)
        if self._template is None:
            return arrays
        return with_arrays(self._template, arrays)

    def _tree(self) -> ModuleTree:
        tree: ModuleTree = self._runner().tree
        return tree

    def _trace(
        self, weights: list[mx.array], inputs: list[mx.array], lifted: list[mx.array]
    ) -> list[mx.array]:
        """What `mx.compile` traces: the forward over tracers, its saves as a flat list."""
        self._runner().count()
        before = random_state.current()
        known = dict(zip(self.plan.sources, lifted, strict=True))
        values = run_plan(self.plan, known, self._tree(), self._call.with_arrays(inputs), weights)
        if not self._draws and not random_state.same(before):
            raise _Draws(before)
        if all(isinstance(value, ARRAY) for value in values):
            return values
        self._template = values = list(values)
        return arrays_in(values)


def arrays_in(values: list[Any]) -> list[mx.array]:
    """The arrays of a trace's values.  Raises: Unreachable where there are others, hidden."""
    hidden = hiding(values)
    if hidden is not None:
        raise Unreachable(
            "it gives an object that keeps arrays where a compiled run cannot put its own, a"
            f" {type(hidden).__name__}"
        )
    return [value for value in leaves(values) if isinstance(value, ARRAY)]


def _tracing(run: PreparedRun) -> Callable[..., list[mx.array]]:
    """What `mx.compile` is given: it does not keep the run, which keeps what is compiled."""
    alive = weakref.ref(run)

    def trace(*given: list[mx.array]) -> list[mx.array]:
        run = alive()
        assert run is not None  # it is what called
        return run._trace(*given)

    return trace


def with_arrays(template: list[Any], arrays: list[mx.array]) -> list[Any]:
    """Saves of nested values, put together again around the compiled forward's arrays."""
    rest = iter(arrays)
    filled = [next(rest) if isinstance(v, ARRAY) else v for v in leaves(template)]
    return unflatten(template, filled)


def _as_input(node: Node, constants: Sequence[Any], params: Mapping[str, Any]) -> mx.array:
    value = params[node.args[0]] if node.op == ops.PARAM else constants[node.args[0]]
    return value if isinstance(value, ARRAY) else ARRAY(value)
