"""`model.sweep`: many variants of an edit on one input, with the answers of a loop of `model.run`.

In: an input, graphs or one graph and values for its params, a metric.  Out: a Sweep, or Effects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from mlxgraph.analysis.effects import Effects
from mlxgraph.analysis.progress import Progress
from mlxgraph.analysis.scores import score_of
from mlxgraph.errors import InputError, MLXGraphError, PlanError, SweepStopped
from mlxgraph.errors.tracebacks import with_edges
from mlxgraph.graph import ops
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.nested import is_container, leaves
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import OUTPUT, Site
from mlxgraph.graph.values import Slice
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.probes import says_followed
from mlxgraph.model.compiled_pass import param_names
from mlxgraph.model.sweep_ranks import DRAWN, agree, sweep_together
from mlxgraph.model.sweep_result import Sweep
from mlxgraph.ranks.in_step import by_all
from mlxgraph.ranks.together import Work
from mlxgraph.record.stack import paused
from mlxgraph.run.call import Call
from mlxgraph.run.engine import Engine
from mlxgraph.sweep.among import among
from mlxgraph.sweep.explained import Forward
from mlxgraph.sweep.schedule import Schedule
from mlxgraph.sweep.variants import Axes, Given, Variant, given_of, variants_of
from mlxgraph.trace.execute import output_of
from mlxgraph.trace.inputs import check_keywords, prepare
from mlxgraph.trace.open_block import refreshed

Metric = str | Callable[..., Any]


def sweep(
    self: Any,
    x: Any,
    graphs: Any,
    *,
    over: Mapping[str, Sequence[Any]] | None = None,
    metric: Metric | None = None,
    batch_size: int | None = None,
    memory_limit: int | None = None,
    progress: bool | None = None,
    **forward_kwargs: Any,
) -> Any:
    """Run many variants of an edit on one input, by as few forwards as that takes.

    Args:
        x: as for `trace`; a tuple for a model that takes several inputs.  Each variant begins from
            it as it was given, a cache among the keywords included, which is left alone.
        graphs: graphs, in a list or by label in a dict; or one graph, with `over`.
        over: values for params of the graph, by name: `{"alpha": [0.0, 1.0]}`; of several, each
            with each, the last one varying fastest.
        metric: what to keep of each variant in place of its saves: a function of one logit vector
            (vocabulary,), float32, of the last position, that gives a number (a score); or of two,
            the variant's and the unedited run's (a distance); or the name of a distance: `"l2"`,
            `"cosine"`, `"mse"`, `"kl"`.
        batch_size: the most variants in one forward; chosen where left out.
        memory_limit: bytes that a forward's activations and logits may take, about; a share of the
            machine's where left out.
        progress: show how far it is (tqdm, on stderr); left out, sweeps of more than a few seconds
            do.
        forward_kwargs: keyword arguments of the model, and values of params that all graphs share.

    Returns: a Sweep, `r[k]["save name"]`; with `metric` Effects, one number a variant.
    Raises: what a run of each graph raises, before anything runs; SweepStopped (a
        KeyboardInterrupt) where it is interrupted, with what is done; InputError for nothing to
        run; ScoreError for a metric that gives no number; PlanError inside `mx.compile` and
        `mx.vmap`, where nothing can be computed.

    Example:
        >>> g = mg.edit("layers.2.mlp", lambda h: h * mg.param("alpha"))
        >>> model.sweep("The capital of France is", g, over={"alpha": [0.0, 0.5, 1.0]}, metric="kl")
    """
    plan = sweep_plan(
        self,
        x,
        graphs,
        over=over,
        metric=metric,
        batch_size=batch_size,
        memory_limit=memory_limit,
        **forward_kwargs,
    )
    return plan.run(progress=progress)


def sweep_plan(
    self: Any,
    x: Any,
    graphs: Any,
    *,
    over: Mapping[str, Sequence[Any]] | None = None,
    metric: Metric | None = None,
    batch_size: int | None = None,
    memory_limit: int | None = None,
    **forward_kwargs: Any,
) -> SweepPlan:
    """What `sweep` will do with the same arguments, as a value; nothing runs.

    Returns: a SweepPlan: `print(plan.explain())`, `plan.run()`.
    """
    limits = batch_size, memory_limit
    return plan_on(self._engine, x, graphs, over, metric, forward_kwargs, limits)


def plan_on(
    engine: Engine,
    x: Any,
    graphs: Any,
    over: Mapping[str, Sequence[Any]] | None,
    metric: Metric | None,
    kwargs: dict[str, Any],
    limits: tuple[int | None, int | None] = (None, None),
) -> SweepPlan:
    """The plan of a sweep.  Args: kwargs: the model's own, and values of shared params."""
    given = given_of(graphs, over)
    every = [*given.graphs, engine.edits]
    named = tuple({name for graph in every for name in graph.params})
    is_param = param_names(named, any(graph.then for graph in every), engine)
    shared = {n: kwargs.pop(n) for n in [*kwargs] if is_param(n)}
    for name in shared:
        if name in given.axes and over is not None:
            raise InputError(
                f"{name!r} has values in over= and another one beside it.\n  Leave one of them out."
            )
    check_keywords(engine.root, kwargs, named)
    inputs = x if isinstance(x, tuple) else (x,)
    with _computing():
        call = prepare(inputs, engine, kwargs)
        refreshed(engine)
        variants = variants_of(engine, call, given, shared)
        score = None if metric is None else score_of(metric)
        return SweepPlan(engine, call, variants, given.axes, score, *limits, shared=shared)


@contextmanager
def _computing() -> Iterator[None]:
    """Raises: PlanError where MLX follows what is done, and computes nothing."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, MLXGraphError) or not says_followed(error):
            raise
        raise PlanError(
            "a sweep computes as it goes, and inside mx.compile and mx.vmap nothing is computed",
            "Write a loop of model.run there, or sweep outside.",
        ) from None


@with_edges
class SweepPlan:
    """What a sweep will do: its variants, in which forwards, on which layers and positions."""

    def __init__(
        self,
        engine: Engine,
        call: Call,
        variants: Sequence[Variant],
        axes: Axes,
        score: Any,
        batch_size: int | None,
        memory_limit: int | None,
        shared: Mapping[str, Any] | None = None,
    ):
        self._engine, self._axes, self._score, self._call = engine, axes, score, call
        self._tree = engine.runner.tree
        self._weights = self._tree.seen_now()
        self._seen = engine.runner.weights_seen()  # None: a transformation follows some
        self._names = [[name for name, _ in variant.graph.saves] for variant in variants]
        wanted = list(variants)
        if score is not None:
            with paused():
                census = engine.runner.census(call)
            wanted = [_scored(one, census) for one in variants]
            self._rows = _rows(census)
            self._effects([mx.array(0.0)])  # labels that are none are none before anything runs
            if score.of_two:
                plain = variants_of(engine, call, Given([Graph()], [{}], {}), shared or {})
                wanted.append(_scored(plain[0], census))
        self._count = len(variants)
        self._cells: list[mx.array | None] = [None] * self._count
        first = self._count if len(wanted) > self._count else None
        self._schedule = Schedule(engine, call, wanted, batch_size, memory_limit, first)

    def __len__(self) -> int:
        return self._count

    def explain(self) -> str:
        """What will be done, and what that saves: a page of text; nothing is computed."""
        return str(self._schedule.told())

    @property
    def forwards(self) -> Sequence[Forward]:
        """The forwards that it takes, each with its variants, rows, positions, work and memory."""
        return self._schedule.told().forwards

    @property
    def work(self) -> float:
        """Layers times positions of all rows, the head counted by its weights."""
        return self._schedule.told().work.all

    @property
    def work_of_a_loop(self) -> float:
        """The same of one forward a variant."""
        told = self._schedule.told()
        return told.work.all if told.loop is None else told.loop.all

    def __str__(self) -> str:
        return self.explain()

    def __repr__(self) -> str:
        return f"<SweepPlan of {self._count} variants>"

    def run(self, progress: bool | None = None) -> Any:
        """Do it, or what is left of it.

        Returns, Raises: as `model.sweep`; PlanError where the model has changed since the plan.
        """
        if progress not in (None, True, False):
            raise InputError(f"progress= is True, False or None, not {progress!r:.40}.")
        values = self._schedule.values
        if None in values:
            self._check_model()
        if None in values or (self._score is not None and any(c is None for c in self._cells)):
            with sweep_together(self._engine) as work:
                self._share_out(work, progress)
        return self._result()

    def _share_out(self, work: Work, progress: bool | None) -> None:
        """This rank's share, and what the others found; of one process, all of it."""
        schedule, count = self._schedule, self._count
        values = schedule.values
        drawing, mine = set[int](), [*range(count)]
        if work.several:
            drawing = schedule.drawing.intersection(mine)
            every = among(schedule, count, work.size, drawing)
            name = "" if self._score is None else self._score.name
            asked = schedule.variants[:count], self._axes, name, every, bool(drawing)
            agree(work, self._engine, self._call, *asked)
            mine = every[work.rank]
        schedule.elsewhere = {*range(count)}.difference(mine)
        own = [*mine, *range(count, len(values))]
        done = sum(values[n] is not None for n in own)
        shown = progress if work.shows else False
        bar = Progress(len(own), shown, done, what="sweep", unit="variant")
        try:
            with bar, _computing(), by_all():
                for some in self._steps():
                    self._score_of(some)
                    bar.advance(len(some))
                    work.check()
                self._score_of(mine)
        except KeyboardInterrupt:
            of = values[:count] if self._score is None else self._cells
            done = sum(one is not None for one in of)
            raise SweepStopped(done, count, self._result(), self) from None
        if work.size > 1:
            self._put_together(work, mine, bool(drawing))
        self._seen = None  # nothing is left to do, for which old numbers would be held

    def _put_together(self, work: Work, mine: list[int], drawn: bool) -> None:
        """What all ranks found."""
        values, scored = self._schedule.values, self._score is not None
        found: dict[int, Any] = {n: self._cells[n] if scored else values[n] for n in mine}
        if drawn and work.rank == 0:
            found[DRAWN] = random_state.current()
        every = work.exchanged(found)
        if drawn:  # where the random state is after the draws, it is on every rank
            random_state.restore(every.pop(DRAWN))
        for number, value in every.items():
            if scored:
                self._cells[number] = value
            values[number] = [] if scored else value

    def _steps(self) -> Iterator[list[int]]:
        steps = self._schedule.steps()
        while True:
            with paused():
                some = next(steps, None)
            if some is None:
                return
            yield some

    def _check_model(self) -> None:
        refreshed(self._engine)
        tree = self._engine.runner.tree
        seen = self._engine.runner.weights_seen()
        same = tree.are_weights(self._weights) and (self._seen is None or seen is self._seen)
        if tree is not self._tree or not same:
            raise PlanError(
                "modules or weights of the model have changed since this sweep was planned",
                "Write model.sweep_plan(...) again, or model.sweep(...) at once.",
            )

    def _score_of(self, numbers: Iterable[int]) -> None:
        """The metric of what is done."""
        if self._score is None:
            return
        values = self._schedule.values
        base = values[-1] if self._score.of_two else None
        done = []
        for number in numbers:
            if number == self._count or self._cells[number] is not None:
                continue
            logits = values[number]
            assert logits is not None
            reference = None if base is None else base[0]
            self._cells[number] = _scores(self._score, logits[0], reference)
            done.append(number)
        mx.eval([self._cells[number] for number in done])
        for number in done:
            values[number] = []  # its logits are not kept

    def _result(self) -> Any:
        if self._score is None:
            return Sweep(self._names, self._schedule.values, self._axes, self)
        nothing = mx.full((self._rows,), math.nan)
        return self._effects([nothing if one is None else one for one in self._cells])

    def _effects(self, cells: Sequence[mx.array]) -> Effects:
        axes = dict(self._axes)
        if self._rows > 1:
            axes["text"] = tuple(range(self._rows))
        shape = [len(labels) for labels in axes.values()]
        found = mx.broadcast_to(cells[0], shape) if len(cells) == 1 else mx.stack(cells)
        found = found.reshape(shape)
        mx.eval(found)
        return Effects(found, axes, name=self._score.name)


def _scores(score: Any, logits: mx.array, base: mx.array | None) -> mx.array:
    """The numbers of a variant, one for each of the call's rows."""
    rows = range(logits.shape[0])
    references = [None] * len(rows) if base is None else [base[k] for k in rows]
    return mx.stack([score(logits[k], references[k]) for k in rows])


def _rows(census: Any) -> int:
    """How many rows the first array that the model gives has."""
    whole = census.values[Site("", OUTPUT)]
    arrays = [one for one in leaves(whole) if isinstance(one, ARRAY)]
    return int(arrays[0].shape[0])


def _scored(variant: Variant, census: Any) -> Variant:
    """A variant that wants the last position's logits: (rows, vocabulary)."""
    return variant._replace(wanted=(last_logits(output_of(variant.graph), census),))


def last_logits(output: Node, census: Any) -> Node:
    """The last position of the first array that the model gives.

    Raises: InputError where it gives none that has positions.
    """
    whole = census.values[Site("", OUTPUT)]
    arrays = leaves(whole) if is_container(whole) else [whole]
    number = next((k for k, one in enumerate(arrays) if isinstance(one, ARRAY)), None)
    if number is None or arrays[number].ndim < 2:
        raise InputError(
            "a metric is of the model's last-position logits, and this model gives no array of"
            " rows.\n  Leave metric out, and save what you want to compare."
        )
    node = Node(ops.LEAF, (output, number)) if is_container(whole) else output
    if arrays[number].ndim == 2:
        return node
    return Node(ops.GETITEM, (node, (Slice(None, None, None), -1)))
