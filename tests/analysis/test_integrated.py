"""Integrated gradients: effects that add up to what patching the whole of a value does."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.analysis.integrated import _Run
from mlxgraph.analysis.recovery import Recovery
from mlxgraph.errors import BaselineError, SweepStopped
from tests import models
from tests.analysis.llama_by_hand import by_hand, score
from tests.analysis.test_attribution import kept, without_norm
from tests.analysis.test_patching_maps import CLEAN, CORRUPTED, MODELS, SOME, TEXTS, made, near

LAST = {"metric": score, "normalize": False}


@pytest.fixture(scope="module", params=SOME)
def model(request: Any) -> mg.InterpretableModel:
    return MODELS[request.param]()


@pytest.fixture(scope="module")
def tiny() -> mg.InterpretableModel:
    return mg.tiny()


@pytest.mark.parametrize("component", ["output", "mlp", "heads"])
@pytest.mark.thin(4)
def test_effects_add_up_to_what_patching_the_whole_value_does(model, component):
    last = len(model.layers) - 1
    layers = [last] if is_mixture(model) else [0, last]  # routers that follow make jumps
    found = model.integrated_gradients(CLEAN, CORRUPTED, component, layers, steps=64, **LAST)
    whole = model.activation_patching(
        CLEAN, CORRUPTED, "attn.heads" if component == "heads" else component, layers, **LAST
    )
    sums = np.asarray(found).reshape(len(layers), -1).sum(axis=1)
    expected = np.asarray(whole) - whole.attrs["corrupted"]
    assert np.abs(sums - expected).max() < 2e-4 * max(1, np.abs(expected).max())
    assert np.abs(expected).max() > 0.01
    assert found.attrs["missing"] == pytest.approx(np.abs(sums - expected).max(), abs=1e-4)
    if component == "output":
        assert sums[0] == pytest.approx(found.attrs["clean"] - found.attrs["corrupted"], abs=2e-3)
    one = model.attribution_patching(CLEAN, CORRUPTED, component, layers, **LAST)
    apart = np.abs(np.asarray(one).reshape(len(layers), -1).sum(axis=1) - expected)
    assert apart.max() > 2 * np.abs(sums - expected).max(), "a slope at one end does not add up"


def test_an_expert_that_changes_on_the_way_is_a_jump_which_slopes_do_not_see():
    model = made("qwen2_moe")
    ends = [kept(model, text, "output")[0] for text in (CORRUPTED, CLEAN)]
    points = mx.arange(401).reshape(-1, 1, 1) / 400
    with model.trace(mx.array([CORRUPTED] * 401)):
        model.layers[0].output = ends[0] + points * (ends[1] - ends[0])
        logits = model.output[:, -1].save()
    moves = np.diff(np.array(logits[:, 7] - logits[:, 11]))
    jumps = moves[np.abs(moves) > 8 * np.median(np.abs(moves))]
    assert 0 < len(jumps) < 6
    found = model.integrated_gradients(CLEAN, CORRUPTED, "output", [0], steps=64, **LAST)
    missing = found.attrs["clean"] - found.attrs["corrupted"] - np.asarray(found).sum()
    assert found.attrs["missing"] == pytest.approx(abs(missing), abs=1e-4)
    assert abs(missing) > 5e-3
    assert missing == pytest.approx(float(jumps.sum()), abs=0.1 * float(np.abs(jumps).sum()))


def is_mixture(model: Any) -> bool:
    return any("switch_mlp" in name for name, _ in model.named_modules())


@pytest.mark.thin(3)
def test_by_inputs_they_add_up_at_the_first_layer(model):
    found = model.integrated_gradients(
        CLEAN, CORRUPTED, ["resid_pre", "mlp"], steps=64, path="inputs", **LAST
    )
    first = np.asarray(found.sel(component="resid_pre", layer=0))
    if not is_mixture(model):
        whole = found.attrs["clean"] - found.attrs["corrupted"]
        assert first.sum() == pytest.approx(whole, abs=2e-3)
    by_site = model.integrated_gradients(CLEAN, CORRUPTED, "resid_pre", [0], steps=64, **LAST)
    near(first, by_site.sel(layer=0))
    later = model.integrated_gradients(CLEAN, CORRUPTED, "mlp", [1], steps=64, **LAST)
    gap = np.asarray(found.sel(component="mlp", layer=1)) - np.asarray(later.sel(layer=1))
    assert np.abs(gap).max() > 1e-3, "another way, another mean slope"


@pytest.mark.parametrize("path", ["site", "inputs"])
@pytest.mark.parametrize("component", ["mlp", "resid_mid", "values", "pattern"])
@pytest.mark.thin(3)
def test_it_is_the_mean_of_slopes_of_a_forward_written_by_hand(path, component):
    module, layer = models.make_llama(), 1
    _, own = by_hand(module, CORRUPTED, {})
    _, other = by_hand(module, CLEAN, {})
    way = (component, layer) if path == "site" else ("resid_pre", 0)
    at, points, weights = (component, layer), [0.5 - 12**-0.5, 0.5 + 12**-0.5], [0.5, 0.5]
    mean = mx.zeros(own[at].shape)
    for point, weight in zip(points, weights, strict=True):
        gone = point * (other[way] - own[way])
        here = mx.zeros(own[at].shape)

        def forward(step: mx.array, gone: mx.array = gone) -> mx.array:
            steps = {at: gone + step} if way == at else {way: gone, at: step}
            return by_hand(module, CORRUPTED, steps)[0]

        mean = mean + weight * mx.grad(forward)(here)
    product = np.array(mean * (other[at] - own[at])).sum(-1)[0]
    found = mg.InterpretableModel(module).integrated_gradients(
        CLEAN, CORRUPTED, component, [layer], steps=2, path=path, **LAST
    )
    near(np.asarray(found)[0], product.T if component in ("values", "pattern") else product)
    assert np.abs(product).max() > 0.05


def test_where_the_rest_is_linear_one_step_is_all_steps():
    model = without_norm()
    one = model.integrated_gradients(CLEAN, CORRUPTED, "output", [2], steps=1, **LAST)
    slope = model.attribution_patching(CLEAN, CORRUPTED, "output", [2], **LAST)
    exact = model.activation_patching(CLEAN, CORRUPTED, "output", [2], positions="all", **LAST)
    near(one, slope)
    near(np.asarray(one) + exact.attrs["corrupted"], exact)


def test_batches_do_not_show(model):
    whole = model.integrated_gradients(CLEAN, CORRUPTED, "attn", [1], steps=5, **LAST)
    for size in (1, 2):
        near(
            model.integrated_gradients(
                CLEAN, CORRUPTED, "attn", [1], steps=5, batch_size=size, **LAST
            ),
            whole,
        )


def test_axes_and_percent_are_those_of_the_sweep(tiny):
    for asked in (
        {"positions": None},
        {"positions": [4, -1], "layers": [3]},
        {"direction": "noise"},
    ):
        given = {"positions": "all", "metric": "l2", **asked}
        found = tiny.integrated_gradients(*TEXTS, "attn", steps=3, **given)
        exact = tiny.activation_patching(*TEXTS, "attn", **given)
        assert found.axes == exact.axes and found.coords == exact.coords and found.unit == "%"
        assert isinstance(found, Recovery) == isinstance(exact, Recovery)
    found = tiny.integrated_gradients(*TEXTS, "attn", positions=None, metric=score, steps=32)
    near(found, tiny.activation_patching(*TEXTS, "attn", metric=score))
    assert found.attrs["steps"] == 32 and found.attrs["path"] == "site"


@pytest.mark.parametrize("path", ["site", "inputs"])
def test_too_few_steps_are_told(tiny, path):
    few, many = (
        tiny.integrated_gradients(*TEXTS, "resid_pre", [0], score, steps=k, path=path)
        for k in (1, 32)
    )
    assert many.attrs["missing"] < 1e-2 < 1 < few.attrs["missing"]
    assert few.attrs["missing"] == pytest.approx(abs(100 - np.asarray(few).sum()), abs=1e-2)
    pairs = tiny.integrated_gradients(
        [TEXTS[0], CLEAN], [TEXTS[1], CORRUPTED], "resid_pre", [0], score, steps=1, path=path
    )
    assert pairs.attrs["missing"] >= few.attrs["missing"] - 1e-3


@pytest.mark.thin(3)
def test_a_text_against_itself_has_no_effect(model):
    for path in ("site", "inputs"):
        found = model.integrated_gradients(CLEAN, CLEAN, "mlp", steps=2, path=path, **LAST)
        assert np.abs(np.asarray(found)).max() == 0
    with pytest.raises(BaselineError):
        model.integrated_gradients(CLEAN, CLEAN, "mlp", steps=2, metric=score)


def test_a_model_without_attention():
    model = made("mamba")
    found = model.integrated_gradients(CLEAN, CORRUPTED, "output", [1], steps=64, **LAST)
    whole = found.attrs["clean"] - found.attrs["corrupted"]
    assert np.asarray(found).sum() == pytest.approx(whole, abs=2e-3 * max(1, abs(whole)))


class Sideways(nn.Module):
    """Layers on (length, rows, width), whose positions do mix."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.layers = [nn.Linear(8, 8) for _ in range(2)]
        self.head = nn.Linear(8, 50)

    def __call__(self, tokens: mx.array) -> mx.array:
        x = 3 * self.embed(tokens).swapaxes(0, 1)
        for layer in self.layers:
            x = x + mx.cumsum(mx.tanh(layer(x)), axis=0)
        return self.head(x.swapaxes(0, 1))


def test_values_whose_rows_are_not_on_the_first_axis_go_one_by_one():
    mx.random.seed(0)
    model = mg.InterpretableModel(Sideways())
    found = model.integrated_gradients(CLEAN, CORRUPTED, "output", steps=16, **LAST)
    whole = model.activation_patching(CLEAN, CORRUPTED, "output", **LAST)
    assert found.dims == ("layer", "position")
    expected = np.asarray(whole) - whole.attrs["corrupted"]
    near(np.asarray(found).sum(axis=1), expected)
    assert np.abs(expected).max() > 0.02
    exact = model.activation_patching(CLEAN, CORRUPTED, "output", positions="all", **LAST)
    near(np.asarray(found)[1], np.asarray(exact)[1] - whole.attrs["corrupted"])


def test_a_stopped_search_keeps_what_it_has(tiny, monkeypatch):
    done = _Run.mean_slopes
    calls = []

    def twice(self, *given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return done(self, *given)

    whole = tiny.integrated_gradients(*TEXTS, "attn", steps=2, metric=score)
    monkeypatch.setattr(_Run, "mean_slopes", twice)
    with pytest.raises(SweepStopped, match="2 of 6 places") as caught:
        tiny.integrated_gradients(*TEXTS, "attn", steps=2, metric=score)
    found = caught.value.result
    near(np.asarray(found)[:2], np.asarray(whole)[:2])
    assert np.isnan(np.asarray(found)[2:]).all() and caught.value.plan is None
    assert ".plan" not in str(caught.value)


def test_nothing_is_left_on_the_model(tiny):
    before = np.asarray(tiny(mx.array([CORRUPTED])))
    tiny.integrated_gradients(CLEAN, CORRUPTED, "mlp", steps=2, metric=score)
    tiny.attribution_patching(CLEAN, CORRUPTED, "queries", method="atp*", metric=score)
    assert (np.asarray(tiny(mx.array([CORRUPTED]))) == before).all()
    assert np.abs(np.asarray(tiny(mx.array([CLEAN]))) - before).max() > 0.1
