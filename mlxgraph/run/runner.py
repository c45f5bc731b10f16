"""The runner: from a graph and inputs to arrays, through a cache of compiled passes.

A pass is known by the graph's structure, the inputs' signature and the stream it runs on; the
values of arrays and numbers are its inputs, as are the weights, so new vectors and training do
not compile anew.  A structure that comes for the first time runs eagerly, the second time it is
compiled.  Both caches are bounded; what was used longest ago goes first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, TypeVar

import mlx.core as mx
import mlx.nn as nn

from mlxgraph.errors import CompileError, ShapeError
from mlxgraph.graph.census import Census
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.listing import around
from mlxgraph.graph.nested import leaves, unflatten
from mlxgraph.graph.node import PARAM, Node
from mlxgraph.mlx_facts import random_state
from mlxgraph.run import pushdown, token_gradients
from mlxgraph.run.call import Call, fill, untouched, without_values
from mlxgraph.run.census import take_census
from mlxgraph.run.forward import Forward, call_model, run_plan
from mlxgraph.run.ops import NodeFailure, bind_leaves
from mlxgraph.run.padded import check_masks, padded_forward
from mlxgraph.run.plan import Plan, make_plan
from mlxgraph.run.standin import StandIn
from mlxgraph.run.tree import ModuleTree

_compile = mx.compile  # MLX's own, also while a block is open

CompileMode = bool | Literal["auto"]
Simplify = Callable[[Graph, Sequence[Node], frozenset[str]], tuple[Graph, Sequence[Node]]]
MOST_PASSES = 256
MOST_CENSUSES = 64

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A bounded mapping that forgets what was used longest ago."""

    def __init__(self, most: int):
        self.most = most
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        with self._lock:
            value = self._entries.get(key)
            if value is not None:
                self._entries.move_to_end(key)
            return value

    def put(self, key: K, value: V) -> V:
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            while len(self._entries) > self.most:
                self._entries.popitem(last=False)
            return value

    def drop(self, key: K) -> None:
        with self._lock:
            self._entries.pop(key, None)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)


class Pass:
    """One graph on one kind of input: its plan, and its compiled form once there is one."""

    def __init__(self, runner: Runner, plan: Plan, census: Census, call: Call, forward: Forward):
        self.plan = plan
        self.census = census
        self.runs = 0
        self.asked: tuple[Node, ...] = plan.saves  # before any pass
        self.passes: frozenset[str] = frozenset()
        self.compilable = census.traceable and call.plain
        self._runner = runner
        # Kept for the trace only: which places of the inputs hold arrays, and what the others are.
        self._call = without_values(call)
        self._forward = forward
        self._compiled: Any = None
        self._template: Any = None
        self._draws = plan.draws or census.draws

    def eager(self, call: Call, constants: Sequence[Any], params: dict[str, Any]) -> list[Any]:
        """Run the forward in Python; the saves come back lazy."""
        known = bind_leaves(self.plan.leaves, constants, params)
        return run_plan(self.plan, known, self._runner.tree, self._forward, call.args, call.kwargs)

    def compiled(self, call: Call, constants: Sequence[Any], params: dict[str, Any]) -> list[Any]:
        """Replay the compiled forward, compiling it first if need be."""
        if self._compiled is None:
            state = {"inputs": mx.random.state, "outputs": mx.random.state} if self._draws else {}
            self._compiled = _compile(self._trace, **state)
        lifted = [_as_input(node, constants, params) for node in self.plan.leaves]
        key = random_state.current() if self._draws else None
        try:
            arrays = self._compiled(self._runner.tree.weights(), call.arrays, lifted)
        except BaseException:
            self._compiled = None  # a trace that failed leaves a compiled function unusable
            if key is not None:
                random_state.restore(key)
            raise
        if self._template is None:
            return arrays
        return unflatten_saves(self._template, arrays)

    def _trace(
        self, weights: list[mx.array], inputs: list[mx.array], lifted: list[mx.array]
    ) -> list[mx.array]:
        """What `mx.compile` traces: the forward over tracers, its saves as a flat list."""
        self._runner.compilations += 1
        known = dict(zip(self.plan.leaves, lifted, strict=True))
        args, kwargs = fill(self._call, inputs)
        values = run_plan(self.plan, known, self._runner.tree, self._forward, args, kwargs, weights)
        if all(isinstance(value, mx.array) for value in values):
            return values
        self._template = values = list(values)
        return [value for value in leaves(values) if isinstance(value, mx.array)]


def unflatten_saves(template: list[Any], arrays: list[mx.array]) -> list[Any]:
    """Saves of nested values, put together again around the compiled pass's arrays."""
    rest = iter(arrays)
    filled = [next(rest) if isinstance(v, mx.array) else v for v in leaves(template)]
    return unflatten(template, filled)


def _as_input(node: Node, constants: Sequence[Any], params: dict[str, Any]) -> mx.array:
    value = params[node.args[0]] if node.op == PARAM else constants[node.args[0]]
    return value if isinstance(value, mx.array) else mx.array(value)


class Runner:
    """Runs graphs on one model.  Keeps no state of a run, only what was worked out about it."""

    def __init__(
        self,
        root: nn.Module,
        simplify: Simplify | None = None,
        passes: frozenset[str] = frozenset(),
    ):
        """`passes` are used where a run names none; `simplify` does those that rewrite a graph."""
        self.root = root
        self.passes = passes
        self._simplify = simplify
        self.added: dict[str, nn.Module] = {}
        self.compilations = 0
        self._tree: ModuleTree | None = None
        self._censuses: Recent[Any, Census] = Recent(MOST_CENSUSES)
        self._passes: Recent[Any, Pass] = Recent(MOST_PASSES)
        self._cuts: Recent[Any, bool] = Recent(MOST_CENSUSES)
        self._bare: tuple[ModuleTree, StandIn] | None = None
        self._padding_checked: ModuleTree | None = None
        self._lock = threading.RLock()

    @property
    def tree(self) -> ModuleTree:
        """The module tree as it was when last checked."""
        return self._tree if self._tree is not None else self.refresh()

    def refresh(self) -> ModuleTree:
        """The module tree as it is now; exchanged modules make all that was known void."""
        with self._lock:
            if self._tree is None or not self._tree.holds():
                self._tree = ModuleTree(self.root, self.added)
                self._censuses.clear()
                self._passes.clear()
                self._cuts.clear()
            return self._tree

    def add(self, name: str, module: nn.Module) -> None:
        """Give a module that is no part of the model a place in the tree."""
        with self._lock:
            self.added[name] = module
            self._tree = None

    def bare(self) -> StandIn:
        """Stand-ins without hooks, to try a module on placeholders."""
        tree = self.tree
        if self._bare is None or self._bare[0] is not tree:
            self._bare = (tree, StandIn(tree, (), _no_hook))
        return self._bare[1]

    def _check_padding(self, tree: ModuleTree) -> None:
        """Once for a tree: a model that cannot hide padding must not be given any."""
        if self._padding_checked is tree:
            return
        try:
            check_masks(self.bare().root)
        except ValueError as error:
            if "graph transformation" in str(error):
                return  # nothing can be evaluated here; the next trace outside of it asks again
            raise
        self._padding_checked = tree

    def census(self, call: Call, forward: Forward = call_model, kind: Any = None) -> Census:
        """Which sites a forward with such inputs visits; taken once per kind of input.

        The tree is taken to be as it was at the last `refresh`.
        """
        tree = self.tree
        key = (call.key, kind, self.root.training)
        known = self._censuses.get(key) if call.plain else None
        if known is None:
            if forward is padded_forward:
                self._check_padding(tree)
            args, kwargs = untouched(call)
            known = take_census(tree, forward, args, kwargs, traceable=call.plain)
            if known.traceable:  # what branches on values may go another way next time
                self._censuses.put(key, known)
        return known

    def run(
        self,
        graph: Graph,
        call: Call,
        saves: Sequence[Node] | None = None,
        params: dict[str, Any] | None = None,
        compile: CompileMode = "auto",
        forward: Forward = call_model,
        kind: Any = None,
        census: Census | None = None,
        passes: frozenset[str] | None = None,
    ) -> list[Any]:
        """The values of `saves` (the graph's own if left out), lazy, in one forward.

        Args:
            call: the forward's inputs.
            params: values for the graph's holes.
            compile: `"auto"` compiles a structure that comes a second time; True and False force.
            kind: tells apart forwards that share inputs but not meaning (padded batches).
            passes: the names of the passes to simplify with; the runner's own if left out.
        """
        passes = self.passes if passes is None else passes
        made = self._pass(graph, call, saves, forward, kind, census, passes)
        params = params or {}
        if token_gradients.differentiated_ids(call):
            cut = token_gradients.cut_ids(call)
            return token_gradients.tied_to_ids(
                call, self._values(made, cut, graph, params, compile)
            )
        return self._values(made, call, graph, params, compile)

    def _values(
        self,
        made: Pass,
        call: Call,
        graph: Graph,
        params: dict[str, Any],
        compile: CompileMode,
    ) -> list[Any]:
        try:
            if self._wants_compile(made, compile):
                return made.compiled(call, graph.constants, params)
            made.runs += 1
            return made.eager(call, graph.constants, params)
        except NodeFailure as failure:
            raise _said(failure, self._as_run(made, graph)) from failure.error
        except ValueError as error:
            if compile is True and "eval" in str(error):
                raise _untraceable(str(error)) from error
            raise

    def _as_run(self, made: Pass, graph: Graph) -> Graph:
        """The graph that a pass runs, lines of the user's included, to show what failed in it."""
        if self._simplify is None or not made.passes:
            return graph
        return self._simplify(graph, made.asked, made.passes)[0]

    def _pass(
        self,
        graph: Graph,
        call: Call,
        saves: Sequence[Node] | None,
        forward: Forward,
        kind: Any,
        census: Census | None,
        passes: frozenset[str],
    ) -> Pass:
        nodes = tuple([node for _, node in graph.saves] if saves is None else saves)
        if not call.plain:
            census = census or self.census(call, forward, kind)
            return Pass(self, make_plan(graph, census, nodes), census, call, forward)
        stream = repr(mx.default_stream(mx.default_device()))
        key = (frozenset(graph.writes), nodes, call.key, kind, self.root.training, stream, passes)
        made = self._passes.get(key)
        if made is None:
            census = census or self.census(call, forward, kind)
            plan = self.planned(graph, nodes, census, call, forward, kind, passes)
            made = Pass(self, plan, census, call, forward)
            made.asked, made.passes = nodes, passes
            if census.traceable:
                self._passes.put(key, made)
        return made

    def planned(
        self,
        graph: Graph,
        saves: Sequence[Node],
        census: Census,
        call: Call,
        forward: Forward,
        kind: Any,
        passes: frozenset[str],
    ) -> Plan:
        """The plan of a graph simplified by some passes.

        What is wrong with the graph raises as it was written, before any pass.
        """
        plan = make_plan(graph, census, saves)
        if not passes:
            return plan
        if self._simplify is not None:
            graph, saves = self._simplify(graph.replace(writes=plan.writes.items()), saves, passes)
            plan = make_plan(graph, census, saves)
        if pushdown.NAME in passes:
            pushed = self.pushed(graph, plan, census, call, forward, kind)
            plan = plan if pushed is None else make_plan(pushed.graph, census, pushed.saves)
        return plan

    def pushed(
        self, graph: Graph, plan: Plan, census: Census, call: Call, forward: Forward, kind: Any
    ) -> pushdown.Pushed | None:
        """The graph with its slice of the output pushed down, if that is sure to be the same."""
        pushed = pushdown.push_down(graph, plan, census, self.tree)
        if pushed is None:
            return None
        key = (call.key, kind, self.root.training, pushed.cut)
        sure = self._cuts.get(key)
        if sure is None:
            sure = self._cuts.put(key, pushdown.holds(pushed, census, self.tree, call, forward))
        return pushed if sure else None

    @staticmethod
    def _wants_compile(made: Pass, compile: CompileMode) -> bool:
        if compile is True:
            if not made.compilable:
                raise _untraceable("it looks at values while it runs, or takes a stateful input")
            return True
        if compile is False or not made.compilable or made.plan.opaque:
            return False
        return made.runs > 0 or made._compiled is not None


def _no_hook(path: str, original: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    return original(*args, **kwargs)


def _said(failure: NodeFailure, graph: Graph) -> ShapeError:
    """What a node could not compute, with its line and its neighbours in the graph."""
    note = graph.notes.get(failure.node)
    reason = str(failure.error).split("\n")[0]
    return ShapeError(
        f"{failure.node.op.removeprefix('mx.')} does not fit these inputs: {reason}",
        (note and note.where) or "a step of the graph",
        "It was recorded with inputs of another shape; record it again with these.",
        around(graph, failure.node, 2),
    )


def _untraceable(reason: str) -> CompileError:
    return CompileError(
        f"this pass cannot be compiled: {reason}\n  Write compile=False, or leave it out."
    )
