"""The forwards of a generation: a graph of the whole text, done to one window of it after another.

In: a graph that was recorded on the whole text, the windows as they come.  Out: what the model
returns, and the saves of each forward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import mlx.core as mx

from mlxgraph.errors import PartOfTextError
from mlxgraph.evaluate.values import NodeFailure, source_values
from mlxgraph.graph import ops
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.held import Along, Window
from mlxgraph.graph.nested import leaves
from mlxgraph.graph.node import Node, site_node
from mlxgraph.graph.site import Site
from mlxgraph.graph.values import dtype_name
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.probes import begin
from mlxgraph.record.gather import own_part
from mlxgraph.record.recording import Recording
from mlxgraph.rewrite.positions import About, Keep, Save, Text
from mlxgraph.run.along import HAD, NEW, axes_of, kept_axis, of_all_so_far, over_keys
from mlxgraph.run.cache import Recent
from mlxgraph.run.call import Call, describe_call
from mlxgraph.run.compiled_step import CompiledStep
from mlxgraph.run.engine import Engine
from mlxgraph.run.long_run import LongRun, as_traced, check_reached, to_the_end
from mlxgraph.run.parts import check_parts
from mlxgraph.run.plan import Plan, make_plan
from mlxgraph.run.short_cache import census_with_cache
from mlxgraph.trace.execute import failure_said
from mlxgraph.trace.indices import line_of
from mlxgraph.trace.same_form import Used

MOST_PLANS = 64


def text_call(length: int, rows: int = 1) -> Call:
    """A call of the whole text that is to be recorded on: what its tokens are, nobody asks."""
    tokens = mx.zeros((rows, length), mx.int32)
    return describe_call((tokens,), {}, tokens=tokens, lengths=[length] * rows)


class _Planned:
    """What one kind of window does, and whether a forward of it was looked at.

    Attributes:
        lowered: a `Lowered`, or the `Joined` of several texts.
        counted: sites of which keys are counted from the text's first.
    """

    __slots__ = ("lowered", "plan", "counted", "checked", "known", "step")

    def __init__(self, lowered: Any, plan: Plan | None, counted: dict[Site, Any]):
        self.lowered = lowered
        self.plan = plan
        self.counted = counted
        self.checked = False
        self.step: CompiledStep | None = None
        self.known: dict[Node, Any] | None = None  # what its sources are worth, where that stays


class Forwards:
    """A recorded graph, to be done to one window of its text after another.

    Args: recording: that the graph is of, on a text of `length` tokens; params: values by name;
        unrelated: whether forwards may be those of different texts; compile: whether a step that
        goes on for ever is to be compiled where that can be done.
    """

    def __init__(
        self,
        engine: Engine,
        recording: Recording,
        graph: Graph,
        params: Mapping[str, Any],
        length: int,
        rows: int = 1,
        unrelated: bool = False,
        compile: bool = False,
    ):
        self.graph = graph
        self._engine = engine
        if engine.runner.tree.is_spread:
            check_parts(engine.runner.tree, graph, own_part)
        self._params = params
        self._census = recording.census
        self._length = length
        self._rows = rows
        self._used = Used(graph)
        self._kinds = {node: _kind(recording, node) for node in graph.nodes()}
        self._keeps: dict[Any, Any] = {}
        self._axes: dict[Site, Any] = {}
        self._plans: Recent[Any, _Planned] = Recent(MOST_PLANS)
        self._memory: dict[Any, Any] = {}
        self._parts: dict[Any, dict[tuple[int, ...], Any]] = {}
        asked = (self._kept_axis, self._numbers, length, self._over_keys)
        about = About(self._kinds.get, self.axes_of, *asked)
        self.text = Text(graph, about)
        inside = any(self._census.is_inside(site) for site in graph.sites)
        hooked = self._census.of_modules() if inside else graph.sites
        self._hooked = {site.path for site in hooked}
        self._long: LongRun | None = None
        self._settled: _Planned | None = None
        self._unrelated = unrelated
        self._compile = compile

    # -- what the text's graph asks ---------------------------------------------------------------

    def axes_of(self, site: Site) -> Any:
        """Which axis of a site's value is that of the positions, as `along.axes_of` says it."""
        if site not in self._axes:
            longer = self._engine.runner.census(text_call(self._length + 1, self._rows))
            inside = self._census.is_inside(site)
            if inside:
                longer.look_inside()
            axes = axes_of(site, self._length, self._census, longer)
            if inside or any(isinstance(one, frozenset) for one in leaves(axes)):
                short = census_with_cache(self._engine.runner, self._rows, HAD, NEW)
                axes = axes if short is None else of_all_so_far(site, axes, short)
            self._axes[site] = axes
        return self._axes[site]

    def _kept_axis(self, node: Node, axes: Mapping[Node, int]) -> int | None:
        return self._tried(kept_axis, node, axes)

    def _over_keys(
        self, node: Node, axes: Mapping[Node, tuple[int, float | None]]
    ) -> tuple[int | None, float] | None:
        return self._tried(over_keys, node, axes)

    def _tried(self, how: Callable[..., Any], node: Node, axes: Mapping[Node, Any]) -> Any:
        key = (how, node, tuple(axes.items()))
        if key not in self._keeps:
            sources = [child for child in node.inputs if child.op in (ops.CONSTANT, ops.NUMBER)]
            given = source_values(sources, self.graph.constants, {})
            modules = self._engine.runner.modules
            self._keeps[key] = how(node, axes, self._kinds.get, modules, given)
        return self._keeps[key]

    def _numbers(self, node: Node) -> list[int] | None:
        if node.op != ops.CONSTANT:
            return None
        array = self.graph.constants[node.args[0]]
        if array.ndim != 1 or not mx.issubdtype(array.dtype, mx.integer):
            return None
        return array.tolist()

    # -- one forward ------------------------------------------------------------------------------

    def __call__(
        self, window: Window, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[Any, list[tuple[Save, Any]]]:
        """What the model returns for the tokens of a window, and the saves, lazy.

        Raises: PartOfTextError, and whatever the model raises.
        """
        planned = self._settled
        if planned is None or not self.text.is_settled(window):
            planned = self._planned(window)
        return self._run(planned, args, kwargs, window.stop)

    def _run(
        self, planned: _Planned, args: tuple, kwargs: dict[str, Any], stop: int
    ) -> tuple[Any, list[tuple[Any, Any]]]:
        lowered, plan = planned.lowered, planned.plan
        long = self._copies()
        if plan is None:
            return long.forward(None, {}, args, kwargs)[0], []
        known = self._sources(planned, plan)
        step = self._compiled_step(planned, plan, args, kwargs)
        found = None if step is None else step(args, kwargs, known)
        if step is not None and found is not None and step.is_sure(found[1]):
            output, values = step.take(*found)
            return output, self._kept(lowered, values)
        check = partial(self._check_keys, stop, planned.counted) if planned.counted else None
        try:
            output, values, run = long.forward(plan, known, args, kwargs, check)
        except NodeFailure as failure:
            raise failure_said(failure, self.graph) from failure.error
        if step is not None and found is not None:
            step.compare(found[0], output, found[1])
        if not planned.checked:
            self._check(plan, run, args[0].shape)
            planned.checked = True
        return output, self._kept(lowered, values)

    def _compiled_step(
        self, planned: _Planned, plan: Plan, args: tuple, kwargs: dict[str, Any]
    ) -> CompiledStep | None:
        """The step as it is compiled, where that is asked for and may be done with this call."""
        if not self._compile or planned is not self._settled or planned.counted:
            return None
        if planned.step is None:
            tree = self._engine.runner.tree
            planned.step = CompiledStep(tree, frozenset(self._hooked), plan)
        return planned.step if planned.step.fits(args, kwargs) else None

    def _kept(self, lowered: Any, values: list[Any]) -> list[tuple[Any, Any]]:
        """What is saved in a forward; what later ones ask for is remembered."""
        if not values:
            return []
        count = len(lowered.saves)
        for keep, value in zip(lowered.keep, values[count:], strict=True):
            self._remember(*self._named(keep), value)
        _begin(values)
        return list(zip(lowered.saves, values[:count], strict=True))

    def _copies(self) -> LongRun:
        """The copies of the modules, with the weights as they are now."""
        long = self._long
        if long is None or not long.is_of_now():
            self._long = long = LongRun(self._engine.runner.refresh(), self._hooked)
        return long

    def _sources(self, planned: _Planned, plan: Plan) -> dict[Node, Any]:
        known = planned.known
        if known is None:
            params = {**self._params, **self._asked(planned.lowered)}
            known = source_values(plan.sources, self.graph.constants, params)
            if not planned.lowered.asks:
                planned.known = known
        return dict(known)

    def _planned(self, window: Window) -> _Planned:
        key = self.text.key(window)
        known = self._plans.get(key)
        if known is None:
            lowered = self.text.at(window)
            known = self._made(lowered, lowered.keep, lowered.saves, lowered.counted)
            if not lowered.exact:
                self._plans.put(key, known)
        if not known.lowered.exact and self.text.is_settled(window):
            self._settled = known
        return known

    def _made(
        self, lowered: Any, keep: Sequence[Keep], saves: Sequence[Save], counted: bool = False
    ) -> _Planned:
        wanted = [*[save.node for save in saves], *[one.value for one in keep]]
        if not wanted and not lowered.writes:
            return _Planned(lowered, None, {})
        graph = self.graph.replace(writes=lowered.writes, saves=(), then=())
        plan = make_plan(graph, as_traced(self._census), [*wanted, site_node("")])
        axes = {site: self.axes_of(site) for site in plan.stops} if counted else {}
        keys = {site: found for site, found in axes.items() if _has_keys(found)}
        return _Planned(lowered, to_the_end(plan), keys)

    @staticmethod
    def _named(keep: Any) -> tuple[Any, Keep]:
        """What is kept, and the name that it is asked for by."""
        return keep.known, keep

    def _remember(self, name: Any, keep: Keep, value: Any) -> None:
        """Keep what a later forward will ask for; of parts in several forwards, put together."""
        if keep.axis is None:
            self._memory[name] = value
            return
        parts = self._parts.setdefault(name, {})
        parts[keep.here] = value
        order = [number for here in parts for number in here]
        if len(order) == keep.of:
            whole = mx.concatenate(list(parts.values()), axis=keep.axis)
            places = mx.array(sorted(range(len(order)), key=order.__getitem__))
            self._memory[name] = mx.take(whole, places, axis=keep.axis)

    def _asked(self, lowered: Any) -> dict[str, Any]:
        found = {}
        for param, known in lowered.asks.items():
            if known not in self._memory:
                node = known if type(known) is Node else known[1]
                what = "no forward of this generation was given: it was in the prompt cache before"
                raise PartOfTextError(
                    "a token is read that "
                    + ("another call was given, of whichever text" if self._unrelated else what),
                    line_of(self.graph, node),
                    "Write model.generate(prompt) with the whole prompt, and no prompt_cache that"
                    " holds a part of it.",
                )
            found[param.args[0]] = self._memory[known]
        return found

    def _check(self, plan: Plan, run: Any, shape: tuple[int, ...]) -> None:
        """Once for a plan: whether the forward is what the graph takes it for."""
        check_reached(plan, run, lambda site: line_of(self.graph, site_node(*site)))
        for site in plan.read:
            value = run.values.known.get(site_node(*site))
            axes = self.axes_of(site)
            if value is None or axes is None:
                continue
            recorded = self._census.values[site]
            if not self._used.is_as_recorded(site, value, recorded, axes, shape, self._rows):
                raise self._other_form(site)

    def _check_keys(self, stop: int, counted: dict[Site, Any], site: Site, value: Any) -> None:
        """Whether what a forward has of all tokens so far begins with the text's first."""
        axes = counted.get(site)
        if axes is None:
            return
        for array, axis in zip(leaves(value), leaves(axes), strict=False):
            if not isinstance(axis, Along) or not isinstance(array, ARRAY):
                continue
            size = array.shape[axis.grown] if array.ndim >= -axis.grown else 0
            if size != stop:
                raise PartOfTextError(
                    f"{site.spoken} is of {size} tokens where the text has {stop}: the cache"
                    " has dropped some, or turned them, and a position is no longer where it was",
                    line_of(self.graph, site_node(*site)),
                    "Generate no further than the cache holds (max_kv_size=, the sliding window of"
                    " this layer), edit another layer, or edit each key alike,"
                    " `attn.pattern[:, 3] = 0`.",
                )

    def _other_form(self, site: Site) -> PartOfTextError:
        return PartOfTextError(
            f"{site.spoken} has another form in a forward of this generation than in one on the"
            " whole text",
            line_of(self.graph, site_node(*site)),
            "Read or edit it where its axes are the same for one token and for many.",
        )


def _has_keys(axes: Any) -> bool:
    return any(isinstance(axis, Along) for axis in leaves(axes))


def _kind(recording: Recording, node: Node) -> tuple[tuple[int, ...], str] | None:
    info = recording.infos.get(node)
    if info is None or not isinstance(info.value, ARRAY):
        return None
    return tuple(info.value.shape), dtype_name(info.value.dtype)


def _begin(values: list[Any]) -> None:
    """Begin to compute what is kept: lazy, it would hold on to the whole forward."""
    arrays = [one for one in leaves(values) if isinstance(one, ARRAY)]
    if arrays:
        begin(arrays)
