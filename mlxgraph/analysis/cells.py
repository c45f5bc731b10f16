"""The cells of a map: one graph for each, made of a few recordings.

A graph that was recorded in one layer is aimed at the others, and given another value to put in
place: making one so takes a tenth of a recording.

In: places, positions, heads, values.  Out: graphs, and the numbers that a sweep of them gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.components import HEADS, Place
from mlxgraph.analysis.inputs import last_position
from mlxgraph.analysis.scores import Score
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import SweepStopped

Span = tuple[int | None, int | None]
WHOLE: Span = (None, None)


class Grid(NamedTuple):
    """The axes that a question has.

    Attributes: positions, heads: None where the axis is not asked for; kept: the axes of the
        result, of "component", "layer", "position" and "head".
    """

    components: list[str]
    layers: list[int]
    positions: list[int] | None
    heads: list[int] | None
    kept: tuple[str, ...]

    @property
    def full(self) -> tuple[int, ...]:
        """The size along each of the four axes."""
        return (
            len(self.components), len(self.layers), len(self.positions or [0]),
            len(self.heads or [0]),
        )  # fmt: skip

    @property
    def axes(self) -> dict[str, Sequence[Any]]:
        """The labels along the axes of the result."""
        every: dict[str, Sequence[Any]] = {
            "component": self.components,
            "layer": self.layers,
            "position": self.positions or [],
            "head": self.heads or [],
        }
        return {name: every[name] for name in self.kept}

    @property
    def fixed(self) -> dict[str, int]:
        """The position and the head that the whole result is of, where one was asked for."""
        chosen = {"position": self.positions, "head": self.heads}
        return {name: of[0] for name, of in chosen.items() if of and name not in self.kept}

    def cells(self, places: Mapping[str, list[Place]]) -> Iterator[Cell]:
        """Each cell that the model has, in the order of the result."""
        for c, component in enumerate(self.components):
            by_layer = {place.layer: place for place in places[component]}
            for k, layer in enumerate(self.layers):
                place = by_layer.get(layer)
                if place is None:
                    continue
                for p, position in enumerate(self.positions or [None]):  # type: ignore[list-item]
                    for h, head in enumerate(self.heads or [None]):  # type: ignore[list-item]
                        if head is None or head < place.heads:
                            yield Cell((c, k, p, h), place, position, head)

    def table(self, cells: Sequence[Cell], numbers: np.ndarray) -> np.ndarray:
        """The numbers of cells as an array of the result's shape, NaN where there is no cell."""
        found = np.full(self.full, np.nan, dtype=np.float32)
        for cell, number in zip(cells, numbers, strict=True):
            found[cell.at] = number
        return found.reshape([len(labels) for labels in self.axes.values()])


class Cell(NamedTuple):
    """One cell: where in the result it is, and what of the model it is."""

    at: tuple[int, int, int, int]
    place: Place
    position: int | None
    head: int | None

    def of(self, place: Place) -> Cell:
        """The same cell of another place."""
        return Cell(self.at, place, self.position, self.head)

    def spans(self, every: Span = WHOLE, shift: int = 0) -> tuple[Span, ...]:
        """The part of the value, as a start and a stop along each axis.

        Args: every: the positions where none is asked for; shift: added to positions.
        """
        spans = [WHOLE] * len(self.place.shape)
        if self.place.positions:
            at = self.place.positions[0]
            start, stop = every if self.position is None else (self.position, self.position + 1)
            moved = start is not None and stop is not None
            spans[at] = (start + shift, stop + shift) if moved else WHOLE  # type: ignore[operator]
        if self.head is not None:
            spans[HEADS] = (self.head, self.head + 1)
        return tuple(spans)


def part(spans: Sequence[Span]) -> tuple[slice, ...]:
    """Spans as an index."""
    return tuple([slice(*span) for span in spans])


class Recorder:
    """Graphs of single edits on one text.

    Args: row: the text, as an input of one row, or of several copies of it.
    """

    def __init__(self, model: Traceable, row: mx.array):
        self._model, self._row = model, row
        self._bare = model.without_edits()  # whose edits would be in each graph, and made twice
        self._known: dict[tuple, tuple[Place, Any]] = {}
        self.paths = {k: model.layers[k].path for k in range(len(model.layers))}
        with self._bare.trace(row) as trace:
            self._is_plain = isinstance(self._bare.output, mx.array)
            if not self._is_plain:
                self._save()
        self.nothing = trace.graph

    def put(self, place: Place, spans: tuple[Span, ...], value: mx.array) -> Any:
        """A graph that puts a value in the place of a part of another one."""
        return self._graph(place, spans, value, added=False)

    def add(self, place: Place, spans: tuple[Span, ...], value: mx.array) -> Any:
        """A graph that adds to a part of a value."""
        return self._graph(place, spans, value, added=True)

    def _graph(self, place: Place, spans: tuple[Span, ...], value: mx.array, added: bool) -> Any:
        key = (place.alike, place.component, spans, added, value.shape, str(value.dtype))
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = place, self._recorded(place, spans, value, added)
        first, graph = known
        if first.layer != place.layer:
            graph = graph.retarget({self.paths[first.layer]: self.paths[place.layer]})
        constants = [value if isinstance(one, mx.array) else one for one in graph.constants]
        return graph.replace(constants=constants)

    def _recorded(self, place: Place, spans: tuple[Span, ...], value: mx.array, added: bool) -> Any:
        model, index = self._bare, part(spans)
        with model.trace(self._row) as trace:
            place.put(model, index, place.value(model)[index] + value if added else value)
            if not self._is_plain:
                self._save()
        assert sum(isinstance(one, mx.array) for one in trace.graph.constants) == 1
        return trace.graph

    def _save(self) -> None:
        last_position(self._bare.output, slice(None)).save("logits")

    def swept(self, graphs: Sequence[Any], score: Score, options: Mapping[str, Any]) -> np.ndarray:
        """The score of each graph's run, the mean over the rows of the input.

        Args: score: of one logit vector, or of two: then the other is that of the run without
            edits.
        Raises: Stopped, with the numbers that are there, NaN for the rest.
        """
        count = len(graphs)
        try:
            if self._is_plain:
                found = self._model.sweep(self._row, list(graphs), metric=score, **options)
                return _means(found, count)
            runs = self._model.sweep(self._row, [*graphs, self.nothing], **options)
        except SweepStopped as stopped:
            nothing = np.full(count, np.nan, dtype=np.float32)
            done = _means(stopped.result, count) if self._is_plain else nothing
            raise Stopped(stopped, done) from None
        plain = runs[count]["logits"]
        numbers = [
            score(logits, plain[row]).item()
            for k in range(count)
            for row, logits in enumerate(runs[k]["logits"])
        ]
        return _means(numbers, count)


def _means(found: Any, count: int) -> np.ndarray:
    numbers = np.asarray(found, dtype=np.float32).reshape(count, -1)
    return numbers.astype(np.float64).mean(axis=1).astype(np.float32)


class Stopped(Exception):  # noqa: N818 - carries what is done from one page of a call to another
    """A sweep was interrupted.  Attributes: error: to raise; numbers: NaN for what is not done."""

    def __init__(self, error: SweepStopped, numbers: np.ndarray):
        self.error, self.numbers = error, numbers
