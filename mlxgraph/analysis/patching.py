"""Activation patching: which layers carry what tells a clean text from a corrupted one.

The clean text, the corrupted text and one corrupted copy for each layer are the rows of one
batch; in copy i, layer i's component gets the clean row's value.  So one forward (a few, where
its logits would be large) does the work of a clean run and a patched run for each layer, and
the baseline comes out of the same arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlxgraph.analysis.inputs import (
    axes_at,
    choose_layers,
    first_array,
    holds_tokens,
    one_row,
    with_axes_first,
)
from mlxgraph.analysis.metrics import Metric, distances, metric_of
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import (
    AlignError,
    BaselineError,
    InputError,
    LengthsError,
    ShapeError,
    UnknownSiteError,
)
from mlxgraph.errors.source_line import here
from mlxgraph.plot.figures import show
from mlxgraph.plot.recovery import recovery_bars

MOST_LOGITS = 1 << 27  # logits of one batch: 512 MiB in float32
WHOLE_BLOCK = ("", "block", "layer")
CLEAN, CORRUPTED, COPIES = 0, 1, 2  # the rows of a batch


class Recovery(dict):
    """`{layer: recovery in percent}` of activation patching, with what is needed to draw it.

    Attributes:
        component: what was patched.
        baseline: the distance between the corrupted and the clean run.
        figure: the matplotlib figure, if `plot=True` asked for one.
    """

    def __init__(self, found: dict[int, float], component: str, baseline: float):
        super().__init__(found)
        self.component = component
        self.baseline = baseline
        self.figure: Any = None

    def plot(self, figsize: tuple[float, float] = (12, 8), cmap: str = "RdBu_r") -> Any:
        """The bar chart of recovery by layer.  Returns: a matplotlib Figure."""
        return recovery_bars(self, self.component, figsize, cmap)


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
) -> Recovery:
    """How far the corrupted run comes back to the clean one when one component is patched.

    Args:
        clean_text, corrupted_text: texts, messages or token ids, of the same number of tokens
            unless `align` is given.
        component: a module of the layers (`"mlp"`, `"self_attn"` or `"attn"`,
            `"mlp.gate_proj"`, `"self_attn.q_proj"`, `"input_layernorm"`, ...); `"block"` is the
            layer's output itself.
        layers: layer numbers; all that have the component if left out.
        metric: the distance of the last position's logits from the clean run's: `"l2"`,
            `"cosine"`, `"mse"`, `"kl"` (of the clean prediction from the patched one), or a
            function of two logit vectors (the patched run's and the clean run's, float32) that
            gives a number.
        plot: draw a bar chart, show it where there is something to show it on, and keep it as
            `.figure` of the result.
        figsize, cmap: of the picture.
        align: for texts of different lengths: `"start"` patches the positions that both have
            counted from the first, `"end"` from the last.
    Returns: `{layer: 100 * (baseline - distance) / baseline}`; 100 is full recovery, 0 none,
        and below 0 the patch led further away.
    Raises: LengthsError, AlignError, BaselineError where both texts give the same logits,
        BoundsError for a layer, UnknownSiteError for a component, UnknownNameError for a metric,
        InputError, NoTokenizerError, LayersError, MissingDependencyError for a picture without
        matplotlib.
    Source: Meng et al. 2022, arXiv:2202.05262; Zhang and Nanda 2024, arXiv:2309.16042.

    Example:
        >>> model.activation_patching(
        ...     "The capital of France is", "The capital of Italy is", component="attn"
        ... )
    """
    metric_of(metric)
    rows = [one_row(model, clean_text), one_row(model, corrupted_text)]
    _check_lengths(rows, align)
    paths = _paths(model, component, choose_layers(model, layers), layers is not None)
    found: dict[int, float] = {}
    baseline = math.nan
    for group in _groups(model, rows, list(paths)):
        logits = _run(model, rows, {layer: paths[layer] for layer in group}, align or "end")
        apart = distances(metric, logits[CORRUPTED:], logits[CLEAN])
        baseline = _checked(apart[0], metric)
        for layer, distance in zip(group, apart[1:], strict=True):
            found[layer] = 100 * (baseline - distance) / baseline
    recovery = Recovery(found, component or "block", baseline)
    if plot:
        recovery.figure = recovery.plot(figsize, cmap)
        show(recovery.figure)
    return recovery


def _checked(baseline: float, metric: str | Metric) -> float:
    if not math.isfinite(baseline):
        raise BaselineError(
            f"the {metric} distance between the two runs is {baseline}: the model's own logits "
            "are not finite.\n  Run the model in bfloat16 or float32."
        )
    if baseline == 0:
        raise BaselineError(
            f"both texts give the same logits at the last position ({metric} distance 0): there "
            "is nothing to recover.\n  Choose texts that lead to different predictions."
        )
    return baseline


def _check_lengths(rows: list[mx.array], align: str | None) -> None:
    if align not in (None, "start", "end"):
        raise AlignError(str(align), ("start", "end"))
    clean, corrupted = (row.shape[1] for row in rows)
    if clean == corrupted:
        return
    if align is None:
        raise LengthsError(clean, corrupted)
    if not all(map(holds_tokens, rows)):
        raise InputError("only token ids of different lengths can be aligned.")


def _paths(model: Traceable, component: str, layers: list[int], asked: bool) -> dict[int, str]:
    """The component's path in each layer; unasked-for layers without it are left out."""
    found = {}
    missing = None
    for layer in layers:
        block = model.layers[layer].path
        try:
            whole = component in WHOLE_BLOCK
            found[layer] = block if whole else model[f"{block}.{component}"].path
        except UnknownSiteError as error:
            missing = error
            if asked:
                raise
    if not found and missing is not None:
        raise missing
    return found


def _groups(model: Traceable, rows: list[mx.array], layers: list[int]) -> list[list[int]]:
    """Layers in batches whose logits are not too many to hold."""
    with model.trace(rows[CLEAN]):
        vocabulary = first_array(model.output).shape[-1]
    length = max(row.shape[1] for row in rows)
    size = max(1, MOST_LOGITS // (length * vocabulary) - COPIES)
    return [layers[start : start + size] for start in range(0, len(layers), size)]


def _run(model: Traceable, rows: list[mx.array], paths: dict[int, str], align: str) -> mx.array:
    """The last position's logits of the clean, the corrupted and each patched row, float32."""
    clean, corrupted = rows
    order = [clean, corrupted, *[corrupted] * len(paths)]
    same = clean.shape == corrupted.shape
    batch: Any = mx.concatenate(order) if same else [row[0].tolist() for row in order]
    rows_of = batch.tolist() if same and holds_tokens(batch) else list(batch)
    axes = axes_at(model, paths.values(), rows_of)
    with model.trace(batch):
        for copy, path in enumerate(paths.values(), start=COPIES):
            value = first_array(model[path].output)
            row, positions = axes[path]
            if row is None or not (same or positions):
                raise ShapeError(
                    f"{path} gives {value.shape}, of which no axis is that of the texts",
                    str(here()),
                    "Patch a component whose value has one.",
                )
            value = with_axes_first(value, row, positions[0]) if positions else value
            if same:
                value[copy] = value[CLEAN]
            else:
                lengths = [one.shape[1] for one in rows]
                _patch_aligned(value, copy, lengths, align, _second(row, positions))
        logits = first_array(model.output)[:, -1].astype(mx.float32).save()
    return logits


def _second(row: int, positions: list[int]) -> int | None:
    """Where a second axis of positions is, once those of rows and of positions come first."""
    if len(positions) < 2:
        return None
    before = [axis for axis in (row, positions[0]) if axis < positions[1]]
    return positions[1] - len(before) + 2


def _patch_aligned(value: Any, copy: int, lengths: list[int], align: str, keys: int | None) -> None:
    """Patch the positions that a left-padded row shares with the clean one.

    Args: keys: a second axis of positions, as a pattern has: it is moved along with the first, and
        what the clean text has of tokens that the other lacks is left out.
    """
    longest, both = max(lengths), min(lengths)
    starts = [longest - (length if align == "start" else both) for length in lengths]
    source, target = (slice(start, start + both) for start in starts)
    clean = value[CLEAN]
    there: tuple[Any, ...] = (Ellipsis,)
    if keys is not None:
        clean = mx.roll(clean, starts[1] - starts[0], axis=keys - 1)
        rest = (slice(None),) * (keys - 2)
        there = (*rest, slice(longest - lengths[1], None), Ellipsis)
    value[(copy, target, *there)] = clean[(source, *there)]
