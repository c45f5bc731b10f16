"""Steps of queries and keys, followed exactly through the softmax: the correction of AtP*.

A softmax that is saturated has a slope of nearly zero, and gradients miss what a query or a key
does there.  So the step is taken to the pattern by the model's own attention, and gradients go on
from the pattern.  All layers share one forward: each is given the other text's queries (or keys),
its pattern is read, and what its heads gave before is put back, so that the next layer sees the
run as it was.

In: a run with the slopes of its patterns.  Out: effects of the places that are queries or keys.
Source: Kramár et al. 2024, arXiv:2403.00745, section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.components import HEADS, Place
from mlxgraph.analysis.inputs import value_at
from mlxgraph.analysis.pairs import Pair
from mlxgraph.analysis.slopes import Key, Slopes, every, key_of, named_slope
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, PartError

QUERIES, KEYS = "queries", "keys"
NEAR = 1e-3  # of a row's scores: what rounding does to them


class Stepped(NamedTuple):
    """What an attention does with another text's queries or keys.

    Attributes: pattern, scores: (1, heads, query, key).
    """

    pattern: mx.array
    scores: mx.array


def sites_for(pair: Pair) -> tuple[dict[str, int], list[str]]:
    """The sites whose slopes, and their layers, and whose values the correction needs of the run.

    Raises: InputError where no queries or keys are asked for.
    """
    places = _stepping(pair)
    if not places:
        raise InputError(
            "method='atp*' corrects the steps of queries and keys, and there are none among the"
            f" components {[*pair.places]}.\n  Write component='queries' or 'keys', or"
            " method='attribution'."
        )
    for place in places:
        if place.parted:
            raise PartError(
                place.name,
                "method='atp*' follows queries and keys through all of an attention",
                "Write method='attribution', or model.activation_patching.",
            )
    attentions = {_attention(place): place.layer for place in places}
    patterns = {f"{one}.pattern": layer for one, layer in attentions.items()}
    return patterns, [
        *patterns,
        *(f"{one}.{port}" for one in attentions for port in ("scores", "heads")),
    ]


def _stepping(pair: Pair) -> list[Place]:
    return [place for place in every(pair) if place.heads and _port(place) in (QUERIES, KEYS)]


def _attention(place: Place) -> str:
    return place.name.rpartition(".")[0]


def _port(place: Place) -> str:
    return place.name.rpartition(".")[2]


def attention_steps(
    model: Traceable, pair: Pair, run: Slopes, targets: Mapping[Key, mx.array]
) -> dict[Key, Stepped]:
    """What each attention gives with the other text's queries, or keys, alone: one forward each."""
    found: dict[Key, Stepped] = {}
    for port in (QUERIES, KEYS):
        places = {p.name: p for p in _stepping(pair) if _port(p) == port}
        if not places:
            continue
        with model.trace(pair.run):
            for name, place in sorted(places.items(), key=lambda one: one[1].layer):
                attention = _attention(place)
                there = value_at(model, name)
                there[...] = targets[key_of(place)]
                scores = value_at(model, f"{attention}.scores").save()
                pattern = value_at(model, f"{attention}.pattern").save()
                given = value_at(model, f"{attention}.heads")
                given[...] = run.further[f"{attention}.heads"]
                found[key_of(place)] = Stepped(pattern, scores)
        for place in _stepping(pair):  # a component may be named twice, in two ways
            if place.name in places:
                found[key_of(place)] = found[key_of(places[place.name])]
    mx.eval([list(one) for one in found.values()])
    return found


def corrected(pair: Pair, run: Slopes, steps: Mapping[Key, Stepped]) -> dict[Key, np.ndarray]:
    """The effects of queries and keys, in the shape of their values with a width of one."""
    found = {}
    for place in _stepping(pair):
        attention, step = _attention(place), steps[key_of(place)]
        slope = _doubles(named_slope(run, f"{attention}.pattern"))
        pattern = _doubles(run.further[f"{attention}.pattern"])
        other = _doubles(step.pattern)
        moved = np.where(other == pattern, 0.0, slope * (other - pattern))
        if _port(place) == QUERIES:
            effects = moved.sum(axis=-1)
        elif pair.grid.positions is None:  # all keys at once
            effects = moved.sum(axis=-2)
        else:
            scores = _doubles(run.further[f"{attention}.scores"])
            effects = _key_by_key(slope, pattern, scores, _doubles(step.scores), place)
        groups = effects.shape[HEADS] // place.heads  # heads of queries that share one of keys
        shape = (effects.shape[0], place.heads, groups, effects.shape[-1])
        found[key_of(place)] = effects.reshape(shape).sum(axis=2)[..., None]
    return found


def _doubles(values: mx.array) -> np.ndarray:
    return np.array(values.astype(mx.float32)).astype(np.float64)


def _key_by_key(
    slope: np.ndarray, pattern: np.ndarray, scores: np.ndarray, stepped: np.ndarray, place: Place
) -> np.ndarray:
    """The effect of each key by itself, (1, heads, key), in the time of one pattern.

    With another score for key p, its weight e becomes e', the sum of all weights z becomes
    z - e + e', and the weights of the other keys stay.
    """
    weights, other, total = _weights(pattern, scores, stepped, place)
    rest = np.maximum(total[..., None] - weights, 0.0) + other
    rest = np.where(rest == 0.0, 1.0, rest)
    mean = (slope * weights).sum(axis=-1, keepdims=True)  # of all keys, not yet over the total
    after = (mean - slope * weights + slope * other) / rest
    changes = np.where(weights == other, 0.0, after - mean / total[..., None])
    found: np.ndarray = changes.sum(axis=-2)
    return found


def _weights(
    pattern: np.ndarray, scores: np.ndarray, stepped: np.ndarray, place: Place
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The weights of keys before and after, and their sum with that of any attention sink.

    Raises: InputError where the pattern is no softmax of the scores.
    """
    top = np.maximum(scores.max(axis=-1, keepdims=True), stepped.max(axis=-1, keepdims=True))
    top = np.where(np.isfinite(top), top, 0.0)
    weights, other = np.exp(scores - top), np.exp(stepped - top)
    shown = pattern.sum(axis=-1)
    total = weights.sum(axis=-1)
    total = np.where(np.abs(shown - 1) > NEAR, total / np.where(shown > 0, shown, 1.0), total)
    total = np.where(total > 0, total, 1.0)
    if np.abs(weights / total[..., None] - pattern).max() > NEAR:
        raise InputError(
            f"the pattern of {_attention(place)} is no softmax of its scores, so that the step of"
            " one key cannot be followed.\n  Write method='attribution', or component='queries'."
        )
    return weights, other, total
