"""Composition scores: those of matrices multiplied out by hand, whatever holds the weights."""

from __future__ import annotations

import traceback
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import (
    DecompositionError,
    InputError,
    MLXGraphError,
    NoLayerError,
    UnknownNameError,
    UnknownSiteError,
)
from tests.analysis.test_patching_maps import MODELS, made
from tests.dear import dear
from tests.models import make_llama

KINDS = ("q", "k", "v")


def of_llama(model: mg.InterpretableModel, layer: int, head: int) -> tuple[Any, Any]:
    """W_QK and W_OV of a head: plain products of plain weights."""
    block = model.module.layers[layer]
    attention, gain = block.self_attn, np.array(block.input_layernorm.weight.astype(mx.float32))
    parts = {
        name: np.array(model.weight(f"layers.{layer}.self_attn.{name}_proj")) for name in "qkvo"
    }
    size = parts["q"].shape[0] // attention.n_heads
    shared = head // (attention.n_heads // attention.n_kv_heads)
    rows, kv = slice(head * size, (head + 1) * size), slice(shared * size, (shared + 1) * size)
    queries, keys, values = parts["q"][rows] * gain, parts["k"][kv] * gain, parts["v"][kv] * gain
    return queries.T @ keys, parts["o"][:, rows] @ values


def of_gpt2(model: mg.InterpretableModel, layer: int, head: int) -> tuple[Any, Any]:
    """One matrix holds queries, keys and values; the norm takes the mean off."""
    block = model.module.model.h[layer]
    count = block.attn.n_head
    whole = np.array(model.weight(f"h.{layer}.attn.c_attn"))
    output = np.array(model.weight(f"h.{layer}.attn.c_proj"))
    width = whole.shape[1]
    size = width // count
    centre = np.eye(width) - 1 / width
    reads = np.array(block.ln_1.weight) * whole @ centre
    rows = slice(head * size, (head + 1) * size)
    queries, keys, values = (reads[k * width : (k + 1) * width][rows] for k in range(3))
    return queries.T @ keys, output[:, rows] @ values


def of_gemma2(model: mg.InterpretableModel, layer: int, head: int) -> tuple[Any, Any]:
    """Gains of one and more, and a norm behind."""
    block = model.module.model.layers[layer]
    before = 1 + np.array(block.input_layernorm.weight)
    after = 1 + np.array(block.post_attention_layernorm.weight)
    q, k, v, o = (
        np.array(model.weight(f"layers.{layer}.self_attn.{name}_proj")) for name in "qkvo"
    )
    attention = block.self_attn
    size = q.shape[0] // attention.n_heads
    shared = head // (attention.n_heads // attention.n_kv_heads)
    rows, kv = slice(head * size, (head + 1) * size), slice(shared * size, (shared + 1) * size)
    return (q[rows] * before).T @ (k[kv] * before), after[:, None] * o[:, rows] @ (v[kv] * before)


def of_qwen3(model: mg.InterpretableModel, layer: int, head: int) -> tuple[Any, Any]:
    """Queries and keys are normed, and their gains count."""
    attention = model.module.model.layers[layer].self_attn
    gain = np.array(model.module.model.layers[layer].input_layernorm.weight)
    q, k, v, o = (
        np.array(model.weight(f"layers.{layer}.self_attn.{name}_proj")) for name in "qkvo"
    )
    size = q.shape[0] // attention.n_heads
    shared = head // (attention.n_heads // attention.n_kv_heads)
    rows, kv = slice(head * size, (head + 1) * size), slice(shared * size, (shared + 1) * size)
    queries = np.array(attention.q_norm.weight)[:, None] * q[rows] * gain
    keys = np.array(attention.k_norm.weight)[:, None] * k[kv] * gain
    return queries.T @ keys, o[:, rows] @ (v[kv] * gain)


BY_HAND = {
    "tiny": (mg.tiny, of_llama),
    "4-bit": (MODELS["4-bit"], of_llama),
    "gpt2": (lambda: made("gpt2"), of_gpt2),
    "gemma2": (lambda: made("gemma2"), of_gemma2),
    "granite": (lambda: made("granite"), of_llama),  # half of what the parts give is added
    "qwen3": (lambda: made("qwen3"), of_qwen3),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["4-bit", "gpt2", *dear("tiny", "gemma2", "qwen3")])
@pytest.mark.thin(3)
def test_scores_by_hand(name, kind):
    build, hand = BY_HAND[name]
    model = build()
    found = model.composition_scores(kind)
    norm = np.linalg.norm
    for a, h, b, k in ((0, 0, 1, 1), (0, 3, 2, 0), (1, 2, 2, 3)):
        (_, sender), (pattern, values) = hand(model, a, h), hand(model, b, k)
        reads = {"q": pattern.T, "k": pattern, "v": values}[kind]
        by_hand = norm(reads @ sender) / norm(reads) / norm(sender)
        at = {"sender_layer": a, "sender_head": h, "receiver_layer": b, "receiver_head": k}
        assert found.item(**at) == pytest.approx(by_hand, rel=2e-3)


def test_only_later_layers_are_scored_and_random_weights_score_as_said():
    model = mg.InterpretableModel(make_llama())
    found = model.composition_scores("k")
    numbers = np.asarray(found)
    assert numbers.shape == (3, 4, 3, 4)
    for a in range(3):
        for b in range(3):
            assert np.isnan(numbers[a, :, b]).all() == (b <= a)
    assert np.nanmean(numbers) == pytest.approx(found.attrs["random"], rel=0.3)
    assert found.attrs["random"] == pytest.approx(32**-0.5)


def test_a_head_that_writes_what_another_reads_scores_high():
    module = make_llama()
    sender, receiver = module.layers[0].self_attn, module.layers[2].self_attn
    size = 8
    weight = mx.array(sender.o_proj.weight)
    keys = receiver.k_proj.weight[:size]  # of the heads 0 and 1
    weight[:, 2 * size : 3 * size] = keys.T
    sender.o_proj.weight = weight
    found = mg.InterpretableModel(module).composition_scores("k")
    best = found.argmax()
    assert (best["sender_layer"], best["sender_head"], best["receiver_layer"]) == (0, 2, 2)
    assert best["receiver_head"] in (0, 1)
    assert found.max() > 1.5 * found.sel(sender_layer=1, receiver_layer=2).max()


def test_mixtures_compose_and_a_norm_in_the_middle_is_refused():
    mixture, normed = made("mixtral"), made("deepseek_v3")
    for kind in KINDS:
        assert mixture.composition_scores(kind).max() < 1
    for kind in ("q", "k"):
        with pytest.raises(DecompositionError, match="queries.*no linear map"):
            normed.composition_scores(kind)


def test_layers_may_be_chosen():
    model = mg.tiny()
    whole, some = model.composition_scores("v"), model.composition_scores("v", layers=[1, 4])
    assert some.axes["receiver_layer"] == (1, 4)
    part = whole.sel(sender_layer=[1, 4], receiver_layer=[1, 4])
    assert np.allclose(some, part, 1e-4, equal_nan=True)


WRONG = {
    "another kind": (lambda m: m.composition_scores("o"), UnknownNameError),
    "one layer": (lambda m: m.composition_scores("k", layers=[2]), InputError),
    "a layer beyond": (lambda m: m.composition_scores("k", layers=[9, 1]), NoLayerError),
    "no heads": (lambda m: made("mamba").composition_scores("k"), InputError),
    "a layer without heads": (
        lambda m: made("lfm2").composition_scores("k", layers=[0, 1]),
        UnknownSiteError,
    ),
    "a stream that is no sum": (
        lambda m: made("talkie").composition_scores("k"),
        DecompositionError,
    ),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.thin(3)
def test_bad_input_raises_on_the_users_line(name):
    call, error = WRONG[name]
    with pytest.raises(error) as caught:
        call(mg.tiny())
    assert isinstance(caught.value, MLXGraphError)
    assert traceback.extract_tb(caught.tb)[-1].filename == __file__
