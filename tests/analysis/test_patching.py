"""Activation patching: one batch equals the loop of runs that the guide writes out."""

from __future__ import annotations

import math

import mlx.core as mx
import pytest

from mlxgraph import interventions as iv
from mlxgraph.errors import (
    AlignError,
    BaselineError,
    BoundsError,
    LengthsError,
    UnknownNameError,
    UnknownSiteError,
)
from tests.models import make_llama

CLEAN, CORRUPTED = [1, 7, 3, 9, 4, 2], [1, 8, 3, 9, 4, 2]
COMPONENTS = [
    "mlp", "self_attn", "attn", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "input_layernorm", "post_attention_layernorm", "block",
]  # fmt: skip


def l2(a, b):
    return math.sqrt(mx.sum((a - b) ** 2).item())


def loop(model, component):
    """The guide's loop: a clean run, a corrupted run, and a patched run for each layer."""
    clean, corrupted = model(mx.array([CLEAN]))[0, -1], model(mx.array([CORRUPTED]))[0, -1]
    baseline = l2(corrupted, clean)
    found = {}
    for layer in range(len(model.layers)):
        name = f"layers.{layer}" + ("" if component == "block" else f".{component}")
        with model.trace(mx.array([CLEAN])) as trace:
            value = trace.activations[name]
        with model.trace(mx.array([CORRUPTED]), interventions={name: iv.replace_with(value)}):
            logits = model.output[0, -1].save()
        found[layer] = 100 * (baseline - l2(logits, clean)) / baseline
    return found


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.thin(4)
def test_one_batch_equals_the_loop_of_runs(llama, component):
    found = llama.activation_patching(CLEAN, CORRUPTED, component=component)
    expected = loop(llama, component)
    assert list(found) == [0, 1, 2]
    assert found == pytest.approx(expected, abs=1e-2)
    assert max(map(abs, found.values())) > 0.5, "some layer must matter"


def test_small_batches_give_what_one_batch_gives(llama):
    whole = llama.activation_patching(CLEAN, CORRUPTED, metric="cosine")
    single = llama.activation_patching(CLEAN, CORRUPTED, metric="cosine", batch_size=1)
    assert single == pytest.approx(dict(whole), abs=1e-2)


@pytest.mark.parametrize("metric", ["l2", "cosine", "mse", "kl"])
def test_patching_whole_blocks_recovers_everything_by_every_metric(llama, metric):
    found = llama.activation_patching(CLEAN, CORRUPTED, component="block", metric=metric)
    assert found == pytest.approx(dict.fromkeys(range(3), 100.0), abs=1e-2)


def test_a_metric_may_be_a_function(llama):
    named = llama.activation_patching(CLEAN, CORRUPTED)
    own = llama.activation_patching(CLEAN, CORRUPTED, metric=l2)
    assert own == pytest.approx(named, abs=1e-3)


@pytest.mark.parametrize(("dtype", "near"), [(mx.float16, 0.5), (mx.bfloat16, 5.0)])
@pytest.mark.parametrize("metric", ["l2", "cosine", "mse", "kl"])
@pytest.mark.thin(3)
def test_half_precision_gives_about_the_recovery_of_full_precision(fresh, dtype, near, metric):
    full = fresh.activation_patching(CLEAN, CORRUPTED, metric=metric)
    fresh.module.set_dtype(dtype)
    found = fresh.activation_patching(CLEAN, CORRUPTED, metric=metric)
    assert found == pytest.approx(dict(full), abs=near)
    assert max(full.values()) - min(full.values()) > 4 * near, "layers must differ by more"


def test_layers_are_those_asked_for(llama):
    everything = llama.activation_patching(CLEAN, CORRUPTED)
    some = llama.activation_patching(CLEAN, CORRUPTED, layers=[2, 0])
    assert list(some) == [2, 0]
    assert dict(some) == pytest.approx({n: everything[n] for n in (0, 2)}, abs=1e-2)


def test_layers_without_the_component_are_left_out_unless_asked_for():
    import mlxgraph as mg

    module = make_llama()
    module.model.layers[1].mlp = Plain(module.model.layers[1].mlp)
    model = mg.InterpretableModel(module)
    assert list(model.activation_patching(CLEAN, CORRUPTED, "mlp.gate_proj")) == [0, 2]
    with pytest.raises(UnknownSiteError):
        model.activation_patching(CLEAN, CORRUPTED, "mlp.gate_proj", layers=[1])


def Plain(inner):  # noqa: N802
    import mlx.nn as nn

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.wrapped = inner

        def __call__(self, x):
            return self.wrapped(x)

    return Plain()


def test_the_documented_signature_works_by_position_and_by_name(tiny):
    by_name = tiny.activation_patching(
        clean_text="Paris is the capital of France",
        corrupted_text="London is the capital of France",
        component="mlp",
        layers=[0, 2],
        metric="mse",
        plot=False,
    )
    by_place = tiny.activation_patching(
        "Paris is the capital of France", "London is the capital of France", "mlp", [0, 2], "mse"
    )
    assert dict(by_name) == dict(by_place)


# -- lengths ------------------------------------------------------------------------------------


def test_other_lengths_raise_unless_told_how_they_match(tiny):
    texts = "The capital of France is", "The big capital of Italy is"
    with pytest.raises(LengthsError, match="6 tokens and the corrupted text 7"):
        tiny.activation_patching(*texts)
    with pytest.raises(AlignError, match="'start'"):
        tiny.activation_patching(*texts, align="middle")
    end = tiny.activation_patching(*texts, component="attn", align="end")
    start = tiny.activation_patching(*texts, component="attn", align="start")
    assert max(end.values()) > 50, "the last positions carry the country and the answer"
    assert dict(end) != pytest.approx(dict(start), abs=1)


@pytest.mark.parametrize("align", ["start", "end"])
@pytest.mark.parametrize("swap", [False, True])
def test_aligned_patches_equal_replace_with(llama, align, swap):
    texts = [CLEAN, [5, *CORRUPTED]]
    clean, corrupted = reversed(texts) if swap else texts
    wanted = llama(mx.array([clean]))[0, -1]
    baseline = l2(llama(mx.array([corrupted]))[0, -1], wanted)
    found = llama.activation_patching(clean, corrupted, align=align)
    for layer in range(3):
        name = f"layers.{layer}.mlp"
        with llama.trace(mx.array([clean])) as trace:
            value = trace.activations[name]
        patch = {name: iv.replace_with(value, align=align)}
        with llama.trace(mx.array([corrupted]), interventions=patch):
            logits = llama.output[0, -1].save()
        expected = 100 * (baseline - l2(logits, wanted)) / baseline
        assert found[layer] == pytest.approx(expected, abs=1e-2)


def test_heads_before_positions_align_too(llama):
    corrupted = [5, *CORRUPTED]
    found = llama.activation_patching(CLEAN, corrupted, "self_attn.rope", align="end")
    wanted = llama(mx.array([CLEAN]))[0, -1]
    baseline = l2(llama(mx.array([corrupted]))[0, -1], wanted)
    for layer in range(3):
        name = f"layers.{layer}.self_attn.rope"
        with llama.trace(mx.array([CLEAN])) as trace:
            value = trace.activations[name]  # (batch, heads, length, head dimension)
        with llama.trace(mx.array([corrupted])):
            llama[name].output[:, :, 1:] = value
            logits = llama.output[0, -1].save()
        assert found[layer] == pytest.approx(
            100 * (baseline - l2(logits, wanted)) / baseline, abs=1e-2
        )
    assert max(map(abs, found.values())) > 0.5


# -- errors --------------------------------------------------------------------------------------


def test_texts_that_agree_leave_nothing_to_recover(llama):
    with pytest.raises(BaselineError, match="nothing to recover"):
        llama.activation_patching(CLEAN, CLEAN)


def test_logits_that_are_not_finite_are_named(fresh):
    fresh.module.load_weights([("lm_head.weight", mx.full((50, 32), mx.inf))], strict=False)
    with pytest.raises(BaselineError, match="not finite"):
        fresh.activation_patching(CLEAN, CORRUPTED)


def test_unknown_components_metrics_and_layers_raise(llama):
    with pytest.raises(UnknownSiteError, match="gate_proj"):
        llama.activation_patching(CLEAN, CORRUPTED, component="mlp.gate_porj")
    with pytest.raises(UnknownNameError, match="cosine"):
        llama.activation_patching(CLEAN, CORRUPTED, metric="cosinus")
    with pytest.raises(BoundsError):
        llama.activation_patching(CLEAN, CORRUPTED, layers=[7])


def test_the_model_is_left_alone(llama):
    before = llama(mx.array([CLEAN])).tolist()
    llama.activation_patching(CLEAN, CORRUPTED)
    assert llama(mx.array([CLEAN])).tolist() == before


def test_story_some_attention_layer_brings_the_capital_back(tiny):
    texts = "The capital of France is", "The capital of Italy is"
    attention = tiny.activation_patching(*texts, component="self_attn")
    assert max(attention.values()) > 50
    assert min(map(abs, attention.values())) < 10, "and not every layer does"
    assert attention.baseline > 0 and attention.component == "self_attn"
