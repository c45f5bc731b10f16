"""AtP*: the step of a query or a key through the softmax, against softmaxes written out."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import InputError
from tests import models
from tests.analysis.llama_by_hand import score
from tests.analysis.test_attribution import kept
from tests.analysis.test_patching_maps import (
    CLEAN,
    CORRUPTED,
    TARGETS,
    TEXTS,
    made,
    near,
    sorted_out,
)
from tests.analysis.test_patching_maps import (
    MODELS as THE_SAME,
)

MODELS = {
    **THE_SAME,  # gemma2 has a soft cap between the product and the softmax
    "gpt_oss": lambda: made("gpt_oss"),  # an attention sink
}


@pytest.fixture(scope="module", params=sorted_out(MODELS))
def model(request: Any) -> mg.InterpretableModel:
    return MODELS[request.param]()


@pytest.fixture(scope="module")
def tiny() -> mg.InterpretableModel:
    return mg.tiny()


def patterns(model: Any, layer: int, port: str = "", position: Any = None, value: Any = None):
    """The pattern of a layer in the corrupted run, with a part of its queries or keys patched, and
    the slope there of the unpatched run."""
    with model.trace(mx.array([CORRUPTED])) as trace:
        attention = model.layers[layer].attn
        if port:
            there = getattr(attention, port)
            there[:, :, position] = value[:, :, position]
        pattern = attention.pattern.save()
        if not port:
            slope = trace.grad(score(model.output[0, -1].astype(mx.float32)), pattern).save()
    pattern = np.array(pattern.astype(mx.float32)).astype(np.float64)
    return pattern if port else (pattern, np.array(slope.astype(mx.float32)).astype(np.float64))


@pytest.mark.parametrize("port", ["queries", "keys"])
@pytest.mark.thin(3)
def test_each_position_equals_the_pattern_by_hand(model, port):
    found = model.attribution_patching(
        CLEAN, CORRUPTED, port, metric=score, method="atp*", normalize=False
    )
    plain = model.attribution_patching(CLEAN, CORRUPTED, port, metric=score, normalize=False)
    assert found.axes == plain.axes
    assert np.abs(np.asarray(found) - np.asarray(plain)).max() > 1e-4, "the softmax is not straight"
    clean = kept(model, CLEAN, port)
    heads = clean[0].shape[1]
    for layer in range(len(model.layers)):
        before, slope = patterns(model, layer)
        expected = []
        for position in range(len(CORRUPTED)):
            after = patterns(model, layer, port, position, clean[layer])
            moved = (slope * (after - before)).sum(axis=(0, 2, 3))
            expected.append(moved.reshape(heads, -1).sum(axis=1))
        own = np.asarray(found)[layer]
        scale = max(0.05, float(np.abs(expected).max()))
        assert np.abs(own - np.asarray(expected)).max() < 5e-3 * scale


@pytest.mark.parametrize("port", ["queries", "keys"])
@pytest.mark.thin(3)
def test_all_positions_at_once_are_patched_together(model, port):
    found = model.attribution_patching(
        CLEAN, CORRUPTED, port, metric=score, method="atp*", normalize=False, positions=None
    )
    clean = kept(model, CLEAN, port)
    before, slope = patterns(model, 1)
    after = patterns(model, 1, port, slice(None), clean[1])
    expected = (slope * (after - before)).sum(axis=(0, 2, 3))
    near(found.sel(layer=1), expected.reshape(clean[1].shape[1], -1).sum(axis=1))


@pytest.mark.parametrize("port", ["queries", "keys"])
def test_it_is_nearer_to_the_sweep_where_attention_is_sure(tiny, port):
    given = {"metric": "logit_diff", "targets": TARGETS}
    exact = np.asarray(
        tiny.activation_patching(*TEXTS, port, layers=[2, 3], positions="all", **given)
    )
    plain, star = (
        np.asarray(tiny.attribution_patching(*TEXTS, port, layers=[2, 3], method=method, **given))
        for method in ("attribution", "atp*")
    )
    assert np.abs(star - exact).max() < 0.7 * np.abs(plain - exact).max()


def test_a_saturated_softmax_hides_a_key_from_gradients_and_not_from_the_correction():
    module = models.make_llama()
    for layer in module.layers:
        layer.self_attn.q_proj.weight = layer.self_attn.q_proj.weight * 30
    model = mg.InterpretableModel(module)
    exact, plain, star = (
        np.asarray(ask(CLEAN, CORRUPTED, "keys", [2], score, positions="all", **given)).ravel()
        for ask, given in (
            (model.activation_patching, {}),
            (model.attribution_patching, {}),
            (model.attribution_patching, {"method": "atp*"}),
        )
    )
    assert np.isfinite(star).all()
    assert np.abs(star - exact).sum() < 0.5 * np.abs(plain - exact).sum()


def test_what_is_neither_is_as_without_the_correction(tiny):
    given = {"metric": score, "heads": None}
    star = tiny.attribution_patching(*TEXTS, ["queries", "mlp"], method="atp*", **given)
    plain = tiny.attribution_patching(*TEXTS, ["queries", "mlp"], **given)
    near(star.sel(component="mlp"), plain.sel(component="mlp"))
    assert np.abs(np.asarray(star) - np.asarray(plain)).max() > 1e-3
    heads = tiny.attribution_patching(*TEXTS, "queries", method="atp*", metric=score)
    near(star.sel(component="queries"), np.asarray(heads).sum(axis=-1))
    again = tiny.attribution_patching(
        *TEXTS, ["attn.keys", "keys"], heads="all", method="atp*", metric=score
    )
    near(again.isel(component=0), again.isel(component=1))


def test_texts_of_other_lengths_and_the_other_direction(tiny):
    clean, corrupted = tiny.encode(TEXTS[0]), tiny.encode("The big capital of England is")
    given = {"metric": "logit_diff", "targets": TARGETS, "align": "end"}
    for port, direction in (("queries", "denoise"), ("keys", "noise")):
        own = {**given, "direction": direction}
        star = tiny.attribution_patching(clean, corrupted, port, method="atp*", **own)
        exact = tiny.activation_patching(clean, corrupted, port, positions="all", **own)
        assert star.axes == exact.axes
        assert np.abs(np.asarray(star) - np.asarray(exact)).max() < 5


def test_what_has_no_attention_to_correct(tiny):
    with pytest.raises(InputError, match="corrects the steps of queries and keys") as caught:
        tiny.attribution_patching(*TEXTS, ["mlp", "heads"], method="atp*", metric=score)
    assert caught.traceback[-1].path.name == "test_attention_steps.py"
