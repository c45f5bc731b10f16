"""Ablation of a direction at every writer: the stream has nothing along it, on every architecture
where the writers are certain, and elsewhere that is an error."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.analysis.stream_writers import residual_writers
from mlxgraph.errors import InputError, InterventionError, ShapeError, WritersError
from tests.folding.helpers import TEXT, TOKENS, UNUSED, apart, built, direction, first, quantised

NEAR = 1e-5
ARCHITECTURES = [  # name, what writes at first, and after attention in the first layer
    ("llama", ["model.embed_tokens"], "self_attn"),
    ("gpt2", ["model.wte", "model.wpe"], "attn"),
    ("gemma2", ["model.embed_tokens"], "post_attention_layernorm"),
    ("olmo2", ["model.embed_tokens"], "post_attention_layernorm"),
    ("phi", ["model.embed_tokens"], "self_attn"),
    ("exaone", ["transformer.wte"], "attn.attention"),
    ("granite", ["model.embed_tokens"], "self_attn"),
    ("mixtral", ["model.embed_tokens"], "self_attn"),
    ("falcon_h1", ["model.embed_tokens"], "mamba"),
    ("mamba2", ["backbone.embeddings"], "mixer"),
    ("hunyuan", ["model.embed_tokens"], "self_attn"),
]


def streams(model, tokens) -> list[mx.array]:
    found = []
    with model.trace(tokens):
        for layer in model.layers:
            value = layer.output
            found.append((value if isinstance(value, mx.array) else value[0]).save())
    return found


@pytest.mark.parametrize(("name", "at_first", "attention"), ARCHITECTURES)
@pytest.mark.thin(3)
def test_the_stream_has_nothing_along_the_direction(name, at_first, attention):
    model, rows = built(name), mx.stack([direction(64), direction(64, 2)])
    graph = mg.directional_ablation(model, rows)
    patterns = [edit.pattern for edit in graph.then]
    assert patterns[: len(at_first)] == at_first
    assert patterns[len(at_first)].endswith(f".0.{attention}")
    ablated = model.edit(graph)
    for tokens in (TOKENS, UNUSED):
        for own, plain in zip(streams(ablated, tokens), streams(model, tokens), strict=True):
            along = mx.abs(own @ rows.T).max().item()
            assert along < NEAR * mx.abs(plain @ rows.T).max().item() * 10
    assert apart(first(ablated(TOKENS)), first(model(TOKENS))) > 1e-2


@pytest.mark.parametrize("example", [[1], [4, 4, 4]], ids=str)
def test_what_layers_write_does_not_hang_on_the_text(example):
    """A norm without gains of one state, over and over, is a multiple of it: noise is none."""
    model, v = built("llama"), direction(64)
    found = mg.directional_ablation(model, v, example=example)
    assert found == mg.directional_ablation(model, v)
    assert len(found.then) == 7


@pytest.mark.parametrize("make", [mg.tiny, lambda: quantised(mg.tiny())], ids=["tiny", "4 bit"])
def test_law_4_what_is_found_sums_to_the_stream(make):
    model = make()
    names = residual_writers(model, mx.array([model.encode(TEXT)]))
    with model.trace(TEXT):
        total = sum(model[name].output for name in names).save()
        stream = model.layers[-1].output.save()
    assert apart(total, stream) < 1e-6
    assert len(names) == 13
    with model.trace(TEXT):
        others = sum(model[name].output for name in names[:-1]).save()
    assert apart(others, stream) > 1e-2


def test_in_half_precision_too():
    model = mg.tiny()
    model.module.set_dtype(mx.bfloat16)
    model = mg.InterpretableModel(model.module, model.tokenizer)
    assert len(mg.directional_ablation(model, direction(128)).then) == 13


def test_twice_is_once_and_edits_that_stay_are_left_out(tiny):
    v = direction(128)
    graph = mg.directional_ablation(tiny, v)
    once, twice = tiny.edit(graph)(TEXT), tiny.edit(graph >> graph)(TEXT)
    assert apart(once, twice) < 1e-5
    silent = tiny.edit(mg.edit("layers.*.mlp", iv.zero_out))
    assert mg.directional_ablation(silent, v) == graph
    assert mg.directional_ablation(tiny, v, example=TEXT) == graph


@pytest.mark.parametrize("name", ["deepseek_v41", "nanochat", "rwkv7", "dbrx", "kimi_k3"])
def test_where_it_is_not_certain_it_says_so(name):
    with pytest.raises(WritersError, match="is not certain") as caught:
        mg.directional_ablation(built(name), direction(64))
    assert caught.traceback[-1].path.name == "test_stream_writers.py"


def test_a_layer_that_writes_by_its_own_hand_is_no_sum():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.use_sliding = False
            self.mlp = nn.Linear(64, 64)

        def __call__(self, x, *_, **__):
            return x + mx.tanh(self.mlp(x))

    model = built("llama")
    model.module.model.layers[1] = Layer()
    model.refresh()
    with pytest.raises(WritersError, match="layers.1"):
        mg.directional_ablation(model, direction(64))


def test_mistakes_are_told(tiny):
    with pytest.raises(ShapeError, match="width 128"):
        mg.directional_ablation(tiny, mx.ones(5))
    with pytest.raises(InterventionError, match="zeros"):
        mg.directional_ablation(tiny, mx.zeros(128))
    with pytest.raises(InterventionError, match="not a param"):
        mg.directional_ablation(tiny, mg.param("v", shape=(128,)))
    with pytest.raises(InputError, match="this is a Linear"):
        mg.directional_ablation(nn.Linear(3, 3), mx.ones(3))
