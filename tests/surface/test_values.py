"""What a trace gives back: output, saved values, activations, and looks inside the block."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlxgraph import interventions as iv
from mlxgraph.errors import MLXGraphError, NotSavedError, UnknownSiteError
from tests.models import same

ONE = mx.array([[1, 7, 3, 9, 4, 2]])


def test_output_is_the_models_output_edits_included(llama, tokens):
    with llama.trace(tokens) as plain:
        pass
    assert same(plain.output, llama(tokens), 1e-6)
    with llama.trace(tokens, interventions={"layers.1": iv.zero_out}) as edited:
        logits = llama.output.save()
    assert same(edited.output, logits, 1e-6) and not same(plain.output, edited.output, 1e-3)


def test_saves_in_comprehensions_lists_and_dicts(llama, tokens):
    with llama.trace(tokens) as trace:
        by_layer = {i: llama.layers[i].output.save() for i in range(3)}
        attention = [layer.attn.output.save() for layer in llama.layers if hasattr(layer, "attn")]
        pair = (llama.output.save(), llama.layers[0].mlp.output[:, -1].save())
    for i in range(3):
        assert same(by_layer[i], trace.activations[f"layers.{i}"], 1e-6)
        assert same(attention[i], trace.activations[f"layers.{i}.self_attn"], 1e-6)
    assert same(pair[0], llama(tokens), 1e-6) and pair[1].shape == (2, 32)


def test_statistics_inside_the_block_are_real_numbers(llama, tokens):
    with llama.trace(tokens) as trace:
        stats = {}
        for i in range(3):
            act = llama.layers[i].output.save()
            stats[f"layer_{i}"] = {
                "mean": float(mx.mean(act)),
                "std": float(mx.std(act)),
                "max": float(mx.max(act)),
                "min": float(mx.min(act)),
            }
    for i in range(3):
        value = trace.activations[f"layers.{i}"]
        for name, number in stats[f"layer_{i}"].items():
            assert number == pytest.approx(getattr(mx, name)(value).item(), rel=1e-4, abs=1e-5)
    assert len({stats[f"layer_{i}"]["std"] for i in range(3)}) == 3


def test_saved_values_are_listed_by_name(llama, tokens):
    with llama.trace(tokens) as trace:
        llama.layers[1].output.save()
        llama.output.save("logits")
    assert "logits" in trace.saved_values and len(trace.saved_values) == 2
    assert same(trace.saved_values["logits"], trace.output, 1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "layers.1.output", "layers.1", "model.layers.1", "model.layers.1.output",
        "model.model.layers.1",
    ],
)  # fmt: skip
def test_get_takes_every_form_of_a_name(llama, tokens, name):
    with llama.trace(tokens) as trace:
        saved = llama.layers[1].output.save()
    assert same(trace.get(name), saved)
    assert same(trace.get_activation(name), saved, 1e-6)


def test_get_activation_needs_no_save(llama, tokens):
    with llama.trace(tokens) as trace:
        pass
    assert trace.get_activation("layers.2.attn").shape == (2, 6, 32)
    with pytest.raises(UnknownSiteError):
        trace.get_activation("layers.2.atn")


def test_get_inside_the_block_says_that_it_is_too_early(llama, tokens):
    with llama.trace(tokens) as trace:
        llama.layers[1].output.save()
        with pytest.raises(MLXGraphError, match="after the block"):
            trace.get("layers.1.output")


# -- activations ---------------------------------------------------------------------------------


def test_activations_list_every_module_under_its_root_name(llama, tokens):
    with llama.trace(tokens) as trace:
        pass
    names = list(trace.activations.keys())
    per_layer = [name for name in names if name.startswith("model.model.layers.1")]
    expected = {"", ".self_attn", ".mlp", ".input_layernorm", ".post_attention_layernorm"}
    expected |= {f".self_attn.{p}" for p in ("q_proj", "k_proj", "v_proj", "o_proj", "rope")}
    expected |= {f".mlp.{p}" for p in ("gate_proj", "up_proj", "down_proj")}
    assert {name.removeprefix("model.model.layers.1") for name in per_layer} == expected
    assert {"model.model.embed_tokens", "model.model.norm", "__model_output__"} <= set(names)
    assert len(trace.activations) == len(names) == len(set(names))
    for name in names:
        assert trace.activations[name].shape[0] == 2
        assert name in trace.activations


def test_activations_are_the_edited_runs(llama, tokens):
    with llama.trace(tokens, interventions={"layers.0": iv.scale(2.0)}) as edited:
        pass
    with llama.trace(tokens) as plain:
        pass
    for name in ("layers.0", "layers.1.mlp", "__model_output__"):
        assert not same(edited.activations[name], plain.activations[name], 1e-3)
    assert same(edited.activations["layers.0"], 2 * plain.activations["layers.0"], 1e-5)
    before = "layers.0.mlp"
    assert same(edited.activations[before], plain.activations[before], 1e-6)


def test_activations_read_inside_and_outside_agree(llama, tokens):
    with llama.trace(tokens) as trace:
        inside = trace.activations["model.model.layers.1.mlp"]
    assert same(inside, trace.activations["layers.1.mlp"], 1e-6)
    assert "layers.7" not in trace.activations
    with pytest.raises(KeyError):
        trace.activations["layers.7"]


def test_activations_of_noisy_runs_are_the_same_runs(llama, tokens):
    with llama.trace(tokens, interventions={"layers.0": iv.noise(0.5)}) as trace:
        stream = llama.layers[1].output.save()
    assert same(trace.activations["layers.1"], stream, 1e-5)


def test_what_was_not_saved_says_so(llama, tokens):
    with llama.trace(tokens):
        kept = llama.layers[1].output
    with pytest.raises(NotSavedError, match="save"):
        kept + 1


# -- the documents' longer examples --------------------------------------------------------------


def test_the_residual_streams_changes_have_norms(llama):
    with llama.trace(ONE):
        residuals = [llama.layers[i].output.save() for i in range(len(llama.layers))]
    for before, after in zip(residuals, residuals[1:], strict=False):
        norm = mx.linalg.norm(after - before)
        assert norm.item() > 0
        assert f"{norm:.4f}" == f"{norm.item():.4f}"


def test_manual_patching_as_in_the_guide(tiny):
    clean, corrupted = "The capital of France is", "The capital of Italy is"
    with tiny.trace(clean) as trace:
        value = trace.activations["model.model.layers.2.self_attn"]
    mx.eval(value)
    with tiny.trace(corrupted, interventions={"layers.2.self_attn": iv.replace_with(value)}):
        patched = tiny.output.save()
    assert tiny.token_to_str(mx.argmax(patched[0, -1]).item()) == " Paris"
    assert tiny.token_to_str(mx.argmax(tiny(mx.array([tiny.encode(corrupted)]))[0, -1]).item()) == (
        " Rome"
    )
