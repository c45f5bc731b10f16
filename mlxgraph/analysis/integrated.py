"""Integrated gradients: slopes along the whole way from one value to the other, not at its start.

Attribution patching takes the slope where the way begins.  The mean slope along a straight way
gives what the score really does: summed over a value, the effects are its change from one end of
the way to the other.  The steps of the way are the rows of batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.attribution import CHANGE
from mlxgraph.analysis.components import RESID_PRE, Place
from mlxgraph.analysis.effects import Effects
from mlxgraph.analysis.inputs import last_position, whole_number
from mlxgraph.analysis.map_runs import kept_of, placed
from mlxgraph.analysis.pairs import Asked, Outcome, Pair, StoppedPair, answered
from mlxgraph.analysis.questions import number_of
from mlxgraph.analysis.scores import Score
from mlxgraph.analysis.slopes import (
    Key,
    cell_numbers,
    check_slopes,
    difference,
    differentiable,
    every,
    first_order,
    key_of,
    outcome_of,
    recorded,
    rows_are_apart,
    rows_for,
    targets_of,
)
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, SweepStopped

SITE, INPUTS = "site", "inputs"


def integrated_gradients(
    model: Traceable,
    clean_text: Any,
    corrupted_text: Any,
    component: str | Sequence[str] = "output",
    layers: Sequence[int] | None = None,
    metric: Any = "l2",
    *,
    positions: Any = "all",
    heads: Any = None,
    steps: int = 16,
    path: str = SITE,
    align: str | None = None,
    targets: Any = None,
    normalize: bool = True,
    direction: str = "denoise",
    average: bool = True,
    batch_size: int | None = None,
) -> Effects:
    """Attribution with the mean slope along the way from the corrupted value to the clean one.

    Args:
        clean_text, corrupted_text, component, layers, positions, heads, targets, align, direction,
            average: as for `activation_patching`.
        metric: as for `activation_patching`; what it computes has to be operations of mx that have
            a slope.
        steps: points on the way, those of Gauss and Legendre.
        path: what goes the way: `"site"`, each component of each layer by itself, so that the
            effects of one add up to what patching all of it does, in `steps` forwards and backwards
            for each; or `"inputs"`, what the first layer is given, in `steps` of them for all.
        normalize: in percent, as `activation_patching` has it; False: the change of the metric.
        batch_size: how many steps share a batch.
    Returns: Effects along the axes that `activation_patching` gives; by layer alone a dict too.
        `attrs["missing"]` is how far the effects of a whole value are from what patching it does,
        at the worst of the values that went: of few steps, or of jumps that slopes do not see.
    Raises: GradientError for a metric without a slope or a place that the score does not depend on,
        SweepStopped where it is interrupted, InputError, and what `activation_patching` raises.
    Source: Sundararajan et al. 2017, arXiv:1703.01365; by site Marks et al. 2024, arXiv:2403.19647;
        by inputs Hanna et al. 2024, arXiv:2403.17806.

    Example:
        >>> model.integrated_gradients(
        ...     "The capital of France is", "The capital of Italy is", "mlp", steps=8,
        ...     metric="logit_diff", targets=(" Paris", " Rome"),
        ... )
    """
    if path not in (SITE, INPUTS):
        raise InputError(
            f"there is no path {path!r:.40}.\n  Write path='site' to go from value to value at each"
            " place by itself, or path='inputs' to go so at the first layer's input."
        )
    steps = _at_least_one(steps, "steps")
    size = None if batch_size is None else _at_least_one(batch_size, "batch_size")
    asked = Asked(
        clean_text, corrupted_text, component, layers, metric, positions, heads, align, targets,
        normalize, direction, average,
        "Integrated gradients", CHANGE, {"method": "integrated", "path": path, "steps": steps},
    )  # fmt: skip

    def one(pair: Pair, score: Score) -> Outcome:
        rows = size or rows_for(pair.run)
        return _of_a_pair(model, pair, score, normalize, path, [*_batches(steps, rows)])

    return answered(model, asked, one)


def _at_least_one(given: Any, what: str) -> int:
    found = whole_number(given, what)
    if found < 1:
        raise InputError(f"{what}={found}: at least one is needed.\n  Write {what}=16.")
    return found


class _Batch(NamedTuple):
    """Points on the way, 0 to 1, and their weights, which add up to 1 over all batches."""

    points: mx.array
    weights: mx.array


def _batches(steps: int, rows: int) -> Iterator[_Batch]:
    points, weights = np.polynomial.legendre.leggauss(steps)
    count = -(-steps // rows)
    for some, own in zip(
        np.array_split((points + 1) / 2, count), np.array_split(weights / 2, count), strict=True
    ):
        yield _Batch(mx.array(some.astype(np.float32)), mx.array(own.astype(np.float32)))


def _of_a_pair(
    model: Traceable, pair: Pair, score: Score, normalize: bool, path: str, batches: list[_Batch]
) -> Outcome:
    places, needed = every(pair), dict(pair.places)
    # what goes, and where slopes are wanted beside it
    ways: list[tuple[Place, list[Place]]] = [(place, []) for place in places]
    if path == INPUTS:
        first = placed(model, pair.run, RESID_PRE, [0])[0][RESID_PRE]
        needed[RESID_PRE] = [*first, *(p for p in needed.get(RESID_PRE, []) if p.layer)]
        ways = [(first[0], places)]
    own, own_logits = kept_of(model, pair.run, needed)
    kept, logits = kept_of(model, pair.other, needed)
    dtype = logits.dtype
    own_logits, logits = own_logits.astype(mx.float32), logits.astype(mx.float32)
    ends = targets_of([p for some in needed.values() for p in some], own, kept, pair.match)
    run = _Run(model, pair.run, own, ends, score, logits if pair.denoise else own_logits)
    start = number_of(score, own_logits, run.reference)
    batches = run.fitting(batches, [p for some in needed.values() for p in some])
    products: dict[Key, np.ndarray] = {}
    slopes: list[mx.array] = []
    missing: list[float] = []
    stopped = None
    try:
        for place, at in ways:
            found = run.mean_slopes(place, [place, *at], batches)
            slopes += found
            for one, slope in zip([place, *at], found, strict=True):
                here = key_of(one)
                products[here] = first_order(one, slope, difference(ends[here], own[here]))
            missing.append(run.end(place) - start - float(products[key_of(place)].sum()))
    except KeyboardInterrupt:
        stopped = SweepStopped(len(products), len(places), None, None, "places")
    cells = [cell for cell in pair.grid.cells(pair.places) if key_of(cell.place) in products]
    changes = cell_numbers(cells, products)
    outcome = outcome_of(pair, score, own_logits, logits, cells, changes, normalize, dtype)
    if stopped is not None:
        raise StoppedPair(stopped, outcome) from None
    check_slopes(score, slopes, outcome.clean != outcome.corrupted)
    most = max(map(abs, missing))
    if normalize:
        most *= 100 / abs(outcome.clean - outcome.corrupted)
    return outcome.telling(missing=most)


class _Run(NamedTuple):
    """A text that runs, with values that go from their own to the other text's.

    Attributes: own, ends: where ways begin and end; reference: the clean run's logits.
    """

    model: Traceable
    row: mx.array
    own: Mapping[Key, mx.array]
    ends: Mapping[Key, mx.array]
    score: Score
    reference: mx.array

    def fitting(self, batches: list[_Batch], places: Sequence[Place]) -> list[_Batch]:
        """Batches, of one row each where a value has its rows not along its first axis."""
        most = max(batch.points.size for batch in batches)
        shapes = {place.name: place.shape for place in places}
        if rows_are_apart(self.model, self.row, shapes, most):
            return batches
        return [
            _Batch(batch.points[k : k + 1], batch.weights[k : k + 1])
            for batch in batches
            for k in range(batch.points.size)
        ]

    def mean_slopes(
        self, place: Place, at: Sequence[Place], batches: Sequence[_Batch]
    ) -> list[mx.array]:
        """The mean slope at some places, float32, as the value of one goes its way."""
        total: list[mx.array] = []
        for batch in batches:
            found = self._slopes(place, at, batch)
            total = [a + b for a, b in zip(total, found, strict=True)] if total else found
            mx.eval(total)
        return total

    def end(self, place: Place) -> float:
        """The score with the other text's value in a place: what the effects there add up to."""
        model = self.model
        with model.trace(self.row):
            self._put(place, self.ends[key_of(place)])
            logits = last_position(model.output).save()
        return number_of(self.score, logits, self.reference)

    def _put(self, place: Place, value: mx.array) -> None:
        """A value in a place, in an open block."""
        place.put(self.model, ..., value.astype(place.dtype))

    def _slopes(self, place: Place, at: Sequence[Place], batch: _Batch) -> list[mx.array]:
        model, rows = self.model, batch.points.size
        begin = self.own[key_of(place)].astype(mx.float32)
        points = batch.points.reshape(-1, *[1] * (begin.ndim - 1))
        value = begin + points * difference(self.ends[key_of(place)], begin)
        with differentiable(), model.trace(mx.concatenate([self.row] * rows)) as trace:
            self._put(place, value)
            logits = last_position(model.output, slice(None)).astype(mx.float32)
            scores = [recorded(self.score, logits[row], self.reference) for row in range(rows)]
            loss = mx.sum(mx.stack(scores) * batch.weights)
            slopes = trace.grad(loss, [one.own(model) for one in at])
            whole = [one.whole(slope) for one, slope in zip(at, slopes, strict=True)]
            found = [
                mx.sum(slope.astype(mx.float32), axis=0, keepdims=True).save()
                if rows > 1
                else slope.astype(mx.float32).save()
                for slope in whole
            ]
        return found
