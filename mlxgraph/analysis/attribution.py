"""Attribution patching: what activation patching would give, to the first order, for all at once.

How far a score moves when a value is exchanged is the gradient of the score there, times the
difference of the two values, if the model were linear in between.  One forward of the one text
gives the values, a forward and a backward pass of the other the rest, whatever the number of sites,
positions and heads; GradDrop costs one more of these for each layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.attention_step import attention_steps, corrected, sites_for
from mlxgraph.analysis.effects import Effects
from mlxgraph.analysis.graddrop import without_cancelling
from mlxgraph.analysis.map_runs import kept_of
from mlxgraph.analysis.pairs import RECOVERY, Asked, Outcome, Pair, answered
from mlxgraph.analysis.questions import number_of
from mlxgraph.analysis.scores import Score
from mlxgraph.analysis.slopes import (
    Key,
    Slopes,
    cell_numbers,
    check_direction,
    check_slopes,
    difference,
    every,
    first_order,
    key_of,
    outcome_of,
    slopes_of,
    targets_of,
)
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError

PLAIN, CORRECTED = "attribution", "atp*"
CHANGE, SIZE = "change of {}", "size of the change of {}"


def attribution_patching(
    model: Traceable,
    clean_text: Any,
    corrupted_text: Any,
    component: str | Sequence[str] = "output",
    layers: Sequence[int] | None = None,
    metric: Any = "l2",
    *,
    positions: Any = "all",
    heads: Any = None,
    method: str = PLAIN,
    graddrop: bool = False,
    align: str | None = None,
    targets: Any = None,
    normalize: bool = True,
    direction: str = "denoise",
    average: bool = True,
) -> Effects:
    """What `activation_patching` would give, to the first order: gradient times difference.

    The clean text runs once, the corrupted one once forward and once back; all cells come from
    these.  What is linear after the patched place is exact; the rest is an estimate.

    Args:
        clean_text, corrupted_text, component, layers, positions, heads, targets, align, direction,
            average: as for `activation_patching`.
        metric: as for `activation_patching`; what it computes has to be operations of mx that have
            a slope.  A distance is for `direction="denoise"` alone: at the clean run it is least.
        method: `"attribution"`; `"atp*"` follows the step of `"queries"` and `"keys"` through the
            softmax exactly, to the pattern, and is of the first order from there on.
        graddrop: the mean of the absolute estimates in which one layer's attention and MLP are
            held, over all layers but a part's own, so that what a part does directly and by way of
            later ones cannot cancel: sizes, without a sign, in percent of the way between the two
            runs.  One more forward and backward pass for each layer, several in a batch.
        normalize: the estimate of the patched score in percent, as `activation_patching` has it;
            False: the change of the metric, which is 0 for no effect.
    Returns: Effects along the axes that `activation_patching` gives; by layer alone a dict too.
    Raises: GradientError for a metric without a slope or a place that the score does not depend on,
        InputError, with `graddrop` also for layers that are no sums of what they are given and what
        their parts add, and what `activation_patching` raises.
    Source: Nanda 2023, *Attribution patching*; Syed et al. 2023, arXiv:2310.10348; Kramár et al.
        2024, arXiv:2403.00745.

    Example:
        >>> model.attribution_patching(
        ...     "The capital of France is", "The capital of Italy is", "output",
        ...     metric="logit_diff", targets=(" Paris", " Rome"),
        ... )
    """
    if method not in (PLAIN, CORRECTED):
        raise InputError(
            f"there is no method {method!r:.40}.\n  Write method='attribution', or method='atp*'"
            " for queries and keys."
        )
    title = "Attribution patching" if method == PLAIN else "AtP*"
    asked = Asked(
        clean_text, corrupted_text, component, layers, metric, positions, heads, align, targets,
        normalize, direction, average,
        f"{title} (GradDrop)" if graddrop else title, SIZE if graddrop else CHANGE,
        {"method": method, "graddrop": bool(graddrop)},
        "size of the effect" if graddrop else RECOVERY,
    )  # fmt: skip

    def one(pair: Pair, score: Score) -> Outcome:
        return _of_a_pair(model, pair, score, normalize, method == CORRECTED, bool(graddrop))

    return answered(model, asked, one)


def _of_a_pair(
    model: Traceable, pair: Pair, score: Score, normalize: bool, correct: bool, graddrop: bool
) -> Outcome:
    check_direction(score, pair.denoise)
    places = every(pair)
    slopes_at, values_at = sites_for(pair) if correct else ({}, [])
    kept, logits = kept_of(model, pair.other, pair.places)
    dtype, logits = logits.dtype, logits.astype(mx.float32)
    run = slopes_of(model, pair.run, places, score, logits, slopes_at, values_at)
    apart = number_of(score, run.logits, logits) != number_of(score, logits, logits)
    targets = targets_of(places, run.values, kept, pair.match)
    steps = attention_steps(model, pair, run, targets) if correct else {}

    def products(pair: Pair, run: Slopes) -> dict[Key, np.ndarray]:
        found = corrected(pair, run, steps) if correct else {}
        for place in every(pair):
            key = key_of(place)
            if key not in found:
                step = difference(targets[key], run.values[key])
                found[key] = first_order(place, run.gradients[key], step)
        return found

    cells = [*pair.grid.cells(pair.places)]
    if graddrop:
        changes = without_cancelling(model, pair, run, score, logits, slopes_at, cells, products)
    else:
        changes = cell_numbers(cells, products(pair, run))
    check_slopes(score, [mx.array(changes)] if graddrop else run.gradients.values(), apart)
    return outcome_of(
        pair, score, run.logits, logits, cells, changes, normalize, dtype, sizes=graddrop
    )
