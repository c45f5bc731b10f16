"""What flows along an edge of the residual stream, and the graphs that let it in.

In: a base run, senders' values in another one.  Out: what of their difference arrives at each
receiver while all else is held; graphs of one edge each, recorded once and given other values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx

from mlxgraph.analysis.cells import Span, part
from mlxgraph.analysis.components import Place
from mlxgraph.analysis.inputs import arrays_in, first_array
from mlxgraph.analysis.path_ends import BEFORE
from mlxgraph.analysis.stream import Base, Read
from mlxgraph.analysis.traceable import Traceable

END = ""  # where the stream leaves the last layer
ROWS = 32  # senders' values in one forward


def arriving(
    model: Traceable,
    row: mx.array,
    base: Base,
    places: Sequence[Place],
    own: Sequence[mx.array],
    others: Sequence[Sequence[mx.array]],
    reads: Mapping[int, Sequence[Read]],
    through: Mapping[int, set[str]] | None,
) -> list[dict[str, mx.array]]:
    """The difference that a sender's other values make where the stream is read.

    Args:
        places: the sender, which may be several; own: their values in the base run; others: those
            to put in their places, each time one for each.
        reads: who reads the stream, by layer; through: the modules that are not held, by layer;
            None where the stream alone carries it.
    Returns: for each of the others, differences (1, length, width) by the module whose input it is,
        and under `END` that after the last place's layer, or after the last layer of all.
    """
    found: list[dict[str, mx.array]] = []
    for start in range(0, len(others), ROWS):
        some = others[start : start + ROWS]
        # the first row is the base run in the same arithmetic, so that no difference is none
        values = [mx.concatenate([*each]) for each in zip(own, *some, strict=True)]
        saved = _forward(model, row, base, places, values, reads, through)
        mx.eval(saved)
        for number in range(1, len(some) + 1):
            found.append(
                {at: value[number : number + 1] - value[:1] for at, value in saved.items()}
            )
    return found


def _forward(
    model: Traceable,
    row: mx.array,
    base: Base,
    places: Sequence[Place],
    values: Sequence[mx.array],
    reads: Mapping[int, Sequence[Read]],
    through: Mapping[int, set[str]] | None,
) -> dict[str, Any]:
    rows, layers = len(values[0]), sorted(base.blocks)
    saved: dict[str, Any] = {}
    first, last = (end(place.layer for place in places) for end in (min, max))
    with model.trace(mx.repeat(row, rows, axis=0)):
        if first == BEFORE:
            for place, value in zip(places, values, strict=True):
                if place.layer == BEFORE:
                    place.put(model, ..., value)
            after = first_array(model[base.blocks[layers[0]]].input)
        else:
            block = base.blocks[first]
            first_array(model[block].input)[...] = mx.repeat(base.given[block], rows, axis=0)
        for layer in layers:
            if layer < first or (layer > last and through is None):
                continue
            here = [(p, v) for p, v in zip(places, values, strict=True) if p.layer == layer]
            free = set((through or {}).get(layer, ()))
            for place, _ in here:
                child = base.child_of(layer, place.name)
                free |= base.after(layer, child) if child else set()
            for read in reads.get(layer, ()):
                saved[read.at] = first_array(model[read.at].input).save()
            base.hold(model, layer, free, rows)
            for place, value in here:
                place.put(model, ..., value)
            after = first_array(model[base.blocks[layer]].output)
        saved[END] = after.save()
    return saved


class Edges:
    """Graphs that let a difference in along one edge, or put a value in its place.

    Args: row: the text that they are for.
    """

    def __init__(self, model: Traceable, row: mx.array):
        self._bare, self._row = model.without_edits(), row  # edits that stay are made by the run
        self._known: dict[Any, tuple[str, Any]] = {}
        self._types = {
            model.layers[k].path: type(model.layers[k].module).__qualname__
            for k in range(len(model.layers))
        }

    def into(self, read: Read, block: str, difference: mx.array) -> Any:
        """A part reads the stream and a difference; nothing else sees it."""
        tails = read.part.removeprefix(block), read.at.removeprefix(block), read.shared

        def record(model: Traceable) -> None:
            there = first_array(model[read.at].input)
            if not read.shared:
                there[...] = there + difference
                return
            own = next(arrays_in(model[read.part].inputs))
            own[...] = model[read.at](there + difference)  # type: ignore[operator]

        return self._graph(("into", tails), block, record, difference)

    def out(self, block: str, difference: mx.array) -> Any:
        """What comes after the last layer is given the stream and a difference."""

        def record(model: Traceable) -> None:
            there = first_array(model[block].output)
            there[...] = there + difference

        return self._graph(("out",), block, record, difference)

    def put(self, place: Place, block: str, spans: tuple[Span, ...], value: mx.array) -> Any:
        """A value in place of a part of another one."""

        def record(model: Traceable) -> None:
            place.put(model, part(spans), value)

        return self._graph((place.alike, spans), block, record, value)

    def saves(self, places: Sequence[Place]) -> Any:
        """Saves of places, under their names."""
        with self._bare.trace(self._row) as trace:
            for place in places:
                place.value(self._bare).save(place.name)
        return trace.graph

    def _graph(
        self, kind: Any, block: str, record: Callable[[Traceable], None], value: mx.array
    ) -> Any:
        key = kind, self._types[block], value.shape, str(value.dtype)
        known = self._known.get(key)
        if known is None:
            with self._bare.trace(self._row) as trace:
                record(self._bare)
            assert len(trace.graph.constants) == 1
            known = self._known[key] = block, trace.graph
        first, graph = known
        if first != block:
            graph = graph.retarget({first: block})
        return graph.replace(constants=(value,))
