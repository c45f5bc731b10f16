"""Activation patching: what of a model carries what tells a clean text from a corrupted one.

The clean text runs once, and everything that is to be patched is kept; then the corrupted one runs
with one part of it put in place, for each layer, position and head that was asked for: as one
sweep, whose runs share what comes before their patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

import mlx.core as mx

from mlxgraph.analysis.cells import Recorder, Stopped
from mlxgraph.analysis.effects import Effects
from mlxgraph.analysis.map_runs import check_apart, in_percent, kept_of, last_logits, patch_graph
from mlxgraph.analysis.metrics import Metric
from mlxgraph.analysis.pairs import Asked, Outcome, Pair, StoppedPair, answered
from mlxgraph.analysis.questions import number_of
from mlxgraph.analysis.recovery import Recovery
from mlxgraph.analysis.scores import Score
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.plot.figures import check_drawn, show


class _Further(TypedDict, total=False):
    """What all forms of the call take by name."""

    targets: Any
    normalize: bool
    direction: str
    batch_size: int | None
    memory_limit: int | None
    progress: bool | None


@overload  # one number a layer
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
    average: Literal[True] = True,
    **further: Unpack[_Further],
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
    average: bool = True,
    **further: Unpack[_Further],
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
        interrupted, InputError, NoTokenizerError, LayersError; for a picture UnknownNameError for a
        `cmap`, MissingDependencyError without matplotlib.
    Source: Meng et al. 2022, arXiv:2202.05262; Zhang and Nanda 2024, arXiv:2309.16042.

    Example:
        >>> clean, corrupted = "The capital of France is", "The capital of Italy is"
        >>> model.activation_patching(clean, corrupted, component="attn")
        >>> model.activation_patching(
        ...     clean, corrupted, "output", positions="all",
        ...     metric="logit_diff", targets=(" Paris", " Rome"),
        ... )
    """
    asked = Asked(
        clean_text, corrupted_text, component, layers, metric, positions, heads, align, targets,
        normalize, direction, average,
    )  # fmt: skip
    options = {"batch_size": batch_size, "memory_limit": memory_limit, "progress": progress}
    if plot:
        check_drawn(figsize, cmap)

    def one(pair: Pair, score: Score) -> Outcome:
        return _of_a_pair(model, pair, score, normalize, options)

    result = answered(model, asked, one)
    if plot:
        drawn = result.plot(figsize, cmap) if isinstance(result, Recovery) else result.plot()
        if isinstance(result, Recovery):
            result.figure = drawn
        show(drawn)
    return result


def _of_a_pair(
    model: Traceable, pair: Pair, score: Score, normalize: bool, options: Mapping[str, Any]
) -> Outcome:
    run, other, denoise, match, places, grid = pair
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
    if normalize:
        check_apart(clean_logits, worst, dtype, score.name)
        table = in_percent(table, ends["clean"], ends["corrupted"], score.name)
    outcome = Outcome(grid, table, ends["clean"], ends["corrupted"])
    if stopped is not None:
        raise StoppedPair(stopped, outcome)
    return outcome
