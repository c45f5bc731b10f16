"""Several prompts in one forward: `with model.trace() as t:` and `with t.invoke(prompt):` in it.

Each invoke is recorded as if its prompt ran alone, on sites that bear its number.  When the block
ends the prompts become one left-padded batch, and every site of an invoke becomes that invoke's
rows (and its real positions) of the batch's site.  So edits are scoped to their rows, a value of
one invoke can be written in another, and the result equals separate runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx

from mlxgraph.errors import InputError, OutsideTraceError, ShapeError
from mlxgraph.graph.algebra import canonical, rebuilt
from mlxgraph.graph.census import Census
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.nested import is_container, leaves
from mlxgraph.graph.node import SITE, Node, site_node, site_of
from mlxgraph.graph.site import Site
from mlxgraph.graph.values import Slice
from mlxgraph.record.apply import apply_intervention
from mlxgraph.record.intercept import intercepted
from mlxgraph.record.param import filled, holes
from mlxgraph.record.recording import Recording
from mlxgraph.record.stack import paused
from mlxgraph.run.call import describe_call
from mlxgraph.run.runner import CompileMode
from mlxgraph.tools import ModelTools
from mlxgraph.trace.inputs import Inputs, prepare, tokens_of
from mlxgraph.trace.resolve import take_in

if TYPE_CHECKING:
    from mlxgraph.model.model import InterpretableModel

FULL = Slice(None, None, None)


class _Prompt(NamedTuple):
    inputs: Inputs
    census: Census
    rows: int
    length: int | None


class Invokes:
    """A trace of several prompts.  Made by `InterpretableModel.trace()` without inputs.

    After the block: `saved_values` by name, `graph` (on the batch), `tokens` and `lengths` of the
    batch.  Saved values have the shapes of their own prompt, unpadded.
    """

    def __init__(
        self,
        model: InterpretableModel,
        compile: CompileMode,
        params: dict[str, Any],
        passes: frozenset[str] | None = None,
    ):
        self._model = model
        self._passes = passes
        self._compile = compile
        self._params = params
        self._prompts: list[_Prompt] = []
        self._recording = Recording(Census(), ModelTools(model))
        self._recording.owner = model
        self._recording.scope = None
        self._open = intercepted(self._recording)
        self._graph: Graph | None = None
        self.saved_values: dict[str, Any] = {}
        self.tokens: mx.array | None = None
        self.lengths: list[int] | None = None

    def __enter__(self) -> Invokes:
        self._model._refresh_names()
        self._open.__enter__()
        return self

    @contextmanager
    def invoke(self, *inputs: Any, interventions: Any = None, **kwargs: Any) -> Iterator[Invokes]:
        """One prompt (or several, as rows) of the batch; what the block edits is these rows.

        Args: inputs: as for `model.trace`.
        Raises: InputError for keyword arguments of the model, which a batch cannot take apart.
        """
        if not inputs:
            raise InputError("an invoke needs a prompt.\n  Write `with t.invoke('a text'):`.")
        if kwargs:
            raise InputError(f"an invoke takes inputs only, not {', '.join(kwargs)}=")
        recording = self._recording
        if not recording.open or recording.scope is not None:
            raise OutsideTraceError("t.invoke")
        prepared = prepare(inputs, self._model.tokenizer)
        with paused():
            census = self._model._runner.census(
                describe_call(prepared.args, {}), prepared.forward, prepared.kind
            )
        first = prepared.args[0]
        length = first.shape[1] if prepared.tokens is not None else None
        recording.scope = scope = f"@{len(self._prompts)}:"
        self._prompts.append(_Prompt(prepared, census, first.shape[0], length))
        for site, position in census.order.items():
            scoped = site._replace(path=scope + site.path)
            recording.census.order[scoped] = position
            recording.census.values[scoped] = census.values[site]
        try:
            if self._model._edits is not None:
                take_in(recording, self._model._edits, self._model, prepared.lengths)
            for name, fn in (interventions or {}).items():
                apply_intervention(recording, self._model._names.site(name), fn)
            yield self
        finally:
            recording.scope = None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        recording = self._recording
        try:
            self._open.__exit__()
        finally:
            recording.close()
        if error is not None or not self._prompts:
            return
        recording.check_escapes()
        inputs = self._batch()
        self.tokens, self.lengths = inputs.tokens, inputs.lengths
        call = describe_call(inputs.args, {})
        with paused():
            census = self._model._runner.census(call, inputs.forward, inputs.kind)
            self._graph = graph = self._joined(recording.graph(), census)
            wanted = holes(graph)
            params = filled(wanted, self._params)
            recording.unbound = tuple(name for name in wanted if name not in params)
            if not recording.saves or recording.unbound:
                return
            results = self._model._runner.run(
                graph,
                call,
                None,
                params,
                self._compile,
                inputs.forward,
                inputs.kind,
                passes=self._passes,
            )
        recording.finish(results)
        self.saved_values = {
            name: handle if isinstance(handle, mx.array) else handle.value
            for (name, _), (_, handle) in zip(graph.saves, recording.saves, strict=True)
        }

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

    def _batch(self) -> Inputs:
        """All prompts as the rows of one batch."""
        if all(prompt.length is not None for prompt in self._prompts):
            rows = []
            for prompt in self._prompts:
                assert prompt.inputs.tokens is not None and prompt.inputs.lengths is not None
                for row, length in zip(
                    prompt.inputs.tokens.tolist(), prompt.inputs.lengths, strict=True
                ):
                    rows.append(row[len(row) - length :])
            return tokens_of(rows, self._model.tokenizer)
        arrays = [prompt.inputs.args for prompt in self._prompts]
        shapes = {tuple(a.shape[1:] for a in args) for args in arrays}
        if len(shapes) > 1:
            raise InputError(
                "these inputs cannot share a batch: beyond the first axis their shapes differ, "
                f"{' and '.join(map(str, sorted(shapes)))}.\n  Trace them one by one."
            )
        return Inputs(tuple(mx.concatenate(list(group)) for group in zip(*arrays, strict=True)))

    def _joined(self, graph: Graph, census: Census) -> Graph:
        """The graph with every invoke's sites as rows of the batch's."""

        def rows(node: Node) -> Node | None:
            if node.op != SITE:
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
            return Node("getitem", (base, self._index(number, site, own, batch)))
        parts = []
        for k, (mine, whole) in enumerate(zip(leaves(own), leaves(batch), strict=True)):
            leaf = Node("leaf", (base, k))
            if isinstance(mine, mx.array):
                leaf = Node("getitem", (leaf, self._index(number, site, mine, whole)))
            parts.append(leaf)
        return Node("unflatten_like", (base, *parts))

    def _whole(self, number: int, site: Site, base: Node, value: Node, census: Census) -> Node:
        """The batch's value with an invoke's part replaced."""
        own, batch = self._values(number, site, census)
        if not is_container(own):
            return Node("update", (base, self._index(number, site, own, batch), value))
        parts = []
        for k, (mine, whole) in enumerate(zip(leaves(own), leaves(batch), strict=True)):
            leaf = Node("leaf", (base, k))
            if isinstance(mine, mx.array) and mine.ndim:
                index = self._index(number, site, mine, whole)
                leaf = Node("update", (leaf, index, Node("leaf", (value, k))))
            parts.append(leaf)
        return Node("unflatten_like", (base, *parts))

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
