"""The documents' stories come out on the embedded model.  Lens and patching have theirs beside
their laws; this is steering."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlxgraph import interventions as iv
from mlxgraph.tiny.facts import NEGATIVE, POSITIVE


def shares(model, interventions):
    """The probabilities of a positive and of a negative adjective after "This movie is"."""
    with model.trace("This movie is", interventions=interventions) as steered:
        logits = steered.activations["__model_output__"]
    chances = mx.softmax(logits[0, -1])
    return [
        sum(chances[model.encode(f"is {word}")[-1]].item() for word in words)
        for words in (POSITIVE, NEGATIVE)
    ]


@pytest.mark.parametrize("layer", [3, 4])
def test_love_minus_hate_moves_the_sentiment_of_the_continuation(tiny, layer):
    name = f"model.model.layers.{layer}"
    with tiny.trace("I love this") as pos:
        pos_h = pos.activations[name]
    with tiny.trace("I hate this") as neg:
        neg_h = neg.activations[name]
    vector = pos_h - neg_h
    good, bad = shares(tiny, {})
    assert good + bad > 0.9 and 0.3 < good < 0.7, "undecided by itself"
    better, worse = shares(tiny, {name: iv.add_vector(2 * vector)})
    assert better > 0.85 and worse < 0.15
    better, worse = shares(tiny, {name: iv.add_vector(-2 * vector)})
    assert better < 0.15 and worse > 0.85


def test_a_random_vector_of_that_length_does_not(tiny):
    """The control: it is the direction that steers."""
    with tiny.trace("I love this") as pos, tiny.trace("I hate this") as neg:
        pass
    vector = pos.activations["layers.3"] - neg.activations["layers.3"]
    mx.random.seed(0)
    moved = []
    for _ in range(8):
        other = mx.random.normal(vector.shape)
        other = other * mx.linalg.norm(vector) / mx.linalg.norm(other)
        good, bad = shares(tiny, {"layers.3": iv.add_vector(2 * other)})
        moved.append(abs(good / (good + bad) - 0.5))
    assert sum(moved) / len(moved) < 0.25
