"""GradDrop: slopes with what one layer adds held, for each layer in turn.

What a place does directly and what it does by way of later parts may cancel in one slope.  Held, a
layer passes nothing on but the residual stream itself, so that for the layer by which they cancel
the direct part shows; the mean of the absolute effects over all layers is then not zero.  The runs
with one layer held each are rows of batches; each row's values are the run's own, and only what
flows back differs.

In: a pair of texts, the run's slopes.  Out: the same slopes with each layer held.
Raises where a layer is no sum of what it is given and what its modules add.
Source: Kramár et al. 2024, arXiv:2403.00745, section 3.1.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.cells import Cell
from mlxgraph.analysis.components import RESID_MID, Place
from mlxgraph.analysis.inputs import first_array, value_at
from mlxgraph.analysis.pairs import Pair
from mlxgraph.analysis.scores import Score
from mlxgraph.analysis.slopes import (
    Key,
    Slopes,
    cell_numbers,
    differentiable,
    every,
    key_of,
    recorded,
    rows_are_apart,
    rows_for,
)
from mlxgraph.analysis.stream import Base
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError

Products = Callable[[Pair, Slopes], dict[Key, np.ndarray]]


def without_cancelling(
    model: Traceable,
    pair: Pair,
    run: Slopes,
    score: Score,
    reference: mx.array,
    sites: Mapping[str, int],
    cells: Sequence[Cell],
    products: Products,
) -> list[float]:
    """The mean absolute effect of each cell, over all layers that may be held.

    The layer that a part is in is not one of them: held, it passes nothing of the part on.

    Args:
        run: of the pair's text, with its slopes; sites: of the further slopes, the layers of each.
        products: of slopes, what each place does.
    Raises: InputError for a model of one layer, or whose layers are no sums.
    """
    layers = range(len(model.layers))
    if len(layers) == 1:
        raise InputError(
            "graddrop=True holds one layer after another, and the model has one alone.\n"
            "  Leave graddrop out: there is nothing later that could cancel."
        )
    plain = products(pair, run)
    first = min(cell.place.layer for cell in cells)
    total = first * _sizes(cells, plain)  # what comes before all places does not matter
    for layer, slopes in _held(model, pair, run, score, reference, sites, layers[first:]):
        some = {
            name: [place for place in places if place.layer <= layer]
            for name, places in pair.places.items()
        }
        total += _sizes(cells, {**plain, **products(pair._replace(places=some), slopes)})
    counts = [len(layers) - _is_part(model, cell.place) for cell in cells]
    return [float(size) for size in total / np.array(counts)]


def _sizes(cells: Sequence[Cell], products: Mapping[Key, np.ndarray]) -> np.ndarray:
    return np.abs(cell_numbers(cells, products))


def _is_part(model: Traceable, place: Place) -> bool:
    """Whether a place is a part of its layer, and not the residual stream between parts."""
    block = model.layers[place.layer].path
    return place.name not in (block, f"{block}.input", f"{block}.{RESID_MID}")


def _held(
    model: Traceable,
    pair: Pair,
    run: Slopes,
    score: Score,
    reference: mx.array,
    sites: Mapping[str, int],
    layers: Sequence[int],
) -> Iterator[tuple[int, Slopes]]:
    """The run's slopes with each of some layers held, several in a batch."""
    base = Base(model, pair.run, layers)
    base.check(layers, [])
    places = every(pair)
    most = _rows_at_most(model, pair, places, base)
    for chunk in np.array_split(np.array(layers), -(-len(layers) // most)):
        some = [int(layer) for layer in chunk]
        before = [place for place in places if place.layer <= some[-1]]
        further = [name for name, layer in sites.items() if layer <= some[-1]]
        found = _slopes(model, pair.run, score, reference, base, some, before, further)
        mx.eval(found)
        for row, layer in enumerate(some):
            own = slice(row, row + 1) if len(some) > 1 else slice(None)
            gradients, beside = dict(run.gradients), dict(run.further)
            for place in before:
                if place.layer <= layer:
                    gradients[key_of(place)] = found[place.name][own]
            for name in further:
                if sites[name] <= layer:
                    beside[f"{name} slope"] = found[name][own]
            yield layer, Slopes(run.values, gradients, beside, run.logits)


def _rows_at_most(model: Traceable, pair: Pair, places: Sequence[Place], base: Base) -> int:
    """How many rows a batch may have: one where a value has them not along its first axis."""
    rows = min(rows_for(pair.run), len(base.blocks))
    shapes = {place.name: place.shape for place in places}
    for children in base.children.values():
        shapes |= {child: tuple(base.made[child].shape) for child in children}
    return rows if rows > 1 and rows_are_apart(model, pair.run, shapes, rows) else 1


def _slopes(
    model: Traceable,
    text: mx.array,
    score: Score,
    reference: mx.array,
    base: Base,
    layers: Sequence[int],
    places: Sequence[Place],
    sites: Sequence[str],
) -> dict[str, mx.array]:
    """Slopes in runs of a text with one layer held each, a row for each run.

    Returns: by site: of a value before it is held; of the state between attention and the rest
        with attention held.
    """
    rows = len(layers)
    asked = dict.fromkeys([*(place.name for place in places), *sites])
    with differentiable(), model.trace(mx.concatenate([text] * rows)) as trace:
        handles: dict[str, Any] = {name: first_array(value_at(model, name)) for name in asked}
        for row, layer in enumerate(layers):
            for child in base.children[layer]:
                made = first_array(model[child].output)
                part = slice(row, row + 1) if rows > 1 else ...
                made[part] = mx.stop_gradient(made[part])
        logits = first_array(model.output)[:, -1].astype(mx.float32)
        loss = mx.sum(mx.stack([recorded(score, logits[row], reference) for row in range(rows)]))
        slopes = dict(zip(handles, trace.grad(loss, list(handles.values())), strict=True))
        for place in places:
            slopes[place.name] = place.whole(slopes[place.name])
        found = {name: slope.save() for name, slope in slopes.items()}
    return found
