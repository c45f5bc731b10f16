"""Several prompts in one forward: `with model.trace() as t:` and `with t.invoke(prompt):` in it.

Each invoke is recorded as if its prompt ran alone, on sites that bear its number.  When the block
ends the prompts become one left-padded batch, and every site of an invoke becomes that invoke's
rows (and its real positions) of the batch's site.  So edits are scoped to their rows, a value of
one invoke can be written in another, and the result equals separate runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.errors import InputError, OutsideTraceError, ShapeError
from mlxgraph.graph import ops
from mlxgraph.graph.algebra import canonical, rebuilt
from mlxgraph.graph.census import Census
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.nested import is_container, leaves
from mlxgraph.graph.node import Node, site_node, site_of
from mlxgraph.graph.site import Site
from mlxgraph.graph.values import Slice
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record.apply import apply_intervention
from mlxgraph.record.intercept import intercepted
from mlxgraph.record.recording import Recording
from mlxgraph.record.stack import paused
from mlxgraph.run.call import Call, describe_call
from mlxgraph.run.engine import Engine
from mlxgraph.trace.execute import Job, Options, finish
from mlxgraph.trace.ids import check_ids
from mlxgraph.trace.inputs import call_of, prepare
from mlxgraph.trace.open_block import refreshed
from mlxgraph.trace.resolve import take_in

FULL = Slice(None, None, None)


class _Prompt(NamedTuple):
    call: Call
    census: Census

    @property
    def rows(self) -> int:
        """How many rows of the batch are this prompt's."""
        return self.call.args[0].shape[0]

    @property
    def length(self) -> int | None:
        """The number of positions, padding between its own rows included; None without tokens."""
        return None if self.call.tokens is None else self.call.tokens.shape[1]


class Prompts:
    """A trace of several prompts.  Made by `InterpretableModel.trace()` without inputs.

    After the block: `saved_values` by name, `graph` (on the batch), `tokens` and `lengths` of the
    batch.  Saved values have the shapes of their own prompt, unpadded.
    """

    def __init__(self, engine: Engine, params: Mapping[str, Any], options: Options):
        self._engine = engine
        self._options = options
        self._params = params
        self._prompts: list[_Prompt] = []
        self._recording = Recording(Census(), engine.root, engine.runner.modules)
        self._recording.has_prompts()
        self._open = intercepted(self._recording)
        self._graph: Graph | None = None
        self.saved_values: dict[str, Any] = {}
        self.tokens: mx.array | None = None
        self.lengths: list[int] | None = None

    def __enter__(self) -> Prompts:
        refreshed(self._engine)
        self._open.__enter__()
        return self

    @contextmanager
    def invoke(self, *inputs: Any, interventions: Any = None, **kwargs: Any) -> Iterator[Prompts]:
        """One prompt (or several, as rows) of the batch; what the block edits is these rows.

        Args: inputs: as for `model.trace`.
        Raises: InputError for keyword arguments of the model, which a batch cannot take apart.
        """
        if not inputs:
            raise InputError("an invoke needs a prompt.\n  Write `with t.invoke('a text'):`.")
        if kwargs:
            raise InputError(f"an invoke takes inputs only, not {', '.join(kwargs)}=")
        recording, engine = self._recording, self._engine
        if not recording.open:
            raise OutsideTraceError("t.invoke")
        call = prepare(inputs, engine.tokenizer)
        with paused():
            census = engine.runner.census(call)
            check_ids(census.rows, call)
        with recording.prompt(census):
            self._prompts.append(_Prompt(call, census))
            take_in(recording, engine.edits, engine.names, call.lengths)
            for name, fn in (interventions or {}).items():
                apply_intervention(recording, engine.names.site(name), fn)
            yield self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        recording = self._recording
        try:
            self._open.__exit__()
        finally:
            recording.close()
        try:
            if error is None and self._prompts:
                self._finish(recording)
        finally:
            recording.forget_functions()

    def _finish(self, recording: Recording) -> None:
        recording.check_escapes()
        call = self._batch()
        self.tokens, self.lengths = call.tokens, call.lengths
        with paused():
            census = self._engine.runner.census(call)
        self._graph = graph = self._joined(recording.graph(), census)
        params = recording.bind(graph, self._params)
        job = Job(graph, call, params, self._options, census)
        self.saved_values = finish(self._engine, recording, job)

    @property
    def graph(self) -> Graph:
        """What was recorded, on the sites of the batch."""
        if self._graph is None:
            raise OutsideTraceError("the graph of several prompts, before the block's end,")
        return self._graph

    @staticmethod
    def barrier(*_: Any) -> Callable[[], None]:
        """Nothing to wait for: values flow between invokes in any order the forward allows."""
        return lambda: None

    # -- the batch --------------------------------------------------------------------------

    def _batch(self) -> Call:
        """All prompts as the rows of one batch."""
        calls = [prompt.call for prompt in self._prompts]
        if all(call.tokens is not None for call in calls):
            return call_of([row for call in calls for row in _rows(call)], self._engine.tokenizer)
        shapes = {tuple(a.shape[1:] for a in call.args) for call in calls}
        if len(shapes) > 1:
            raise InputError(
                "these inputs cannot share a batch: beyond the first axis their shapes differ, "
                f"{' and '.join(map(str, sorted(shapes)))}.\n  Trace them one by one."
            )
        groups = zip(*[call.args for call in calls], strict=True)
        return describe_call(tuple(mx.concatenate(list(group)) for group in groups), {})

    def _joined(self, graph: Graph, census: Census) -> Graph:
        """The graph with every invoke's sites as rows of the batch's."""

        def rows(node: Node) -> Node | None:
            if node.op != ops.SITE:
                return None
            number, site = _unscoped(site_of(node))
            return self._part(number, site, site_node(*site), census)

        moved = rebuilt(graph, rows)
        writes: dict[Site, Node] = {}
        for scoped, node in moved.writes:
            number, site = _unscoped(scoped)
            base = writes.get(site, site_node(*site))
            writes[site] = self._whole(number, site, base, node, census)
        return canonical(moved.replace(writes=writes.items()))

    def _part(self, number: int, site: Site, base: Node, census: Census) -> Node:
        """An invoke's part of the batch's value."""
        own, batch = self._values(number, site, census)
        if not is_container(own):
            return Node(ops.GETITEM, (base, self._index(number, site, own, batch)))
        parts = []
        for k, (mine, whole) in enumerate(zip(leaves(own), leaves(batch), strict=True)):
            leaf = Node(ops.LEAF, (base, k))
            if isinstance(mine, ARRAY):
                leaf = Node(ops.GETITEM, (leaf, self._index(number, site, mine, whole)))
            parts.append(leaf)
        return Node(ops.UNFLATTEN_LIKE, (base, *parts))

    def _whole(self, number: int, site: Site, base: Node, value: Node, census: Census) -> Node:
        """The batch's value with an invoke's part replaced."""
        own, batch = self._values(number, site, census)
        if not is_container(own):
            return Node(ops.UPDATE, (base, self._index(number, site, own, batch), value))
        parts = []
        for k, (mine, whole) in enumerate(zip(leaves(own), leaves(batch), strict=True)):
            leaf = Node(ops.LEAF, (base, k))
            if isinstance(mine, ARRAY) and mine.ndim:
                index = self._index(number, site, mine, whole)
                leaf = Node(ops.UPDATE, (leaf, index, Node(ops.LEAF, (value, k))))
            parts.append(leaf)
        return Node(ops.UNFLATTEN_LIKE, (base, *parts))

    def _values(self, number: int, site: Site, census: Census) -> tuple[Any, Any]:
        return self._prompts[number].census.values[site], census.values[site]

    def _index(self, number: int, site: Site, own: mx.array, batch: mx.array) -> tuple:
        """Which rows and positions of the batch's array are this invoke's."""
        first = sum(prompt.rows for prompt in self._prompts[:number])
        prompt, total = self._prompts[number], sum(prompt.rows for prompt in self._prompts)
        if own.ndim != batch.ndim or not own.ndim or batch.shape[0] != total:
            raise _no_rows(site, own, batch)
        index: list[Any] = [Slice(first, first + prompt.rows, None)]
        for mine, whole in zip(own.shape[1:], batch.shape[1:], strict=True):
            if mine == whole:
                index.append(FULL)
            elif mine == prompt.length:
                index.append(Slice(whole - mine, whole, None))
            else:
                raise _no_rows(site, own, batch)
        return tuple(index)


def _rows(call: Call) -> list[list[int]]:
    """The real tokens of each row."""
    assert call.tokens is not None and call.lengths is not None
    rows = zip(call.tokens.tolist(), call.lengths, strict=True)  # type: ignore[arg-type]
    return [row[len(row) - length :] for row, length in rows]  # type: ignore[misc, index]


def _unscoped(site: Site) -> tuple[int, Site]:
    number, _, path = site.path[1:].partition(":")
    return int(number), site._replace(path=path)


def _no_rows(site: Site, own: mx.array, batch: mx.array) -> ShapeError:
    return ShapeError(
        f"{site} is {own.shape} for one prompt and {batch.shape} for all of them: its rows cannot"
        " be told apart",
        "an invoke",
        "Use a trace of its own for each prompt.",
    )
