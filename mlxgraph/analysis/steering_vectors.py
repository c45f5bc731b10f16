"""Steering vectors from examples: the direction in which two sets of texts differ.

In: a model, texts that show something and texts that do not.  Out: a vector for each layer.
The arithmetic is numpy's, in float64, on one row for each text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.collect import batch_get_activations
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, ShapeError, UnknownNameError
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import at_the_edge

PENALTY = 0.01  # of the probe's weights, on states of mean squared length 1
MOST_STEPS = 100
STILL = 1e-10  # of the probe's gradient: it has come to rest
NOTHING = 1e-7  # of the states' size: a difference that is none


@at_the_edge
def steering_vector(
    model: Traceable,
    positive: Iterable[Any],
    negative: Iterable[Any],
    layers: Any = None,
    positions: Any = -1,
    method: str = "mean",
    *,
    normalize: bool = False,
    batch_size: int = 8,
    progress: bool | None = None,
) -> Any:
    """The direction from texts that lack something to texts that have it, in the residual stream.

    Args:
        positive, negative: texts, messages or token ids, as `mg.get_activations` takes them.
        layers: a layer number or a module's name, for one vector; a list of these, or None for all
            layers, for a dict of them.
        positions: as for `mg.get_activations`, in each text by itself; of several, a text's states
            are averaged.
        method:
            `"mean"`: the difference of the means (contrastive activation addition; Rimsky et al.
                2023, arXiv:2312.06681).
            `"pca"`: the first principal component of the differences of pairs, the k-th positive
                text less the k-th negative one, about zero (representation engineering; Zou et al.
                2023, arXiv:2310.01405); turned towards the positive texts.
            `"probe"`: the weights of a logistic regression that tells them apart, with a penalty of
                0.005 times their squared length on states of mean squared length 1.
        normalize: True for a vector of length 1.  Otherwise a vector is as long as the means lie
            apart along it, so that adding it once moves a negative text's mean to where a positive
            one's is along that direction, whatever the method.
        batch_size, progress: as for `mg.batch_get_activations`.
    Returns: shape (width,) in float32, computed; or `{layer: vector}`, which
        `model.steering_curves` takes as it is.
    Raises: UnknownNameError (a KeyError) for a method; InputError for sets of which one is empty,
        pairs that do not come out even, states that are not finite, or sets that do not differ at a
        layer; ShapeError for a site that gives no one vector at each position; and what
        `mg.get_activations` raises.

    Example:
        >>> v = mg.steering_vector(model, ["I love this"], ["I hate this"], layers=3)
        >>> model.edit(mg.edit("layers.3", iv.add_vector(2.0 * v)))
    """
    if not isinstance(method, str) or method not in METHODS:
        raise UnknownNameError("method of steering_vector", str(method), METHODS)
    positive, negative = _texts("positive", positive), _texts("negative", negative)
    if method == "pca" and len(positive) != len(negative):
        raise InputError(
            f"method='pca' takes pairs, and there are {len(positive)} positive and"
            f" {len(negative)} negative texts.\n  Give as many of each, in the order of the pairs,"
            " or write method='mean'."
        )
    single = layers is not None and not isinstance(layers, (list, tuple, range, np.ndarray))
    asked = [layers] if single else layers
    if asked is not None and not len(asked):
        raise InputError("there are no layers.\n  Write layers=[2, 3], or leave it out for all.")
    both = [*positive, *negative]
    ragged = isinstance(positions, str) or callable(positions)  # another number in each text
    several = not ragged and not isinstance(positions, (int, np.integer))
    states: dict[str, Any] = batch_get_activations(
        model, both, asked, positions, batch_size, progress, reduce="mean" if ragged else None
    )
    rows = {name: _rows(name, value, several) for name, value in states.items()}
    found = {
        _key(name): _vector(_key(name), some, len(positive), method, normalize)
        for name, some in rows.items()
    }
    return next(iter(found.values())) if single and len(found) == 1 else found


def _texts(name: str, given: Any) -> list[Any]:
    """The texts of one side.  Raises: InputError for one text, or none."""
    if isinstance(given, str) or not isinstance(given, (Iterable, mx.array)):
        what = "one text" if isinstance(given, str) else f"a {type(given).__name__}"
    elif len(texts := list(given)):
        return texts
    else:
        what = "empty"
    raise InputError(
        f"{name} is {what}, and a list of texts is needed.\n"
        "  Write mg.steering_vector(model, ['I love this'], ['I hate this'])."
    )


def _key(name: str) -> int | str:
    number = name.removeprefix("layer_")
    return int(number) if number != name and number.isdigit() else name


def _rows(name: str, states: mx.array, several: bool) -> np.ndarray:
    """One row for each text.  Raises: ShapeError for states of several heads or streams."""
    if states.ndim != 2 + several:
        raise ShapeError(
            f"{name} gives {states.shape[1 + several :]} at each position, and a direction is of"
            " one vector",
            str(here()),
            "Name a module that gives (batch, length, width), such as layers=3; for heads take"
            " mg.get_activations, and the difference of two means.",
        )
    rows = np.array(states.astype(mx.float32)).astype(np.float64)
    return rows.mean(axis=1) if several else rows


def _vector(
    layer: int | str, rows: np.ndarray, count: int, method: str, normalize: bool
) -> mx.array:
    positive, negative = rows[:count], rows[count:]
    name = f"layer {layer}" if isinstance(layer, int) else layer
    if not np.isfinite(rows).all():
        raise InputError(
            f"states at {name} are not finite, so they have no direction.\n"
            "  Look for nan or inf in the model's activations of these texts."
        )
    apart = positive.mean(axis=0) - negative.mean(axis=0)
    size = np.sqrt(np.mean(np.sum(rows**2, axis=1)))
    direction = METHODS[method](positive, negative)
    length = np.linalg.norm(direction)
    along = apart @ direction / max(length, np.finfo(float).tiny)
    if length <= NOTHING * size or abs(along) <= NOTHING * size:
        raise InputError(
            f"the positive and the negative texts do not differ at {name}, so there is no direction"
            " between them.\n  Give other texts, positions or layers: at the first token all texts"
            " may be alike."
        )
    unit = direction / length * np.sign(along)
    return mx.array((unit if normalize else unit * abs(along)).astype(np.float32))


def _mean(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    return positive.mean(axis=0) - negative.mean(axis=0)  # type: ignore[no-any-return]


def _component(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """The first right singular vector of the pairs' differences, by the size of that value."""
    _, sizes, axes = np.linalg.svd(positive - negative, full_matrices=False)
    return axes[0] * sizes[0]  # type: ignore[no-any-return]


def _probe(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """The weights of a penalised logistic regression, by Newton's method in the states' span."""
    rows = np.concatenate([positive, negative])
    labels = np.repeat([1.0, 0.0], [len(positive), len(negative)])
    centred = rows - rows.mean(axis=0)
    size = np.sqrt(np.mean(np.sum(centred**2, axis=1)))
    if size == 0:
        return np.zeros(rows.shape[1])
    left, sizes, axes = np.linalg.svd(centred / size, full_matrices=False)
    features = np.concatenate([left * sizes, np.ones((len(rows), 1))], axis=1)
    penalty = np.append(np.full(len(sizes), PENALTY), 0.0)  # none of the intercept
    weights = np.zeros(features.shape[1])

    def loss(at: np.ndarray) -> float:
        scores = features @ at
        return float(np.mean(np.logaddexp(0, scores) - labels * scores) + penalty @ at**2 / 2)

    for _ in range(MOST_STEPS):
        share = 1 / (1 + np.exp(-features @ weights))
        slope = features.T @ (share - labels) / len(rows) + penalty * weights
        if np.abs(slope).max() < STILL:
            break
        curve = (features.T * (share * (1 - share))) @ features / len(rows) + np.diag(penalty)
        step = np.linalg.solve(curve, slope)
        part = 1.0
        while loss(weights - part * step) > loss(weights) and part > STILL:
            part /= 2
        weights = weights - part * step
    return weights[:-1] @ axes  # type: ignore[no-any-return]


Method = Callable[[np.ndarray, np.ndarray], np.ndarray]
METHODS: dict[str, Method] = {"mean": _mean, "pca": _component, "probe": _probe}
