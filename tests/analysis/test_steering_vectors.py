"""Steering vectors agree with the arithmetic by hand, on four kinds of model."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import BoundsError, InputError, PositionError, UnknownNameError
from tests.architectures import configs
from tests.dear import dear
from tests.folding.helpers import quantised

POSITIVE = ["I love this", "This movie is wonderful", "What a great day", "I like it"]
NEGATIVE = ["I hate this", "This movie is terrible", "What a bad day", "I hate it"]
GOOD = [[7, 21, 3, 88], [40, 5, 63], [12, 9, 4, 33, 8]]
BAD = [[7, 22, 3, 87], [40, 6, 62], [12, 10, 5, 32, 9]]
METHODS = ["mean", "pca", "probe"]


def states(model, texts, layer, position=-1) -> np.ndarray:
    """The states of each text by itself."""
    rows = []
    for text in texts:
        with model.trace(text if isinstance(text, str) else mx.array([text])):
            found = model.layers[layer].output
            while not isinstance(found, mx.array):
                found = found[0]
            h = found[0, position].astype(mx.float32).save()
        rows.append(np.array(h).astype(np.float64))
    return np.stack(rows)


def by_hand(method: str, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """The same vectors by other means: an eigenvector, and gradient descent."""
    apart = positive.mean(0) - negative.mean(0)
    if method == "mean":
        return apart
    if method == "pca":
        differences = positive - negative
        _, axes = np.linalg.eigh(differences.T @ differences)
        unit = axes[:, -1]
    else:
        rows = np.concatenate([positive, negative])
        labels = np.repeat([1.0, 0.0], [len(positive), len(negative)])
        rows = rows - rows.mean(0)
        rows = rows / np.sqrt(np.mean(np.sum(rows**2, axis=1)))
        weights, intercept = np.zeros(rows.shape[1]), 0.0
        for _ in range(20_000):
            gap = 1 / (1 + np.exp(-rows @ weights - intercept)) - labels
            weights -= rows.T @ gap / len(rows) + 0.01 * weights
            intercept -= gap.mean()
        unit = weights / np.linalg.norm(weights)
    return unit * (unit @ apart)


def close(one, other, near=1e-4) -> bool:
    one, other = np.array(one), np.array(other)
    return np.abs(one - other).max() <= near * np.abs(other).max()


MODELS = {
    "tiny": (lambda: mg.tiny(), POSITIVE, NEGATIVE),
    "4 bit": (lambda: quantised(mg.tiny()), POSITIVE, NEGATIVE),
    "gpt2": (lambda: mg.InterpretableModel(configs.build("gpt2")), GOOD, BAD),
    "mixtral": (lambda: mg.InterpretableModel(configs.build("mixtral")), GOOD, BAD),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["tiny", "mixtral", *dear("4 bit", "gpt2")])
@pytest.mark.thin(3)
def test_it_is_the_arithmetic_by_hand(name, method):
    make, positive, negative = MODELS[name]
    model = make()
    vectors = mg.steering_vector(model, positive, negative, method=method)
    assert list(vectors) == list(range(len(model.layers)))
    for layer in (0, len(model.layers) - 1):
        own = states(model, positive, layer), states(model, negative, layer)
        assert close(vectors[layer], by_hand(method, *own))
        assert not close(vectors[layer], by_hand(method, *own[::-1]))
        assert vectors[layer].dtype == mx.float32
    unit = mg.steering_vector(model, positive, negative, 1, method=method, normalize=True)
    assert abs(mx.linalg.norm(unit).item() - 1) < 1e-6
    assert close(unit * mx.linalg.norm(vectors[1]), vectors[1])


@pytest.mark.parametrize("method", METHODS)
def test_one_step_brings_the_means_together(tiny, method):
    v = np.array(mg.steering_vector(tiny, POSITIVE, NEGATIVE, 3, method=method))
    apart = states(tiny, POSITIVE, 3).mean(0) - states(tiny, NEGATIVE, 3).mean(0)
    assert abs((apart - v) @ v) < 1e-3 * (v @ v)


def test_layers_names_and_positions(tiny):
    one = mg.steering_vector(tiny, POSITIVE, NEGATIVE, 3)
    some = mg.steering_vector(tiny, POSITIVE, NEGATIVE, [3, "layers.2.mlp"])
    assert one.shape == (128,)
    assert close(some[3], one)
    assert len(some) == 2
    assert mx.array_equal(mg.steering_vector(tiny, POSITIVE, NEGATIVE, "layers.3"), one)
    both = mg.steering_vector(tiny, POSITIVE, NEGATIVE, 3, positions=[-1, -2])
    before = states(tiny, POSITIVE, 3, -2).mean(0) - states(tiny, NEGATIVE, 3, -2).mean(0)
    assert close(both, (np.array(one) + before) / 2)
    uneven = mg.steering_vector(tiny, POSITIVE, NEGATIVE[:2], 3, method="probe", batch_size=2)
    assert uneven.shape == (128,)


def test_the_vectors_go_into_the_curves(tiny):
    """The layer is chosen by a sweep; strength 0 is the unsteered model, and the effect grows."""
    vectors = mg.steering_vector(tiny, POSITIVE, NEGATIVE)
    words = [tiny.single_token(f" {word}") for word in ("wonderful", "great")]

    def positive(logits):
        return mx.softmax(logits)[mx.array(words)].sum()

    curves = tiny.steering_curves(
        "This movie is", vectors, strengths=[0.0, 1.0, 2.0], metric=positive
    )
    best = curves.sel(strength=2.0).argmax()["layer"]
    plain = positive(tiny("This movie is")[0, -1]).item()
    assert abs(float(curves.sel(layer=best, strength=0.0)) - plain) < 1e-6
    assert float(curves.sel(layer=best, strength=2.0)) > plain + 0.02
    edit = mg.edit(f"layers.{best}", iv.add_vector(2.0 * vectors[best]))
    with_edit = positive(tiny.edit(edit)("This movie is")[0, -1]).item()
    assert abs(float(curves.sel(layer=best, strength=2.0)) - with_edit) < 1e-5


def test_steering_after_the_final_norm_is_affine_in_the_strength(tiny):
    """Law 19; and strength 0 is no edit, exactly."""
    v = mx.random.normal((128,), key=mx.random.key(2))

    def logits(strength):
        return tiny.edit(mg.edit("model.norm", iv.add_vector(strength * v)))("I like it")

    none, one, three = logits(0.0), logits(1.0), logits(3.0)
    assert mx.array_equal(none, tiny("I like it"))
    step = one - none
    assert mx.abs(three - (none + 3 * step)).max().item() < 1e-5 * mx.abs(three).max().item()
    assert mx.abs(step).max().item() > 0.1


WRONG = {
    "method": (dict(method="lda"), UnknownNameError, "mean, pca, probe"),
    "pairs": (dict(negative=NEGATIVE[:3], method="pca"), InputError, "4 positive and 3 negative"),
    "same": (dict(negative=POSITIVE), InputError, "do not differ at layer 0"),
    "first token": (dict(positions=0), InputError, "do not differ"),
    "empty": (dict(positive=[]), InputError, "positive is empty"),
    "one text": (dict(negative="I hate this"), InputError, "negative is one text"),
    "nothing": (dict(positive=None), InputError, "positive is a NoneType"),
    "no layers": (dict(layers=[]), InputError, "no layers"),
    "no name": (dict(method=["mean"]), UnknownNameError, "mean"),
    "layer": (dict(layers=9), BoundsError, "0–5"),
    "position": (dict(positions=7), PositionError, "7"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_told(tiny, name):
    given, kind, said = WRONG[name]
    whole = {"positive": POSITIVE, "negative": NEGATIVE, **given}
    with pytest.raises(kind, match=said) as caught:
        mg.steering_vector(tiny, **whole)
    assert caught.traceback[-1].path.name == "test_steering_vectors.py"


def test_states_that_are_not_finite_are_told():
    model = mg.tiny()
    model.module.layers[2].mlp.down_proj.weight *= mx.inf
    model = mg.InterpretableModel(model.module, model.tokenizer)
    with pytest.raises(InputError, match="layer 2 are not finite"):
        mg.steering_vector(model, POSITIVE, NEGATIVE, [2])
    assert isinstance(model.module, nn.Module)
