"""GradDrop: one layer after another held, against forwards by hand; what cancels is found."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import GradientError, InputError
from tests import models
from tests.analysis.llama_by_hand import by_hand, score
from tests.analysis.test_patching_maps import CLEAN, CORRUPTED, TEXTS, first, near
from tests.analysis.test_path_patching import MODELS, made, parts_of

RAW: dict[str, Any] = {"metric": score, "normalize": False}
STREAM = ("output", "resid_pre", "resid_mid")


@pytest.fixture(scope="module", params=MODELS)
def model(request: Any) -> mg.InterpretableModel:
    return MODELS[request.param]()


@pytest.fixture(scope="module")
def llama() -> tuple[Any, dict, dict]:
    """A module, and its values on both texts."""
    module = models.make_llama()
    return module, by_hand(module, CORRUPTED, {})[1], by_hand(module, CLEAN, {})[1]


def slopes(module: Any, values: dict, component: str, held: int) -> dict:
    zeros = {key: mx.zeros(v.shape) for key, v in values.items() if key[0] == component}
    return mx.grad(lambda steps: by_hand(module, CORRUPTED, steps, held)[0])(zeros)


@pytest.mark.parametrize("component", [*STREAM, "attn", "mlp", "heads", "mlp.down_proj.input"])
@pytest.mark.thin(3)
def test_it_is_the_mean_of_absolute_effects_with_each_layer_held(llama, component):
    module, own, other = llama
    layers = range(len(module.layers))
    sizes: Any = 0
    for held in layers:
        found = slopes(module, own, component, held)
        steps = [(component, k) for k in layers]
        products = mx.stack([found[at] * (other[at] - own[at]) for at in steps])
        sizes = sizes + np.abs(np.array(mx.sum(products, axis=-1))[:, 0])
    expected = sizes / (len(layers) - (component not in STREAM))
    if component == "heads":
        expected = expected.swapaxes(1, 2)
    model = mg.InterpretableModel(module)
    near(model.attribution_patching(CLEAN, CORRUPTED, component, graddrop=True, **RAW), expected)
    plain = np.asarray(model.attribution_patching(CLEAN, CORRUPTED, component, **RAW))
    assert np.abs(np.abs(plain) - expected).max() > 0.02
    if component not in STREAM:
        near(np.abs(plain[-1]), expected[-1])


@pytest.mark.parametrize("component", ["queries", "keys"])
def test_with_the_correction_it_is_that_of_the_pattern(llama, component):
    """The slope is that of the pattern, one layer held; the step that of the pattern itself."""
    module, own, other = llama
    layers, heads = range(len(module.layers)), own[component, 0].shape[1]
    sizes: Any = 0
    for held in layers:
        found = slopes(module, own, "pattern", held)
        moved = []
        for k in layers:
            step = {(component, k): other[component, k] - own[component, k]}
            after = by_hand(module, CORRUPTED, step)[1]["pattern", k]
            moved.append((found["pattern", k] * (after - own["pattern", k]))[0])
        by_head = mx.sum(mx.stack(moved), axis=(-2, -1))
        sizes = sizes + np.abs(np.array(by_head).reshape(len(layers), heads, -1).sum(-1))
    near(
        mg.InterpretableModel(module).attribution_patching(
            CLEAN, CORRUPTED, component, method="atp*", graddrop=True, positions=None, **RAW
        ),
        sizes / (len(layers) - 1),
    )
    assert np.abs(sizes).max() > 0.02


@pytest.mark.thin(3)
def test_on_every_kind_of_model_it_is_traces_with_a_layer_held(model):
    layers = range(len(model.layers))
    found = model.attribution_patching(
        CLEAN, CORRUPTED, ["attn", "output"], positions=None, graddrop=True, **RAW
    )
    paths = [[model.sites(f"layers.{k}.attn")[0] for k in layers], [b.path for b in model.layers]]
    with model.trace(mx.array([CLEAN])):
        other = [[first(model[path].output).save() for path in some] for some in paths]
    sizes = np.zeros((2, len(layers)))
    for held in layers:
        with model.trace(mx.array([CORRUPTED])) as trace:
            values = [[first(model[path].output) for path in some] for some in paths]
            for path in parts_of(model, held):
                made = first(model[path].output)
                made[...] = mx.stop_gradient(made)
            logits = model.output[0, -1].astype(mx.float32)
            slopes = [[g.save() for g in trace.grad(score(logits), some)] for some in values]
            values = [[value.save() for value in some] for some in values]
        for row, (some, own, gone) in enumerate(zip(slopes, values, other, strict=True)):
            steps = zip(some, own, gone, strict=True)
            sizes[row] += [abs(mx.sum(g * (b - a)).item()) for g, a, b in steps]
    near(found, sizes / [[len(layers) - 1], [len(layers)]])
    plain = model.attribution_patching(CLEAN, CORRUPTED, ["attn", "output"], positions=None, **RAW)
    near(np.abs(np.asarray(plain)[0, -1]), np.asarray(found)[0, -1])
    assert np.abs(np.abs(np.asarray(plain)) - np.asarray(found)).max() > 1e-4


class Adds(nn.Module):
    """A layer: the stream, and what a part adds to it."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def __call__(self, x: mx.array) -> mx.array:
        return x + self.part(x)


class Against(nn.Module):
    """Takes off again what is small, and less and less of what is large."""

    def __call__(self, x: mx.array) -> mx.array:
        return -mx.tanh(x)


class Cancelling(nn.Module):
    """Three layers of which the second is against the first, on two tokens: nothing, something.

    Args: across: positions come before rows.
    """

    def __init__(self, across: bool = False):
        super().__init__()
        self.embed = nn.Embedding(2, 6)
        self.embed.weight[0] = 0
        self.layers = [Adds(nn.Linear(6, 6)), Adds(Against()), Adds(nn.Linear(6, 6))]
        self.layers[0].part.bias = mx.zeros(6)
        self.layers[2].part.weight = mx.zeros((6, 6))
        self.across = across

    def __call__(self, tokens: mx.array) -> mx.array:
        x = self.embed(tokens)
        x = x.swapaxes(0, 1) if self.across else x
        for layer in self.layers:
            x = layer(x)
        return x.swapaxes(0, 1) if self.across else x


@pytest.mark.parametrize("across", [False, True])
def test_what_cancels_is_found(across):
    """The part of layer 0 adds directly what the part of layer 1 takes off: no slope, an effect."""
    mx.random.seed(0)
    model = mg.InterpretableModel(Cancelling(across))
    clean, corrupted = [1, 1, 1], [0, 0, 0]
    given: dict[str, Any] = {"metric": lambda o: o[1], "normalize": False}
    exact = model.activation_patching(clean, corrupted, "part", positions="all", **given)
    plain = np.asarray(model.attribution_patching(clean, corrupted, "part", **given))
    found = np.asarray(model.attribution_patching(clean, corrupted, "part", graddrop=True, **given))
    step = (model.embed.module.weight @ model.layers[0].part.module.weight.T)[1, 1].item()
    assert plain[0, -1] == 0 and abs(exact.item(layer=0, position=2)) > 0.02
    assert found[0, -1] == pytest.approx(abs(step) / 2, rel=1e-5)
    assert (found[:, :-1] == 0).all(), "other positions have no effect"
    with pytest.raises(GradientError, match="graddrop=True"):
        model.attribution_patching(clean, corrupted, "part", layers=[0], **given)
    alone = model.attribution_patching(clean, corrupted, "part", layers=[0], graddrop=True, **given)
    near(alone, found[:1])


def test_in_percent_it_is_a_share_of_the_way_whatever_the_direction():
    tiny = mg.tiny()
    for metric, direction in ((score, "denoise"), (score, "noise"), ("l2", "denoise")):
        given = {"metric": metric, "direction": direction, "graddrop": True}
        share = tiny.attribution_patching(*TEXTS, "attn", **given)
        raw = tiny.attribution_patching(*TEXTS, "attn", normalize=False, **given)
        way = abs(raw.attrs["clean"] - raw.attrs["corrupted"])
        near(share, 100 * np.asarray(raw) / way)
        assert np.asarray(raw).min() >= 0 and np.asarray(share).max() > 1
    assert (share.name, share.unit) == ("size of the effect", "%")
    assert raw.name == "size of the change of l2" and raw.attrs["graddrop"] is True
    layers = tiny.attribution_patching(*TEXTS, "attn", positions=None, layers=[4, 1], **given)
    whole = tiny.attribution_patching(*TEXTS, "attn", positions=None, **given)
    near([layers[4], layers[1]], [whole[4], whole[1]])
    assert "GradDrop" in layers.plot().axes[0].get_title()


def test_layers_that_are_no_sums_raise():
    chain = mg.InterpretableModel(models.Chain())
    rows = [mx.random.normal((1, 4, 6), key=mx.random.key(k)) for k in (0, 1)]
    with pytest.raises(InputError, match="does not pass on"):
        chain.attribution_patching(*rows, metric=lambda o: o[0], graddrop=True)
    with pytest.raises(InputError, match="does not pass on") as caught:
        made("rwkv7").attribution_patching(CLEAN, CORRUPTED, graddrop=True, **RAW)
    assert caught.traceback[-1].path.name == "test_graddrop.py"
    one = mg.InterpretableModel(models.make_llama(layers=1))
    with pytest.raises(InputError, match="has one alone"):
        one.attribution_patching(CLEAN, CORRUPTED, graddrop=True, **RAW)
