"""Ablation: what changes when a part of the model is taken out.

In: a text, components, what to put in their place.  Out: Effects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx

from mlxgraph.analysis.cells import Cell, Recorder, Stopped
from mlxgraph.analysis.components import Place
from mlxgraph.analysis.effects import Effects
from mlxgraph.analysis.inputs import holds_tokens, one_row
from mlxgraph.analysis.map_runs import (
    Kept,
    at_of,
    check_axes,
    kept_of,
    patch_graph,
    placed,
    tokens_along,
    with_unedited,
)
from mlxgraph.analysis.questions import (
    chosen_heads,
    chosen_positions,
    grid_of,
    matched,
    scoring,
    several_texts,
    without_column,
)
from mlxgraph.analysis.together import among_ranks, weights_of
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, ShapeError, UnknownNameError
from mlxgraph.errors.source_line import here
from mlxgraph.ranks.said import digest

ZERO, MEAN, RESAMPLE = "zero", "mean", "resample"


def ablation(
    model: Traceable,
    text: Any,
    component: str | Sequence[str] = "mlp",
    how: str = ZERO,
    layers: Sequence[int] | None = None,
    metric: Any = "kl",
    *,
    dataset: Any = None,
    positions: Any = None,
    heads: Any = None,
    align: str | None = None,
    targets: Any = None,
    batch_size: int | None = None,
    memory_limit: int | None = None,
    progress: bool | None = None,
) -> Effects:
    """What taking out each part of the model does to the prediction.

    Args:
        text: a text, messages or token ids.
        component, layers, positions, heads, targets: as for `activation_patching`.
        how: what comes in its place: `"zero"`; `"mean"`, its mean over the positions of all texts
            of `dataset`; `"resample"`, what it is at the same positions of another text: the result
            is the mean over the texts of `dataset`.
        metric: of the last position's logits: a distance from the unedited run's, `"kl"`, `"l2"`,
            `"cosine"` or `"mse"`; `"logit_diff"` or a function of one logit vector, of which the
            result is the change; or a function of two, the ablated run's and the unedited one's.
        dataset: texts, messages or token ids, or one of them.
        align: for `"resample"` from texts of other lengths: `"start"` or `"end"`.
        batch_size, memory_limit, progress: as for `model.sweep`.
    Returns: Effects along "layer", and "component", "position" and "head" as far as they were
        asked for: 0 where it changes nothing.
    Raises: InputError for a dataset that is needed or of no use, UnknownNameError for a `how`, and
        what `activation_patching` raises.
    Source: Zhang and Nanda 2024, arXiv:2309.16042; Chan et al. 2022, "Causal scrubbing".

    Example:
        >>> model.ablation("The capital of France is", component="heads")
        >>> texts = ["The capital of Italy is", "The capital of Japan is"]
        >>> model.ablation("The capital of France is", "mlp", how="mean", dataset=texts)
    """
    if how not in (ZERO, MEAN, RESAMPLE):
        raise UnknownNameError("how", str(how), (ZERO, MEAN, RESAMPLE))
    score = scoring(model, metric, targets)
    row = one_row(model, text)
    others = _dataset(model, dataset, how)
    match = matched(row, row, None)
    matches = [matched(row, other, align) for other in others] if how == RESAMPLE else [match]
    places, found_layers = placed(model, row, component, layers)
    if how == RESAMPLE:  # positions that all of them have
        start, stop = max(m.start for m in matches), min(m.stop for m in matches)
        match = match.between(start, stop)
    chosen, own_heads = chosen_positions(positions, match), chosen_heads(heads, places)
    grid = grid_of(component, [*places], found_layers, chosen, own_heads)
    for one in matches:
        check_axes(places, chosen, one)
    recorder, cells = Recorder(model, row), [*grid.cells(places)]
    if how == RESAMPLE:
        graphs = [
            patch_graph(recorder, cell, kept, one)
            for other, one in zip(others, matches, strict=True)
            for kept in [kept_of(model, other, places)[0]]
            for cell in cells
        ]
    else:
        values = _means(model, others, places) if how == MEAN else {}
        graphs = [_fixed(recorder, cell, values) for cell in cells]
    options = {"batch_size": batch_size, "memory_limit": memory_limit, "progress": progress}
    stopped = None
    try:
        numbers = recorder.swept([*graphs, recorder.nothing], score, options)
    except Stopped as early:
        stopped, numbers = early.error, with_unedited(early.numbers, model, row, score)
    changes = numbers[:-1] if score.of_two else numbers[:-1] - numbers[-1]
    changes = changes.reshape(-1, len(cells)).mean(axis=0)
    result = Effects(
        grid.table(cells, changes),
        grid.axes,
        coords=tokens_along(model, [row], grid),
        name=score.name if score.of_two else f"change of {score.name}",
        attrs={
            **at_of(grid),
            "metric": score.name,
            "how": how,
            "unedited": float(numbers[-1]),
            "title": f"{how.capitalize()} ablation"
            + (f" of {component}" if isinstance(component, str) else ""),
        },
    )
    if stopped is not None:
        stopped.result = result
        raise stopped
    return result


def _dataset(model: Traceable, dataset: Any, how: str) -> list[mx.array]:
    """The rows of the other texts."""
    if (dataset is None) != (how == ZERO):
        if dataset is None:
            raise InputError(
                f"how={how!r} takes values of other texts.\n  Write dataset=[text, text, ...]."
            )
        raise InputError(
            "how='zero' takes no values of other texts.\n"
            "  Write how='mean' or how='resample', or leave dataset out."
        )
    if dataset is None:
        return []
    dataset = without_column(dataset)
    texts = list(dataset) if several_texts(dataset) else [dataset]
    return [one_row(model, one) for one in texts]


def _means(
    model: Traceable, rows: list[mx.array], places: Mapping[str, list[Place]]
) -> dict[tuple[str, int], mx.array]:
    """The mean of each place over the positions of all texts, (1, 1, width), float32."""
    for some in places.values():
        for place in some:
            if len(place.positions) != 1:
                raise ShapeError(
                    f"{place.name} gives {place.shape}, which has no mean over positions",
                    str(here()),
                    "Write how='zero' or how='resample'.",
                )
    if any(not holds_tokens(row) and row.ndim < 2 for row in rows):
        raise InputError("texts of a dataset are rows of one or more positions.")
    with among_ranks("model.ablation", model) as work:
        if work.size > 1:
            names = digest([place.name for some in places.values() for place in some])
            work.agree(
                f"{len(rows)} texts", texts=digest(rows), places=names, weights=weights_of(model)
            )
        found = {}
        for number in work.mine([float(row.size) for row in rows]):
            found[number] = _sums(kept_of(model, rows[number], places)[0], places)
            work.check()
        every = work.exchanged(found)
    sums = every[0]
    for number in range(1, len(rows)):
        sums = {key: total + every[number][key] for key, total in sums.items()}
    count = sum(row.shape[1] for row in rows)
    return {key: total / count for key, total in sums.items()}


def _sums(kept: Kept, places: Mapping[str, list[Place]]) -> dict[tuple[str, int], mx.array]:
    """The sum of each place over the positions of one text."""
    found = {}
    for component, some in places.items():
        for place in some:
            value = kept[component, place.layer].astype(mx.float32)
            found[component, place.layer] = mx.sum(value, axis=place.positions[0], keepdims=True)
    mx.eval(found)
    return found


def _fixed(recorder: Recorder, cell: Cell, means: Mapping[tuple[str, int], mx.array]) -> Any:
    """The graph of a cell: a mean put in place, or zeros."""
    place, spans = cell.place, cell.spans()
    shape = [
        size if start is None or stop is None else stop - start
        for size, (start, stop) in zip(place.shape, spans, strict=True)
    ]
    if not means:
        return recorder.put(place, spans, mx.zeros(shape, dtype=place.dtype))
    mean = means[place.component, place.layer]
    heads = [
        slice(None) if axis in place.positions else slice(*span) for axis, span in enumerate(spans)
    ]
    value = mx.broadcast_to(mean[tuple(heads)], shape).astype(place.dtype)
    return recorder.put(place, spans, value)
