"""The runner: what was worked out about one model, and runs on it.

A prepared run is known by the graph's structure, the call's key and the stream it runs on; the
values of arrays and numbers are its inputs, as are the weights, so new vectors and training never
trigger recompilation.  A structure that comes for the first time runs eagerly, the second time it
is compiled.  What is kept is bounded; what was used longest ago goes first.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import mlx.nn as nn

from mlxgraph.errors import CompileError, MLXGraphError
from mlxgraph.evaluate.values import NodeFailure
from mlxgraph.graph.census import Census
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.buffers import SeenWeights
from mlxgraph.mlx_facts.compiling import stream_name, switched_off
from mlxgraph.mlx_facts.probes import says_followed, says_holds_nothing
from mlxgraph.run import last_layer, pushdown, token_gradients
from mlxgraph.run.cache import Recent
from mlxgraph.run.call import Call, Forward
from mlxgraph.run.census import look_with, take_census
from mlxgraph.run.filled import filled_now
from mlxgraph.run.no_input import raise_no_input
from mlxgraph.run.padded import check_masks, padded_forward
from mlxgraph.run.plan import make_plan, reach
from mlxgraph.run.prepared import PreparedRun
from mlxgraph.run.standin import StandIn
from mlxgraph.run.tree import ModuleTree
from mlxgraph.run.turned import and_inside, is_causal, note_axes, turned_forward
from mlxgraph.run.two_passes import AtPositions

CompileMode = bool | Literal["auto"]
MOST_PREPARED = 256
MOST_CENSUSES = 64
MOST_OF_FUNCTIONS = 4


class Runner:
    """Runs graphs on one model.  Keeps no state of a run, only what was worked out about it."""

    def __init__(self, root: nn.Module):
        self.root = root
        self.added: dict[str, nn.Module] = {}
        self.compilations = 0
        self.prepared: Recent[Any, PreparedRun] = Recent(MOST_PREPARED)
        self.of_functions: Recent[Any, PreparedRun] = Recent(MOST_OF_FUNCTIONS)
        self._censuses: Recent[Any, Census] = Recent(MOST_CENSUSES)
        self.texts: Recent[Any, bool] = Recent(MOST_CENSUSES)  # is an array of one axis one text?
        self._cuts: Recent[Any, bool] = Recent(MOST_CENSUSES)
        self.with_cache: Recent[Any, tuple] = Recent(MOST_OF_FUNCTIONS)  # see run.short_cache
        self.batches: Recent[Any, Any] = Recent(MOST_OF_FUNCTIONS * 4)  # see sweep.batch
        self.certain: Recent[Any, Any] = Recent(MOST_CENSUSES)  # see sweep.certain
        self.prefixes: Recent[Any, tuple] = Recent(MOST_CENSUSES)  # see run.prefix
        self.kept: Any = None  # see trace.reuse
        self._seen: SeenWeights | None = None
        self.tree = ModuleTree(root, {})  # as it was when last checked
        self._ragged: tuple[ModuleTree, Forward] | None = None
        self._last: last_layer.LastLayer | None = None

    # -- the model as it is -----------------------------------------------------------------------

    def refresh(self) -> ModuleTree:
        """The module tree as it is now; exchanged modules make all that was known void."""
        if not self.tree.holds():
            self._replant()
        return self.tree

    def _replant(self) -> None:
        self.forget()  # first: an interrupt here leaves a tree that is found not to hold, again
        self.tree = ModuleTree(self.root, self.added)
        self.forget()

    def forget(self) -> None:
        """Let go of everything that was worked out about the model."""
        self._censuses.clear()
        self.with_cache.clear()
        self.prefixes.clear()
        self.kept = self._seen = None
        self.prepared.clear()
        self.of_functions.clear()
        self._cuts.clear()
        self.certain.clear()
        self.batches.clear()
        self.texts.clear()
        self._ragged = self._last = None

    def weights_seen(self) -> SeenWeights | None:
        """The weights as they are, in place too: the same object for as long as they are the same.

        What was tried with others is let go of.  None where a transformation follows them.
        """
        weights = self.tree.weights()
        try:
            if self._seen is not None and self._seen.are(weights):
                return self._seen
            self._seen = self.kept = None  # first: the old ones go before there are others
            self.certain.clear()
            self.prefixes.clear()
            self._seen = SeenWeights(weights)
        except (RuntimeError, ValueError) as error:
            if not (says_followed(error) or says_holds_nothing(error)):
                raise
            self._seen = None
        return self._seen

    def add(self, name: str, module: nn.Module) -> None:
        """Give a module that is no part of the model a path in the tree."""
        self.added[name] = module
        self._replant()

    def take_away(self, name: str) -> None:
        """Let go of a module that was added."""
        del self.added[name]
        self._replant()

    def modules(self) -> Mapping[str, Any]:
        """Copies of the modules without hooks, with the weights of now, by path: to call one.

        They are not kept, since they would keep the weights.
        """
        return StandIn(self.tree, (), _no_hook).modules

    # -- what a forward visits --------------------------------------------------------------------

    def census(self, call: Call) -> Census:
        """Which sites a forward with such inputs visits; taken once for each kind of call.

        The tree is taken to be as it was at the last `refresh`.
        """
        tree = self.tree
        key = (call.key, self.root.training)
        known = self._censuses.get(key) if call.plain else None
        if known is None:
            try:
                known = take_census(tree, call)
                if call.turned:
                    note_axes(known, call, partial(take_census, tree))
                    and_inside(known, call, partial(take_census, tree))
            except Exception as error:
                raise_no_input(call.args, call.kwargs, error, tree.modules.values())
                raise
            if known.traceable:  # what branches on values may go another way next time
                self._censuses.put(key, known)
        return known

    def look_again_with(self, census: Census, call: Call) -> None:
        """A census whose call carries state looks inside modules by another: its state as it was
        when the census was taken."""
        if census.look is not None and not (call.plain and census.traceable):
            look_with(census, self.tree, call)

    def runs_on(self, call: Call) -> bool:
        """Whether a forward with such inputs raises nothing."""
        try:
            self.census(call)
        except Exception:  # whatever the model's own code raises
            return False
        return True

    def ragged_forward(self) -> Forward:
        """How rows of several lengths are run: masked, or else turned.  Asked once for a tree.

        Raises: InputError where the model's numbers would depend on the padding either way.
        """
        if self._ragged is not None and self._ragged[0] is self.tree:
            return self._ragged[1]
        chosen: Forward = padded_forward
        try:
            root = StandIn(self.tree, (), _no_hook, filled_now(self.tree.weights())).root
            check_masks(root)
        except ValueError as error:
            if says_followed(error):
                return chosen  # nothing can be evaluated here; the next call outside asks again
            if not is_causal(root):
                raise
            chosen = turned_forward
        self._ragged = self.tree, chosen
        return chosen

    # -- preparing --------------------------------------------------------------------------------

    def key(self, graph: Graph, saves: tuple[Node, ...], call: Call, rewrites: frozenset) -> Any:
        """What tells apart the prepared runs of one model; None where none may be kept."""
        if not call.plain:
            return None
        return (
            frozenset(graph.writes),
            saves,
            call.key,
            self.root.training,
            stream_name(),
            rewrites,
        )

    def tried(self, graph: Graph, wanted: tuple[Node, ...], call: Call, rewrites: frozenset) -> str:
        """Why a run could not be compiled, if that was found out."""
        key = self.key(graph, wanted, call, rewrites)
        made = None if key is None else self.prepared.get(key)
        return "" if made is None else made.failure

    def prepare(
        self,
        key: Any,
        graph: Graph,
        saves: Sequence[Node],
        census: Census,
        call: Call,
        compile: CompileMode = "auto",
        last: AtPositions | None = None,
        in_blocks: bool = False,
    ) -> PreparedRun:
        """Plan a run of a graph as it stands, and keep it under a key.

        Python functions live as long as what is kept, with all they capture; so a run that calls
        some is kept only where it is to be compiled, and then not for long.
        """
        plan = make_plan(graph, census, saves, last, in_blocks=in_blocks)
        made = PreparedRun(plan, census, call, weakref.ref(self))
        outside = self.tree.untraceable()
        if outside:
            made.stay_eager(outside)
        if key is not None and census.traceable:
            if not plan.opaque:
                self.prepared.put(key, made)
            elif compile is True:
                self.of_functions.put(key, made)
        return made

    def count(self) -> None:
        """One compilation more."""
        self.compilations += 1

    def pushed(
        self, graph: Graph, saves: Sequence[Node], census: Census, call: Call, proven: bool = False
    ) -> pushdown.Pushed | None:
        """The graph with its slice of the output pushed down, if that is sure to be the same.

        Args: proven: whether `at_last` saw that what follows the cut does with these positions.
        """
        pushed = pushdown.push_down(graph, saves, census, self.tree)
        if pushed is None or proven:
            return pushed
        key = (call.key, self.root.training, pushed.cut)
        sure = self._cuts.get(key)
        if sure is None:
            sure = self._cuts.put(key, pushdown.holds(pushed.cut, census, self.tree, call))
        return pushed if sure else None

    @property
    def last_layer(self) -> last_layer.LastLayer:
        """What is known of the last block, as the tree is now."""
        if self._last is None or self._last.tree is not self.tree:
            self._last = last_layer.LastLayer(self.tree)
        return self._last

    def at_last(
        self, graph: Graph, saves: Sequence[Node], census: Census, call: Call
    ) -> tuple[pushdown.Pushed, AtPositions] | None:
        """The graph whose last block gives the wanted positions alone, and how that is run; None
        where it is not sure to be the same."""
        pushed = pushdown.push_down(graph, saves, census, self.tree)
        path = pushed and self.last_layer.block(census)
        if not pushed or not path:
            return None
        if not last_layer.left_alone(reach(graph, census, saves), census, path):
            return None
        at = self.last_layer.at(census, call, pushed.cut.start, pushed.cut.stop)
        if at is None:
            return None
        return pushed._replace(graph=last_layer.without_cut(pushed.graph, at)), at

    # -- running ----------------------------------------------------------------------------------

    def run(
        self,
        made: PreparedRun,
        call: Call,
        constants: Sequence[Any],
        params: Mapping[str, Any],
        compile: CompileMode = "auto",
    ) -> list[Any]:
        """The values of a prepared run's saves, lazy, in one forward.

        Args: compile: `"auto"` compiles what comes a second time; True and False force it.
        Raises: CompileError, NodeFailure, and whatever the model raises.
        """
        if token_gradients.differentiated_ids(call):
            values = self._values(made, token_gradients.cut_ids(call), constants, params, compile)
            return token_gradients.tied_to_ids(call, values)
        return self._values(made, call, constants, params, compile)

    @staticmethod
    def _values(
        made: PreparedRun,
        call: Call,
        constants: Sequence[Any],
        params: Mapping[str, Any],
        compile: CompileMode,
    ) -> list[Any]:
        if not _wants_compile(made, compile):
            return made.eager(call, constants, params)
        try:
            return made.compiled(call, constants, params)
        except Exception as error:
            if compile is True and isinstance(error, (MLXGraphError, NodeFailure)):
                raise
            failure = error
        before = random_state.current()
        values = made.eager(call, constants, params)  # raises what is wrong without compiling too
        if compile is True:
            random_state.restore(before)
            said = str(failure).split("\n")[0] or type(failure).__name__
            raise _untraceable(said) from failure
        reason = (
            "the forward looks at a value, a weight's perhaps" if says_followed(failure) else ""
        )
        made.stay_eager(reason or str(failure).split("\n")[0] or type(failure).__name__)
        return values


def _wants_compile(made: PreparedRun, compile: CompileMode) -> bool:
    if compile is True:
        if not made.compilable:
            off = switched_off()
            if off:
                raise CompileError(
                    f"nothing can be compiled: {off} has switched mx.compile off.\n"
                    "  Write compile=False or leave it out; or switch compiling on, and load the"
                    " model anew."
                )
            raise _untraceable(
                made.failure or "it looks at values while it runs, or takes a stateful input"
            )
        return True
    if compile is False or not made.compilable or made.plan.opaque:
        return False
    return made.runs > 0 or made.is_compiled


def _no_hook(path: str, original: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    return original(*args, **kwargs)


def _untraceable(reason: str) -> CompileError:
    return CompileError(
        f"this pass cannot be compiled: {reason}\n  Write compile=False, or leave it out."
    )
