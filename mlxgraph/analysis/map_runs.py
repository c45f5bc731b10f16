"""What the maps have in common: the runs that they take values of, and what they give.

In: places and cells of a question.  Out: values, graphs, numbers in percent, labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.cells import Cell, Grid, Recorder, Span, part
from mlxgraph.analysis.components import Place, places_of
from mlxgraph.analysis.inputs import choose_layers, computed, holds_tokens, last_position
from mlxgraph.analysis.questions import Chosen, Match, components_in, number_of
from mlxgraph.analysis.scores import Score
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import BaselineError, ShapeError
from mlxgraph.errors.source_line import here

ROUNDING = 1e-5  # of the largest logit: kernels differ by the shape of a batch
ROUNDING_OF_SCORES = 1e-6  # of the larger one
ROUNDING_OF_HALF = 4  # of the dtype's own steps
Kept = Mapping[tuple[str, int], mx.array]


def placed(
    model: Traceable, row: mx.array, component: Any, layers: Any
) -> tuple[dict[str, list[Place]], list[int]]:
    """The places of each component, and the layers that have any."""
    chosen = choose_layers(model, layers)
    asked = layers is not None
    names = components_in(component)
    places = {name: places_of(model, row, name, chosen, asked) for name in names}
    having = {place.layer for some in places.values() for place in some}
    return places, [layer for layer in chosen if layer in having]


def check_axes(places: Mapping[str, list[Place]], positions: Chosen | None, match: Match) -> None:
    """Raises: ShapeError for positions of a component that has none."""
    if positions is None and match.length == match.other:
        return
    for some in places.values():
        for place in some:
            if not place.positions:
                raise ShapeError(
                    f"{place.name} gives {place.shape}, of which no axis is that of the texts",
                    str(here()),
                    "Patch a component whose value has one.",
                )


def kept_of(
    model: Traceable, row: mx.array, places: Mapping[str, list[Place]]
) -> tuple[dict[tuple[str, int], mx.array], mx.array]:
    """Every place's value in the run of a text, and the logits (vocabulary,) of that run, in the
    model's dtype."""
    kept: dict[tuple[str, int], Any] = {}
    with model.trace(row):
        for component, some in places.items():
            for place in some:
                kept[component, place.layer] = place.value(model).save()
        logits = last_position(model.output).save()
    computed(kept, logits)
    return kept, logits


def last_logits(model: Traceable, row: mx.array) -> mx.array:
    """The last position's logits (vocabulary,) of a plain run, float32."""
    with model.trace(row):
        logits = last_position(model.output).astype(mx.float32).save()
    return logits


def with_unedited(numbers: np.ndarray, model: Traceable, row: mx.array, score: Score) -> np.ndarray:
    """The numbers of a sweep that was stopped, whose last is the unedited run's score: with it."""
    if math.isnan(numbers[-1]) and not score.of_two:
        logits = last_logits(model, row)
        numbers[-1] = number_of(score, logits, logits)
    return numbers


def patch_graph(
    recorder: Recorder, cell: Cell, kept: Mapping[tuple[str, int], mx.array], match: Match
) -> Any:
    """The graph of one cell: what a run of another text had there, put in place."""
    return recorder.put(cell.place, *taken_of(cell, kept, match))


def taken_of(
    cell: Cell, kept: Mapping[tuple[str, int], mx.array], match: Match
) -> tuple[tuple[Span, ...], mx.array]:
    """What a run of another text had in a cell, and where in the text that runs it belongs."""
    place = cell.place
    same = match.length == match.other
    every = (None, None) if same else (match.start, match.stop)
    spans = cell.spans(every)
    value = kept[place.component, place.layer][part(cell.spans(every, match.shift))]
    if not same and len(place.positions) > 1:
        value = _keys_moved(value, place, match)
    return spans, value


def _keys_moved(value: mx.array, place: Place, match: Match) -> mx.array:
    """What each query sees of each key, with a key for each token of the text that runs: nothing
    of those that the other text lacks."""
    axis = place.positions[1]
    taken = [slice(None)] * value.ndim
    taken[axis] = slice(match.start + match.shift, match.stop + match.shift)
    around = [(0, 0)] * value.ndim
    around[axis] = (match.start, match.length - match.stop)
    nothing = -math.inf if place.component.endswith("scores") else 0
    return mx.pad(value[tuple(taken)], around, constant_values=nothing)


def check_apart(clean: mx.array, corrupted: mx.array, dtype: mx.Dtype, metric: str) -> None:
    """Raises: BaselineError where two runs' logits are one but for rounding.

    Args: dtype: that of the model's logits.
    """
    apart = mx.abs(mx.where(clean == corrupted, 0.0, clean - corrupted)).max().item()
    size = mx.abs(mx.where(mx.isfinite(clean), clean, 0.0)).max().item()
    if apart <= size * (ROUNDING if dtype == mx.float32 else ROUNDING_OF_HALF * _epsilon(dtype)):
        raise BaselineError(
            f"both texts give the same logits at the last position ({metric}): there is nothing to"
            " recover.\n  Choose texts that lead to different predictions, or write"
            " normalize=False."
        )


def _epsilon(dtype: mx.Dtype) -> float:
    return float(mx.finfo(dtype).eps)


def in_percent(
    found: np.ndarray, clean: float, corrupted: float, metric: str, runs: str = "both texts"
) -> np.ndarray:
    """Scores in percent of the way from the corrupted to the clean one.

    Raises: BaselineError where the two are one, or not finite.
    """
    if not (math.isfinite(clean) and math.isfinite(corrupted)):
        number = corrupted if math.isfinite(clean) else clean
        raise BaselineError(
            f"the {metric} of the two runs is {number}, and nothing is a share of that.\n"
            "  Where the model's own logits are not finite, run it in bfloat16 or float32; a metric"
            " of your own gives finite numbers."
        )
    if abs(clean - corrupted) <= ROUNDING_OF_SCORES * max(abs(clean), abs(corrupted)):
        raise BaselineError(
            f"{runs} give the same {metric} at the last position ({clean:g}): there is nothing"
            " to recover.\n  Choose texts that lead to different predictions, or write"
            " normalize=False."
        )
    found = found.astype(np.float64)
    return (100 * (found - corrupted) / (clean - corrupted)).astype(np.float32)


def at_of(grid: Grid) -> dict[str, dict[str, int]]:
    """What a result says of the one position or head that all of it is of."""
    return {"at": grid.fixed} if grid.fixed else {}


def tokens_along(
    model: Traceable, rows: Sequence[mx.array], grid: Grid
) -> dict[str, tuple[str, list[str]]]:
    """The tokens at the positions of a result, where they are those of every text."""
    if "position" not in grid.kept or grid.positions is None or not holds_tokens(rows[0]):
        return {}
    if any(not mx.array_equal(row, rows[0]).item() for row in rows):
        return {}
    ids = rows[0][0].tolist()
    name = str if model.tokenizer is None else model.token_to_str
    return {"token": ("position", [name(ids[position]) for position in grid.positions])}  # type: ignore
