"""Slopes of a score at places of a model, and what they say of a step from one value to another.

In: a text, places, a score.  Out: the values there and the score's gradients, from one forward and
one backward pass; gradient times difference, summed over all but positions and heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.cells import Cell, part
from mlxgraph.analysis.components import HEADS, Place
from mlxgraph.analysis.inputs import first_array, last_position, value_at
from mlxgraph.analysis.map_runs import check_apart, in_percent, taken_of
from mlxgraph.analysis.metrics import METRICS
from mlxgraph.analysis.pairs import Outcome, Pair
from mlxgraph.analysis.questions import Match, number_of
from mlxgraph.analysis.scores import Score
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import GradientError, InputError, MLXGraphError

Key = tuple[str, int]  # a component and a layer
TOKENS = 256  # in a batch, if nothing is said: small models are faster so, large ones no slower


class Slopes(NamedTuple):
    """A run, and how its score changes with what it holds.

    Attributes: values, gradients: by component and layer; further: of further sites, by name;
        logits: of the last position, (vocabulary,), float32.
    """

    values: dict[Key, mx.array]
    gradients: dict[Key, mx.array]
    further: dict[str, mx.array]
    logits: mx.array


def key_of(place: Place) -> Key:
    """What a place is known by."""
    return place.component, place.layer


def whole(place: Place) -> Cell:
    """All of a place's value, as a cell."""
    return Cell((0, 0, 0, 0), place, None, None)


def every(pair: Pair) -> list[Place]:
    """The places of a question."""
    return [place for some in pair.places.values() for place in some]


def slopes_of(
    model: Traceable,
    row: mx.array,
    places: Sequence[Place],
    score: Score,
    reference: mx.array,
    slopes_at: Iterable[str] = (),
    values_at: Iterable[str] = (),
) -> Slopes:
    """The run of a text with the slopes of its score: one forward and one backward pass.

    Args: slopes_at, values_at: further sites whose gradients or values are wanted.
    Raises: GradientError for a score that no operations of mx lead to.
    """
    slopes_at, values_at = list(slopes_at), list(values_at)
    with differentiable(), model.trace(row) as trace:
        values = {key_of(place): place.value(model) for place in places}
        # a state between attention and the rest changes as what is added to it does
        handles = [place.own(model) for place in places]
        handles += [first_array(value_at(model, name)) for name in slopes_at]
        own = {name: first_array(value_at(model, name)).save() for name in values_at}
        logits = last_position(model.output).astype(mx.float32)
        loss = recorded(score, logits, reference)
        found = trace.grad(loss, handles)
        for k, place in enumerate(places):
            found[k] = place.whole(found[k])
        found = [gradient.save() for gradient in found]
        values = {key: value.save() for key, value in values.items()}
        logits = logits.save()
    mx.eval(values, found, own, logits)
    gradients = dict(zip(values, found, strict=False))
    own |= dict(zip([f"{name} slope" for name in slopes_at], found[len(places) :], strict=True))
    return Slopes(values, gradients, own, logits)


@contextmanager
def differentiable() -> Iterator[None]:
    """Raises: GradientError where MLX has no gradient of something that the model does."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if isinstance(error, MLXGraphError) or "vjp" not in str(error).lower():
            raise
        raise GradientError(
            f"the model does something that MLX has no gradient of: {error}\n"
            "  Choose components and layers that come after it, or write"
            " model.activation_patching, which needs no gradients."
        ) from error


def recorded(score: Score, logits: mx.array, reference: mx.array) -> mx.array:
    """A score, in an open block.  Raises: GradientError for one that gives a number of Python's."""
    if score.function is METRICS.get(score.name):
        return score(logits, reference)

    def watched(*given: mx.array) -> Any:
        found = score.function(*given)
        if isinstance(found, (int, float, np.ndarray, np.generic)):
            raise GradientError(
                f"the metric {score.name!r} gives a {type(found).__name__}, which has no slope.\n"
                "  Compute it with mx alone, without float(), .item() or numpy:"
                " lambda logits: logits[a] - logits[b]."
            )
        if isinstance(found, mx.array) and not hasattr(type(found), "value"):  # not recorded
            raise GradientError(
                f"the metric {score.name!r} gives an array that does not come of the logits by what"
                " is recorded: a constant, or by a function that was taken out of mx before.\n"
                "  Write it as a function of your own: lambda logits: mx.max(logits)."
            )
        return found

    return Score(score.name, watched, score.of_two)(logits, reference)


def rows_for(row: mx.array) -> int:
    """How many copies of a text share a batch, if nothing is said."""
    return max(1, TOKENS // int(row.shape[1]))


def rows_are_apart(
    model: Traceable, row: mx.array, shapes: Mapping[str, tuple[int, ...]], rows: int
) -> bool:
    """Whether sites have the copies of a text, in a batch, along their first axis.

    Args: shapes: of each site's value, of the text alone.
    """
    with model.trace(mx.concatenate([row] * rows)):
        found = {name: tuple(first_array(value_at(model, name)).shape) for name in shapes}
    return all(found[name] == (rows, *shape[1:]) for name, shape in shapes.items())


def targets_of(
    places: Iterable[Place], own: Mapping[Key, mx.array], kept: Mapping[Key, mx.array], match: Match
) -> dict[Key, mx.array]:
    """What each place's value would be with the other text's values in it."""
    found = {}
    for place in places:
        key = key_of(place)
        spans, value = taken_of(whole(place), kept, match)
        target = mx.array(own[key])
        target[part(spans)] = value.astype(target.dtype)
        found[key] = target
    return found


def difference(target: mx.array, own: mx.array) -> mx.array:
    """How far one value is from another, float32; equal infinities differ by nothing."""
    target, own = target.astype(mx.float32), own.astype(mx.float32)
    return mx.where(target == own, 0.0, target - own)


def first_order(place: Place, gradient: mx.array, step: mx.array) -> np.ndarray:
    """Gradient times step, summed over all axes but those of positions and heads, which stay."""
    product = mx.where(step == 0, 0.0, gradient.astype(mx.float32) * step)
    stay = {*place.positions[:1], *([HEADS] if place.heads else [])}
    axes = [axis for axis in range(product.ndim) if axis not in stay]
    return np.array(mx.sum(product, axis=axes, keepdims=True) if axes else product)


def cell_numbers(cells: Iterable[Cell], products: Mapping[Key, np.ndarray]) -> list[float]:
    """The effects of cells, of what `first_order` gives for their places."""
    return [float(products[key_of(cell.place)][part(cell.spans())].sum()) for cell in cells]


def check_slopes(score: Score, gradients: Iterable[mx.array], apart: bool) -> None:
    """Raises: GradientError where a score changes, and its slope is zero everywhere."""
    largest = [mx.max(mx.abs(gradient)) for gradient in gradients]
    if apart and not any(one.item() for one in largest):
        raise GradientError(
            f"the slope of {score.name!r} is zero at every place, though the two texts differ in"
            " it: gradients say nothing of a metric that goes by steps, such as a rank or an"
            " argmax, nor of effects that cancel.\n  Write a metric that changes smoothly,"
            " metric='logit_diff'; or model.attribution_patching(..., graddrop=True), or"
            " model.activation_patching."
        )


def _check_finite(score: Score, cells: Sequence[Cell], numbers: Sequence[float]) -> None:
    """Raises: GradientError for an effect that is no finite number."""
    for cell, number in zip(cells, numbers, strict=True):
        if not np.isfinite(number):
            raise GradientError(
                f"the effect of {cell.place.name} is {number}: the step from one text to the"
                f" other, or the slope of {score.name!r}, is not finite there.\n  Of texts of"
                " different lengths patch 'pattern' in place of 'scores'; run a model of float16"
                " in bfloat16 or float32."
            )


def check_direction(score: Score, denoise: bool) -> None:
    """Raises: InputError for a distance from the text that runs."""
    if score.of_two and not denoise:
        raise InputError(
            f"the {score.name} distance from the clean run is least at that run itself: it has no"
            " slope there.\n  Write direction='denoise', or a score of one run:"
            " metric='logit_diff'."
        )


def outcome_of(
    pair: Pair,
    score: Score,
    run: mx.array,
    other: mx.array,
    cells: Sequence[Cell],
    changes: Sequence[float],
    normalize: bool,
    dtype: mx.Dtype,
    sizes: bool = False,
) -> Outcome:
    """The answer for a pair.

    Args:
        run, other: logits of the text that runs and of the other one, float32.
        cells, changes: those that are known, and of the score.
        dtype: that of the model's logits.
        sizes: whether changes are absolute: in percent, no run is where they begin.
    Raises: GradientError for a change that is no finite number, BaselineError.
    """
    _check_finite(score, cells, changes)
    clean, corrupted = (other, run) if pair.denoise else (run, other)
    best, worst = number_of(score, clean, clean), number_of(score, corrupted, clean)
    table = pair.grid.table(cells, np.asarray(changes))
    if normalize:
        check_apart(clean, corrupted, dtype, score.name)
        start = worst if pair.denoise or sizes else best
        sign = -1 if sizes and best < worst else 1
        table = in_percent(start + sign * table.astype(np.float64), best, worst, score.name)
    return Outcome(pair.grid, table, best, worst)


def named_slope(found: Slopes, name: str) -> Any:
    """The gradient at a further site."""
    return found.further[f"{name} slope"]
