"""Distances between logits that stay finite, whatever the vocabulary and the model's dtype.

In: logits (rows, vocabulary) and one reference row (vocabulary,), float32.  Out: a distance for
each row.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from mlxgraph.errors import UnknownNameError

Metric = Callable[[mx.array, mx.array], mx.array | float]


def _difference(rows: mx.array, reference: mx.array) -> mx.array:
    """Entry by entry; equal infinities (tokens masked out in both) differ by nothing."""
    return mx.where(rows == reference, 0.0, rows - reference)


def _scaled(values: mx.array) -> tuple[mx.array, mx.array]:
    """Values divided by the largest of their row, and that one: squares cannot overflow."""
    largest = mx.max(mx.abs(values), axis=-1, keepdims=True)
    largest = mx.where(largest == 0, 1.0, largest)
    return values / largest, largest[..., 0]


def l2(rows: mx.array, reference: mx.array) -> mx.array:
    """Euclidean distance."""
    scaled, largest = _scaled(_difference(rows, reference))
    return mx.sqrt(mx.sum(mx.square(scaled), axis=-1)) * largest


def mse(rows: mx.array, reference: mx.array) -> mx.array:
    """Mean squared difference."""
    scaled, largest = _scaled(_difference(rows, reference))
    return mx.mean(mx.square(scaled), axis=-1) * mx.square(largest)


def cosine(rows: mx.array, reference: mx.array) -> mx.array:
    """One minus the cosine of the angle, from 0 to 2."""
    # Half the squared distance of the unit vectors: 1 - a.b would cancel for close vectors.
    return mx.sum(mx.square(_unit(rows) - _unit(reference)), axis=-1) / 2


def _unit(values: mx.array) -> mx.array:
    scaled, _ = _scaled(mx.where(mx.isinf(values), 0.0, values))
    length = mx.sqrt(mx.sum(mx.square(scaled), axis=-1, keepdims=True))
    return scaled / mx.where(length == 0, 1.0, length)


def kl(rows: mx.array, reference: mx.array) -> mx.array:
    """KL(reference || row): how far each row's prediction is from the reference's, in nats."""
    wanted = reference - mx.logsumexp(reference, axis=-1, keepdims=True)
    found = rows - mx.logsumexp(rows, axis=-1, keepdims=True)
    weight = mx.exp(wanted)
    terms = mx.where(weight == 0, 0.0, weight * _difference(wanted, found))
    return mx.maximum(mx.sum(terms, axis=-1), 0.0)


METRICS: dict[str, Metric] = {"l2": l2, "cosine": cosine, "mse": mse, "kl": kl}


def distances(metric: str | Metric, rows: mx.array, reference: mx.array) -> list[float]:
    """The distance of each row from the reference.

    Args: metric: a name in `METRICS`, or a function of two logit vectors (vocabulary,), the one
        looked at and the reference, that gives a number.
    Raises: UnknownNameError.
    """
    if callable(metric):
        return [float(metric(rows[number], reference)) for number in range(rows.shape[0])]
    found: list[float] = metric_of(metric)(rows, reference).tolist()  # type: ignore
    return found


def metric_of(name: str | Metric) -> Metric:
    """A metric by name.  Raises: UnknownNameError (a KeyError)."""
    if callable(name):
        return name
    if name not in METRICS:
        raise UnknownNameError("metric", str(name), METRICS, "A function of two vectors works too.")
    return METRICS[name]
