"""`model.sweep`: many variants of an edit on one input, with the answers of a loop of `model.run`.

In: an input, graphs or one graph and values for its params, a metric.  Out: a Sweep, or Effects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx

from mlxgraph.analysis.effects import Effects
from mlxgraph.analysis.scores import score_of
from mlxgraph.errors import InputError, SweepStopped
from mlxgraph.errors.tracebacks import with_edges
from mlxgraph.graph import ops
from mlxgraph.graph.nested import is_container, leaves
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import OUTPUT, Site
from mlxgraph.graph.values import Slice
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.model.sweep_progress import Progress
from mlxgraph.model.sweep_result import Sweep
from mlxgraph.record.stack import paused
from mlxgraph.run.call import Call
from mlxgraph.run.engine import Engine
from mlxgraph.sweep.explained import Forward
from mlxgraph.sweep.schedule import Schedule
from mlxgraph.sweep.variants import Axes, Variant, given_of, variants_of
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
        x: as for `trace`; a tuple for a model that takes several inputs.
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
        run; ScoreError for a metric that gives no number.

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
    shared = {n: kwargs.pop(n) for n in given.params_named if n in kwargs}
    check_keywords(engine.root, kwargs, given.params_named)
    inputs = x if isinstance(x, tuple) else (x,)
    call = prepare(inputs, engine, kwargs)
    refreshed(engine)
    if shared:
        params: list[Mapping[str, Any]] = [
            {n: v for n, v in shared.items() if n in graph.params} | dict(own)
            for graph, own in zip(given.graphs, given.params, strict=True)
        ]
        given = given._replace(params=params)
    variants = variants_of(engine, call, given)
    score = None if metric is None else score_of(metric)
    return SweepPlan(engine, call, variants, given.axes, score, *limits)


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
    ):
        self._call, self._axes, self._score = call, axes, score
        self._names = [[name for name, _ in variant.graph.saves] for variant in variants]
        wanted = list(variants)
        if score is not None:
            with paused():
                census = engine.runner.census(call)
            wanted = [_scored(one, census) for one in variants]
            if score.of_two:
                plain = Variant(engine.edits, (), {})
                wanted.append(_scored(plain, census))
        self._count = len(variants)
        self._schedule = Schedule(engine, call, wanted, batch_size, memory_limit)

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
        """Do it, or what is left of it.  Returns, Raises: as `model.sweep`."""
        bar = Progress(len(self._schedule.variants), progress)
        try:
            with bar, paused():
                for some in self._schedule.steps():
                    bar.advance(len(some))
        except KeyboardInterrupt:
            done = sum(one is not None for one in self._schedule.values[: self._count])
            raise SweepStopped(done, self._count, self._result(), self) from None
        return self._result()

    def _result(self) -> Any:
        values = self._schedule.values
        if self._score is None:
            return Sweep(self._names, values, self._axes, self)
        base = values[self._count] if self._score.of_two else None
        cells = [_score(self._score, one, base) for one in values[: self._count]]
        axes = dict(self._axes)
        found = mx.stack(cells)
        rows = found.shape[-1]
        shape = [len(labels) for labels in axes.values()]
        if rows > 1:
            axes["text"] = tuple(range(rows))
            shape.append(rows)
        found = found.reshape(shape)
        mx.eval(found)
        return Effects(found, axes, name=self._score.name)


def _score(score: Any, values: list[Any] | None, base: list[Any] | None) -> mx.array:
    """The numbers of a variant, one for each of the call's rows."""
    if values is None or score.of_two and base is None:
        return mx.array([math.nan])
    logits = values[0]
    rows = range(logits.shape[0])
    references = [None] * len(rows) if base is None else [base[0][k] for k in rows]
    return mx.stack([score(logits[k], references[k]) for k in rows])


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
