"""Activation patching: what of a model carries what tells a clean text from a corrupted one.

The clean text runs once, and everything that is to be patched is kept; then the corrupted one runs
with one part of it put in place, for each layer, position and head that was asked for: as one
sweep, whose runs share what comes before their patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, overload

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.cells import Grid, Recorder, Stopped
from mlxgraph.analysis.effects import Effects
from mlxgraph.analysis.inputs import one_row
from mlxgraph.analysis.map_runs import (
    check_apart,
    check_axes,
    in_percent,
    kept_of,
    last_logits,
    patch_graph,
    placed,
    tokens_along,
)
from mlxgraph.analysis.metrics import Metric
from mlxgraph.analysis.questions import (
    chosen_heads,
    chosen_positions,
    grid_of,
    matched,
    number_of,
    scoring,
    several_texts,
)
from mlxgraph.analysis.scores import Score
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError
from mlxgraph.plot.figures import show
from mlxgraph.plot.recovery import recovery_bars

DENOISE, NOISE = "denoise", "noise"


class Recovery(Effects, dict):  # type: ignore[misc]  # a dict, which has no hash
    """Effects by layer alone, which are a dict too: `{layer: recovery in percent}`.

    Attributes:
        component: what was patched.
        baseline: the distance between the corrupted and the clean run; of a score, the difference.
        figure: the matplotlib figure, if `plot=True` asked for one.
    """

    def __init__(self, found: Mapping[int, float], component: str, baseline: float, **fields: Any):
        layers = list(found)
        Effects.__init__(self, [found[k] for k in layers], {"layer": layers}, **fields)
        dict.__init__(self, found)
        self.component = component
        self.baseline = baseline
        self.figure: Any = None

    def plot(  # type: ignore[override]  # as the reference documents have it
        self, figsize: tuple[float, float] = (12, 8), cmap: str = "RdBu_r"
    ) -> Any:
        """The bar chart of recovery by layer.  Returns: a matplotlib Figure."""
        if self.unit != "%":
            return Effects.plot(self, figsize, cmap)
        return recovery_bars(self, self.component, figsize, cmap)


@overload
def activation_patching(
    model: Traceable,
    clean_text: Any,
    corrupted_text: Any,
    component: str = "mlp",
    layers: Sequence[int] | None = None,
    metric: str | Metric = "l2",
    plot: bool = False,
    figsize: tuple[float, float] = (12, 8),
    cmap: str = "RdBu_r",
    align: str | None = None,
    *,
    positions: int | None = None,
    heads: int | None = None,
    targets: Any = None,
    normalize: bool = True,
    direction: str = "denoise",
    average: Literal[True] = True,
    batch_size: int | None = None,
    memory_limit: int | None = None,
    progress: bool | None = None,
) -> Recovery: ...


@overload
def activation_patching(
    model: Traceable,
    clean_text: Any,
    corrupted_text: Any,
    component: str | Sequence[str] = "mlp",
    layers: Sequence[int] | None = None,
    metric: Any = "l2",
    plot: bool = False,
    figsize: tuple[float, float] = (12, 8),
    cmap: str = "RdBu_r",
    align: str | None = None,
    *,
    positions: Any = None,
    heads: Any = None,
    targets: Any = None,
    normalize: bool = True,
    direction: str = "denoise",
    average: bool = True,
    batch_size: int | None = None,
    memory_limit: int | None = None,
    progress: bool | None = None,
) -> Effects: ...


def activation_patching(
    model: Traceable,
    clean_text: Any,
    corrupted_text: Any,
    component: str | Sequence[str] = "mlp",
    layers: Sequence[int] | None = None,
    metric: Any = "l2",
    plot: bool = False,
    figsize: tuple[float, float] = (12, 8),
    cmap: str = "RdBu_r",
    align: str | None = None,
    *,
    positions: Any = None,
    heads: Any = None,
    targets: Any = None,
    normalize: bool = True,
    direction: str = "denoise",
    average: bool = True,
    batch_size: int | None = None,
    memory_limit: int | None = None,
    progress: bool | None = None,
) -> Any:
    """How far the corrupted run comes back to the clean one when one part of it is patched.

    Args:
        clean_text, corrupted_text: texts, messages or token ids, of the same number of tokens
            unless `align` is given; or lists of as many of these, for several pairs.
        component: `"output"` (of the layer), `"resid_pre"` (its input), `"resid_mid"` (between
            attention and the rest, where a forward shows that there is such a state), `"attn"`,
            `"mlp"`; `"heads"`, `"queries"`, `"keys"`, `"values"`, `"pattern"`, `"scores"` inside
            attention, head by head; any module of the layers (`"mlp.gate_proj"`,
            `"input_layernorm"`, ...); or a list of these, which makes an axis "component".
        layers: layer numbers; all that have the component if left out.
        metric: of the last position's logits: a distance from the clean run's, `"l2"`, `"cosine"`,
            `"mse"` or `"kl"` (of the clean prediction from the patched one); `"logit_diff"`, the
            logit of the first of `targets` minus that of the second; a function of one logit vector
            (vocabulary,), float32, that gives a number (a score); or of two, the patched run's and
            the clean run's (a distance).
        plot: draw the result, show it where there is something to show it on, and keep the picture
            of layers alone as `.figure` of the result.
        figsize, cmap: of the picture by layer.
        align: for texts of different lengths: `"start"` patches the positions that both have
            counted from the first, `"end"` from the last.
        positions: None patches all positions at once; `"all"` and a list of numbers each by
            itself, along an axis "position", counted in the text that runs; one number that alone.
        heads: the heads to patch one by one, `"all"` or numbers, along an axis "head"; left out,
            all of them where every component is one of the names inside attention, and else all at
            once.  One number is that head alone.
        targets: two tokens, texts or ids, for `"logit_diff"`: the clean answer first.
        normalize: in percent of the way from the corrupted run to the clean one:
            `100 * (patched - corrupted) / (clean - corrupted)`, so that 100 is the clean run's
            score and 0 the corrupted one's, in both directions.  False: the metric itself.
        direction: `"denoise"` runs the corrupted text with clean values, `"noise"` the clean text
            with corrupted ones.
        average: the mean over pairs; False keeps them along an axis "pair".
        batch_size, memory_limit, progress: as for `model.sweep`.
    Returns: Effects along "component", "layer", "position" (with a coord "token") and "head", as
        far as they were asked for.  By layer alone it is the dict `{layer: percent}` too; with a
        distance `100 * (baseline - distance) / baseline`: 100 is full recovery, 0 none, and below
        0 the patch led further away.  NaN where a layer lacks the component or the head.
    Raises: LengthsError, AlignError, BaselineError where both texts score the same, BoundsError
        for a layer or a head, PositionError, HeadsError for heads of what has none,
        UnknownSiteError for a component, UnknownNameError for a metric, TokenError for a target of
        several tokens, ShapeError for a component without positions, SweepStopped where it is
        interrupted, InputError, NoTokenizerError, LayersError, MissingDependencyError for a
        picture without matplotlib.
    Source: Meng et al. 2022, arXiv:2202.05262; Zhang and Nanda 2024, arXiv:2309.16042.

    Example:
        >>> clean, corrupted = "The capital of France is", "The capital of Italy is"
        >>> model.activation_patching(clean, corrupted, component="attn")
        >>> model.activation_patching(
        ...     clean, corrupted, "output", positions="all",
        ...     metric="logit_diff", targets=(" Paris", " Rome"),
        ... )
    """
    if direction not in (DENOISE, NOISE):
        raise InputError(
            f"there is no direction {direction!r:.40}.\n  Write direction='denoise' to run the"
            " corrupted text with clean values, or direction='noise' for the other way round."
        )
    score = scoring(model, metric, targets if not _is_nested(targets) else targets[0])
    pairs, is_list = _pairs(model, clean_text, corrupted_text)
    scores = _scores(model, metric, targets, score, len(pairs))
    asked = _Asked(component, layers, positions, heads, align, direction, normalize)
    options = {"batch_size": batch_size, "memory_limit": memory_limit, "progress": progress}
    found = []
    for number, ((clean, corrupted), one) in enumerate(zip(pairs, scores, strict=True)):
        try:
            found.append(_of_a_pair(model, clean, corrupted, asked, one, options))
        except _StoppedPair as stopped:
            found.append(stopped.outcome)
            told = _result(model, found, asked, one, pairs, is_list and not average, number + 1)
            stopped.error.result = told
            raise stopped.error from None
    result = _result(model, found, asked, score, pairs, is_list and not average, len(pairs))
    if plot:
        drawn = result.plot(figsize, cmap) if isinstance(result, Recovery) else result.plot()
        if isinstance(result, Recovery):
            result.figure = drawn
        show(drawn)
    return result


class _Asked(NamedTuple):
    component: Any
    layers: Any
    positions: Any
    heads: Any
    align: Any
    direction: str
    normalize: bool


class _Outcome(NamedTuple):
    """What one pair gives.  Attributes: clean, corrupted: their scores."""

    grid: Grid
    table: np.ndarray
    clean: float
    corrupted: float


class _StoppedPair(Exception):  # noqa: N818 - within this page
    def __init__(self, error: Any, outcome: _Outcome):
        self.error, self.outcome = error, outcome


def _pairs(
    model: Traceable, clean: Any, corrupted: Any
) -> tuple[list[tuple[mx.array, mx.array]], bool]:
    """The rows of each pair, and whether a list of pairs was given."""
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


def _of_a_pair(
    model: Traceable,
    clean: mx.array,
    corrupted: mx.array,
    asked: _Asked,
    score: Score,
    options: Mapping[str, Any],
) -> _Outcome:
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
    kept, logits = kept_of(model, other, places)
    dtype, logits = logits.dtype, logits.astype(mx.float32)
    best = logits if denoise else last_logits(model, run)
    recorder, cells = Recorder(model, run), [*grid.cells(places)]
    graphs = [patch_graph(recorder, cell, kept, match) for cell in cells]
    latest: list[mx.array] = []

    def against_clean(found: mx.array) -> mx.array:
        latest[:] = [found]
        return score(found, best)

    stopped = None
    try:
        # the unedited run comes last: what is asked of all is asked of it, in the same arithmetic
        told = Score(score.name, against_clean, of_two=False)
        numbers = recorder.swept([*graphs, recorder.nothing], told, options)
    except Stopped as early:
        stopped, numbers = early.error, early.numbers
    own = latest[0] if latest else best
    if stopped is not None or number_of(score, own, best) != numbers[-1]:
        own = last_logits(model, run)
    clean_logits, worst = (best, own) if denoise else (own, logits)
    ends = {
        "clean": number_of(score, clean_logits, best),
        "corrupted": number_of(score, worst, best),
    }
    table = grid.table(cells, numbers[:-1])
    if asked.normalize:
        check_apart(clean_logits, worst, dtype, score.name)
        table = in_percent(table, ends["clean"], ends["corrupted"], score.name)
    outcome = _Outcome(grid, table, **ends)
    if stopped is not None:
        raise _StoppedPair(stopped, outcome)
    return outcome


def _result(
    model: Traceable,
    found: list[_Outcome],
    asked: _Asked,
    score: Score,
    pairs: list[tuple[mx.array, mx.array]],
    keep_pairs: bool,
    count: int,
) -> Effects:
    grid = found[0].grid
    if any(one.grid.axes != grid.axes for one in found):
        raise InputError(
            "the pairs have other positions, for their texts are of different lengths.\n"
            "  Write positions=-1, or another number that all of them count alike; or a loop."
        )
    runs = [clean if asked.direction == NOISE else corrupted for clean, corrupted in pairs]
    axes = {**({"pair": range(count)} if keep_pairs else {}), **grid.axes}
    table = np.stack([one.table for one in found])
    table = table if keep_pairs else table.mean(axis=0)
    clean, corrupted = (
        float(np.mean([getattr(one, name) for one in found])) for name in ("clean", "corrupted")
    )
    fields: dict[str, Any] = {
        "name": "recovery" if asked.normalize else score.name,
        "unit": "%" if asked.normalize else "",
        "attrs": {
            "metric": score.name,
            "direction": asked.direction,
            "clean": clean,
            "corrupted": corrupted,
        },
    }
    coords = tokens_along(model, runs, grid)
    component = asked.component if isinstance(asked.component, str) else ""
    if component:
        fields["attrs"]["component"] = component
    if at := grid.fixed if all(one.grid.fixed == grid.fixed for one in found) else {}:
        fields["attrs"]["at"] = at
    if tuple(axes) == ("layer",):
        by_layer = dict(zip(grid.layers, table.tolist(), strict=True))
        return Recovery(by_layer, component or "block", abs(clean - corrupted), **fields)
    fields["attrs"]["title"] = f"Activation patching{f' of {component}' if component else ''}"
    return Effects(table, axes, coords=coords, **fields)
