"""Steering curves: what adding a vector does, by its strength and by the layer.

In: a text, vectors, strengths.  Out: Effects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.cells import Recorder, Stopped
from mlxgraph.analysis.components import Place
from mlxgraph.analysis.effects import Effects
from mlxgraph.analysis.inputs import choose_layers, one_row
from mlxgraph.analysis.map_runs import at_of, check_axes, placed, tokens_along, with_unedited
from mlxgraph.analysis.questions import (
    chosen_heads,
    chosen_positions,
    grid_of,
    matched,
    scoring,
)
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, ShapeError
from mlxgraph.errors.source_line import here

STRENGTHS = (-8.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0)


def steering_curves(
    model: Traceable,
    text: Any,
    vectors: Any,
    layers: Sequence[int] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    metric: Any = "kl",
    *,
    component: str | Sequence[str] = "output",
    positions: Any = None,
    heads: Any = None,
    targets: Any = None,
    batch_size: int | None = None,
    memory_limit: int | None = None,
    progress: bool | None = None,
) -> Effects:
    """The metric of the prediction as a vector is added to a layer, by layer and strength.

    Args:
        text: a text, messages or token ids.
        vectors: a steering vector (width,), added in each layer by itself; or one for each layer:
            `{layer: vector}`, or an array (layers, width), of all layers or of those in `layers`.
        layers: layer numbers; all if left out, or those of `vectors`.
        strengths: what the vector is multiplied by.
        metric: a score, of which the result is the value: `"logit_diff"` with `targets`, or a
            function of one logit vector; or a distance from the unsteered run.
        component: where it is added: see `activation_patching`.
        positions: as for `activation_patching`: None steers all positions at once.
        heads, targets: as for `activation_patching`; of a head, vectors are (head dimension,).
        batch_size, memory_limit, progress: as for `model.sweep`.
    Returns: Effects along "layer" and "strength", and before these "component", "position" and
        "head" as far as they were asked for.
    Raises: ShapeError for a vector of another width, InputError for strengths that are no numbers,
        and what `activation_patching` raises.
    Source: Turner et al. 2023, "Activation Addition", arXiv:2308.10248.

    Example:
        >>> model.steering_curves("The capital of France is", v, strengths=[0.0, 2.0, 8.0])
    """
    score = scoring(model, metric, targets)
    row = one_row(model, text)
    amounts = _strengths(strengths)
    by_layer, layers = _vectors(model, vectors, layers)
    match = matched(row, row, None)
    places, found_layers = placed(model, row, component, layers)
    chosen, own_heads = chosen_positions(positions, match), chosen_heads(heads, places)
    grid = grid_of(component, [*places], found_layers, chosen, own_heads)
    check_axes(places, chosen, match)
    recorder, cells = Recorder(model, row), [*grid.cells(places)]
    graphs = [
        recorder.add(cell.place, cell.spans(), _added(cell.place, by_layer, amount))
        for cell in cells
        for amount in amounts
    ]
    options = {"batch_size": batch_size, "memory_limit": memory_limit, "progress": progress}
    stopped = None
    try:
        numbers = recorder.swept([*graphs, recorder.nothing], score, options)
    except Stopped as early:
        stopped, numbers = early.error, with_unedited(early.numbers, model, row, score)
    by_strength = numbers[:-1].reshape(len(cells), len(amounts))
    table = np.stack([grid.table(cells, by_strength[:, k]) for k in range(len(amounts))], axis=-1)
    result = Effects(
        table,
        {**grid.axes, "strength": amounts},
        coords=tokens_along(model, [row], grid),
        name=score.name,
        attrs={
            **at_of(grid),
            "metric": score.name,
            "unedited": float(numbers[-1]),
            "title": "Steering",
        },
    )
    if stopped is not None:
        stopped.result = result
        raise stopped
    return result


def _strengths(given: Any) -> list[float]:
    """The strengths, each once."""
    listed = getattr(given, "tolist", lambda: given)()
    if isinstance(listed, (int, float)) and not isinstance(listed, bool):
        listed = [listed]
    is_list = isinstance(listed, Sequence) and not isinstance(listed, (str, bytes))
    good = is_list and all(
        isinstance(one, (int, float)) and not isinstance(one, bool) and math.isfinite(one)
        for one in (getattr(k, "tolist", lambda k=k: k)() for k in listed)
    )
    if not good or not len(listed):
        raise InputError(
            f"strengths={given!r:.60} are no numbers.\n  Write strengths=[0.0, 2.0, 4.0]."
        )
    return list(dict.fromkeys(float(one) for one in listed))


def _vectors(
    model: Traceable, vectors: Any, layers: Any
) -> tuple[dict[int, mx.array] | mx.array, Any]:
    """One vector, or one by layer; and the layers."""
    if isinstance(vectors, Mapping):
        found = {}
        for name, vector in vectors.items():
            (layer,) = choose_layers(model, [name])
            if layer in found:
                raise InputError(
                    f"vectors= has two for layer {layer}, the second under {name!r}.\n  Give one."
                )
            found[layer] = _array(vector)
        if not found:
            raise InputError("vectors={} are none.\n  Write vectors={3: vector}.")
        layers = list(found) if layers is None else layers
    else:
        array = _array(vectors)
        if array.ndim == 1:
            return array, layers
        chosen = choose_layers(model, layers)
        if array.ndim == 2 and array.shape[0] == len(model.layers):
            chosen = choose_layers(model, None)
        if array.ndim != 2 or array.shape[0] != len(chosen):
            raise ShapeError(
                f"vectors of shape {array.shape} for {len(chosen)} layers",
                str(here()),
                "Give one vector (width,), an array (layers, width), or {layer: vector}.",
            )
        found = {layer: array[row] for row, layer in enumerate(chosen)}
    for layer, vector in found.items():
        if vector.ndim != 1:
            raise ShapeError(
                f"the vector of layer {layer} has shape {vector.shape}",
                str(here()),
                "Give one of shape (width,).",
            )
    return found, layers


def _array(vector: Any) -> mx.array:
    if not isinstance(vector, (mx.array, np.ndarray, list, tuple)):
        raise InputError(
            f"a steering vector is an array (width,), not a {type(vector).__name__}.\n"
            "  Write model.steering_curves(text, vector)."
        )
    return mx.array(vector).astype(mx.float32)


def _added(place: Place, vectors: dict[int, mx.array] | mx.array, amount: float) -> mx.array:
    """What is added at a place: (1, ..., width)."""
    if isinstance(vectors, dict):
        if place.layer not in vectors:
            raise InputError(
                f"there is no vector for layer {place.layer}: vectors= has"
                f" {', '.join(map(str, vectors))}.\n  Leave layers out, or give one for each."
            )
        vector = vectors[place.layer]
    else:
        vector = vectors
    width = place.shape[-1]
    if vector.shape[0] != width:
        raise ShapeError(
            f"{place.name} is {width} wide and cannot be steered with a vector of shape"
            f" {vector.shape}",
            str(here()),
            f"Give a vector of shape ({width},).",
        )
    shape = [1] * (len(place.shape) - 1) + [width]
    return (amount * vector).reshape(shape).astype(place.dtype)
