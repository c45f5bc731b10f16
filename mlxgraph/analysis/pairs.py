"""Questions about pairs of texts, a clean one and a corrupted one: asked of each, then joined.

In: what a user asks, and how one pair is answered.  Out: Effects, the mean over pairs or each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.cells import Grid
from mlxgraph.analysis.components import Place
from mlxgraph.analysis.effects import Effects
from mlxgraph.analysis.inputs import one_row
from mlxgraph.analysis.map_runs import check_axes, placed, tokens_along
from mlxgraph.analysis.questions import (
    Match,
    chosen_heads,
    chosen_positions,
    grid_of,
    listed,
    matched,
    scoring,
    several_texts,
    without_column,
)
from mlxgraph.analysis.recovery import Recovery
from mlxgraph.analysis.scores import Score
from mlxgraph.analysis.together import among_ranks, weights_of
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import BaselineError, InputError
from mlxgraph.ranks.said import digest
from mlxgraph.ranks.together import Work

DENOISE, NOISE = "denoise", "noise"
RECOVERY = "recovery"


class Asked(NamedTuple):
    """A question, as the user put it: the arguments of every method that compares two texts.

    Attributes: title: of a picture; name: of the numbers where they are in no percent, with `{}`
        for the metric's; attrs: what else the result says of itself; share: the name of the
        numbers where they are in percent.
    """

    clean: Any
    corrupted: Any
    component: Any
    layers: Any
    metric: Any
    positions: Any
    heads: Any
    align: Any
    targets: Any
    normalize: bool
    direction: str
    average: bool
    title: str = "Activation patching"
    name: str = "{}"
    attrs: Mapping[str, Any] = {}
    share: str = RECOVERY


class Pair(NamedTuple):
    """One pair of texts, and what a question means for it.

    Attributes: run: the text that runs; other: the one whose values are put into it.
    """

    run: mx.array
    other: mx.array
    denoise: bool
    match: Match
    places: dict[str, list[Place]]
    grid: Grid


class Outcome(NamedTuple):
    """What one pair gives.

    Attributes: clean, corrupted: their scores; attrs: numbers that the result tells, the largest
        of all pairs.
    """

    grid: Grid
    table: np.ndarray
    clean: float
    corrupted: float
    attrs: Mapping[str, float] = {}

    def telling(self, **attrs: float) -> Outcome:
        """The same with more numbers that the result tells."""
        return self._replace(attrs={**self.attrs, **attrs})


class StoppedPair(Exception):  # noqa: N818 - carries what is done from one page of a call to another
    """A pair was interrupted.  Attributes: error: to raise; outcome: NaN for what is not done."""

    def __init__(self, error: Any, outcome: Outcome):
        self.error, self.outcome = error, outcome


def answered(model: Traceable, asked: Asked, one: Callable[[Pair, Score], Outcome]) -> Effects:
    """The answer to a question, of one pair of texts or of several.

    Args: one: answers for a pair.
    Raises: SweepStopped, with what is done in its `result`; and what `activation_patching` raises.
    """
    is_denoise(asked.direction)
    targets, keep = listed(asked.targets), not asked.average
    score = scoring(model, asked.metric, targets[0] if _is_nested(targets) else targets)
    pairs, is_list = _rows(model, asked.clean, asked.corrupted)
    scores = _scores(model, asked.metric, targets, score, len(pairs))
    many, keep = len(pairs) > 1, keep and is_list
    with among_ranks("patching of pairs", model) if many else Work() as work:
        if work.size > 1:
            said = {"pairs": digest(pairs), "question": _said(asked, score)}
            work.agree(f"{len(pairs)} pairs", **said, weights=weights_of(model))
        mine = work.mine([float(clean.size) for clean, _ in pairs])
        found: dict[int, Outcome] = {}
        for number in mine:
            try:
                found[number] = one(_pair(model, *pairs[number], asked), scores[number])
            except BaselineError as error:
                if not many:
                    raise
                raise BaselineError(f"pair {number}: {error}") from None
            except StoppedPair as stopped:
                found[number] = stopped.outcome
                outcomes, done = [*found.values()], [pairs[k] for k in found]
                own = scores[number]
                stopped.error.result = _result(model, outcomes, asked, own, done, keep)
                raise stopped.error from None
            work.check()
        every = work.exchanged(found if work.size == 1 else {k: list(v) for k, v in found.items()})
    outcomes = [_outcome(every[number]) for number in range(len(pairs))]
    return _result(model, outcomes, asked, score, pairs, keep)


def _said(asked: Asked, score: Score) -> bytes:
    """What tells a question from another, on other ranks too."""
    plain = asked._replace(clean=None, corrupted=None, metric=score.name, attrs={})
    return digest(*plain, dict(asked.attrs))


def _outcome(given: Any) -> Outcome:
    """An outcome, as it was or as it came from another rank."""
    if isinstance(given, Outcome):
        return given
    grid, *rest = given
    return Outcome(Grid(*grid), *rest)


def is_denoise(direction: Any) -> bool:
    """Whether the corrupted text runs.  Raises: InputError for what is no direction."""
    if direction not in (DENOISE, NOISE):
        raise InputError(
            f"there is no direction {direction!r:.40}.\n  Write direction='denoise' to run"
            " the corrupted text with clean values, or direction='noise' for the other way round."
        )
    return bool(direction == DENOISE)


def _pair(model: Traceable, clean: mx.array, corrupted: mx.array, asked: Asked) -> Pair:
    denoise = asked.direction == DENOISE
    run, other = (corrupted, clean) if denoise else (clean, corrupted)
    match = matched(run, other, asked.align, denoise)
    places, layers = placed(model, run, asked.component, asked.layers)
    positions = chosen_positions(
        asked.positions, match, f"the {'corrupted' if denoise else 'clean'} text"
    )
    heads = chosen_heads(asked.heads, places)
    grid = grid_of(asked.component, [*places], layers, positions, heads)
    check_axes(places, positions, match)
    return Pair(run, other, denoise, match, places, grid)


def _rows(
    model: Traceable, clean: Any, corrupted: Any
) -> tuple[list[tuple[mx.array, mx.array]], bool]:
    """The rows of each pair, and whether a list of pairs was given."""
    clean, corrupted = without_column(clean), without_column(corrupted)
    if not several_texts(clean) and not several_texts(corrupted):
        return [(one_row(model, clean), one_row(model, corrupted))], False
    texts = [list(given) if several_texts(given) else [given] for given in (clean, corrupted)]
    if len(texts[0]) != len(texts[1]):
        raise InputError(
            f"there are {len(texts[0])} clean texts and {len(texts[1])} corrupted ones.\n"
            "  Give a corrupted text for each clean one."
        )
    return [
        (one_row(model, one), one_row(model, other)) for one, other in zip(*texts, strict=True)
    ], True


def _is_nested(targets: Any) -> bool:
    return (
        isinstance(targets, (list, tuple))
        and bool(targets)
        and all(isinstance(one, (list, tuple)) for one in targets)
    )


def _scores(model: Traceable, metric: Any, targets: Any, score: Score, count: int) -> list[Score]:
    """The score of each pair.  Targets may be one pair of tokens, or one for each pair of texts."""
    if not _is_nested(targets):
        return [score] * count
    if len(targets) != count:
        raise InputError(
            f"there are {len(targets)} pairs of targets for {count} pairs of texts.\n"
            "  Give one pair of targets, or one for each."
        )
    return [scoring(model, metric, one) for one in targets]


def _result(
    model: Traceable,
    found: list[Outcome],
    asked: Asked,
    score: Score,
    pairs: list[tuple[mx.array, mx.array]],
    keep_pairs: bool,
) -> Effects:
    grid = found[0].grid
    if any(one.grid.axes != grid.axes for one in found):
        raise InputError(
            "the pairs have other positions, for their texts are of different lengths.\n"
            "  Write positions=-1, or another number that all of them count alike; or a loop."
        )
    runs = [clean if asked.direction == NOISE else corrupted for clean, corrupted in pairs]
    axes = {**({"pair": range(len(found))} if keep_pairs else {}), **grid.axes}
    table = np.stack([one.table for one in found])
    table = table if keep_pairs else table.mean(axis=0)
    clean, corrupted = (
        float(np.mean([getattr(one, name) for one in found])) for name in ("clean", "corrupted")
    )
    fields: dict[str, Any] = {
        "name": asked.share if asked.normalize else asked.name.format(score.name),
        "unit": "%" if asked.normalize else "",
        "attrs": {
            "metric": score.name,
            "direction": asked.direction,
            "clean": clean,
            "corrupted": corrupted,
            **asked.attrs,
            **{name: max(one.attrs.get(name, 0.0) for one in found) for name in found[0].attrs},
        },
    }
    component = asked.component if isinstance(asked.component, str) else ""
    title = f"{asked.title}{f' of {component}' if component else ''}"
    if component:
        fields["attrs"]["component"] = component
    if at := grid.fixed if all(one.grid.fixed == grid.fixed for one in found) else {}:
        fields["attrs"]["at"] = at
    if tuple(axes) == ("layer",):
        by_layer = dict(zip(grid.layers, table.tolist(), strict=True))
        if asked.attrs:
            fields["attrs"]["title"] = title
        return Recovery(by_layer, component or "block", abs(clean - corrupted), **fields)
    fields["attrs"]["title"] = title
    return Effects(table, axes, coords=tokens_along(model, runs, grid), **fields)
