"""The values of attentions by name, in every call that takes names; and what goes wrong."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import (
    CountError,
    HeadsError,
    MLXGraphError,
    NeverCalledError,
    OrderError,
    ShapeError,
    UnknownSiteError,
)
from tests.architectures import configs
from tests.models import LAYERS, make_llama

tokens = mx.array([[3, 1, 4, 1, 5, 9, 2, 6]])


@pytest.fixture(scope="module")
def model():
    return mg.InterpretableModel(make_llama())


@pytest.fixture(scope="module")
def zeroed(model):
    """The logits without the second head of layer 1."""
    with model.trace(tokens):
        model.layers[1].attn.heads[:, 1] = 0
        logits = model.output.save()
    return logits


def zero_second(h):
    return mx.concatenate([h[:, :1], h[:, 1:2] * 0, h[:, 2:]], axis=1)


def test_one_edit_in_every_form(model, zeroed, tmp_path):
    name = "layers.1.attn.heads"
    assert not mx.allclose(zeroed, model.module(tokens), atol=1e-3)
    graph = mg.edit(name, zero_second)
    forms = [
        model.run(graph, tokens).output,
        model.compile(graph)(tokens).output,
        model.edit(graph)(tokens),
        model.run(mg.edit("layers.0.attn.heads", zero_second).retarget(
            {"layers.0.attn": "layers.1.attn"}), tokens).output,
        model.run(mg.edit("layers.1.attn", iv.zero_out, heads=1), tokens).output,
        model.run(mg.edit(model[name], zero_second), tokens).output,
    ]  # fmt: skip
    for one in (name, "model.model.layers.1.self_attn.heads", model[name]):
        with model.trace(tokens, interventions={one: zero_second}):
            forms.append(model.output.save())
    with model.trace(tokens) as t:
        model.layers[1].attn.heads[:, 1] = 0
        model.output.save("logits")
    t.graph.save(tmp_path / "head.mlxg")
    forms.append(model.run(mg.Graph.load(tmp_path / "head.mlxg"), tokens)["logits"])
    with model.edit() as edited:
        edited.layers[1].attn.heads[:, 1] = 0
    forms.append(edited(tokens))
    for k, form in enumerate(forms):
        assert mx.allclose(form, zeroed, atol=1e-5), k


def test_reads_by_name_agree(model):
    with model.trace(tokens) as t:
        pattern = model.layers[1].attn.pattern.save()
        cached = t.cache("layers.*.attn.pattern")
    assert len(cached) == LAYERS
    assert mx.array_equal(cached["model.layers.1.self_attn.pattern"], pattern)
    assert mx.array_equal(t.activations["layers.1.attn.pattern"], pattern)
    assert mx.array_equal(t.get("model.model.layers.1.self_attn.pattern"), pattern)
    read = model.run(mg.read("layers.*.attn.pattern", "p"), tokens)
    assert mx.array_equal(read["p.model.layers.1.self_attn.pattern"], pattern)


def test_activations_are_collected_at_positions(model):
    with model.trace(tokens):
        heads = model.layers[1].attn.heads.save()
    found = mg.get_activations(model, tokens, ["layers.1.attn.heads"])["layers.1.attn.heads"]
    assert mx.array_equal(found[0], heads[0, :, -1])
    name = "layers.1.attn.values"
    rows = [tokens[0].tolist(), tokens[0, 3:].tolist()]
    several = mg.get_activations(model, rows, [name], positions=[0, -1])[name]
    with model.trace(rows[1]):
        values = model.layers[1].attn.values.save()
    assert mx.allclose(several[1], values[0][:, mx.array([0, -1])].swapaxes(0, 1), atol=1e-6)
    with pytest.raises(ShapeError, match="several axes of positions"):
        mg.get_activations(model, tokens, ["layers.1.attn.pattern"])


@pytest.mark.parametrize("positions", [-1, 2, [0, -2], slice(1, 4)])
def test_an_edit_at_positions_is_one_of_the_queries_or_keys(model, positions):
    for name in ("queries", "keys", "values", "scores", "pattern", "heads"):
        graph = mg.edit(f"layers.1.attn.{name}", iv.zero_out, positions=positions)
        at = list(positions) if isinstance(positions, list) else positions
        with model.trace(tokens):
            value = getattr(model.layers[1].attn, name)
            value[:, :, at] = 0
            wanted = model.output.save()
        assert mx.array_equal(model.run(graph, tokens).output, wanted), name
    ragged = [tokens[0].tolist(), tokens[0, 3:].tolist()]
    graph = mg.edit("layers.1.attn.heads", iv.zero_out, positions=positions)
    if positions != [0, -2]:
        whole = model.run(graph, ragged).output
        alone = model.run(graph, ragged[1]).output
        assert mx.allclose(whole[1, 3:], alone[0], atol=1e-5)


def test_an_edit_of_heads_is_one_of_a_value_s_own(model):
    fresh = mg.InterpretableModel(make_llama())  # which nobody has looked into
    edit = mg.edit("layers.1.attn.heads", iv.zero_out, heads=1)
    wanted = model.run(mg.edit("layers.1.attn", iv.zero_out, heads=1), tokens).output
    assert mx.array_equal(fresh.run(edit, tokens).output, wanted)
    fresh = mg.InterpretableModel(make_llama())
    edit = mg.edit("layers.1.attn.heads", iv.zero_out, positions=-1)
    with model.trace(tokens):
        model.layers[1].attn.heads[:, :, -1] = 0
        wanted = model.output.save()
    assert mx.array_equal(fresh.run(edit, tokens).output, wanted)
    graph = mg.edit("layers.1.attn.pattern", iv.zero_out, heads=[0, -1], positions=-1)
    with model.trace(tokens):
        pattern = model.layers[1].attn.pattern
        pattern[:, 0, -1] = 0
        pattern[:, 3, -1] = 0
        wanted = model.output.save()
    assert mx.array_equal(model.run(graph, tokens).output, wanted)
    with pytest.raises(IndexError, match="heads 0–1"):
        model.run(mg.edit("layers.1.attn.keys", iv.zero_out, heads=2), tokens)
    with pytest.raises(HeadsError):
        model.run(mg.edit("layers.1.mlp.ops.swiglu", iv.zero_out, heads=0), tokens)
    name = "layers.1.attn.ops.fast.scaled_dot_product_attention"
    whole = model.run(mg.edit(name, iv.zero_out, positions=-1), tokens).output
    heads = model.run(mg.edit("layers.1.attn.heads", iv.zero_out, positions=-1), tokens).output
    assert mx.array_equal(whole, heads)


def test_params_and_values_flow_between_values_and_modules(model):
    with model.trace(tokens) as t:
        attn = model.layers[1].attn
        attn.pattern = attn.pattern * mg.param("alpha")
        model.output.save("logits")
    one, none = (model.run(t.graph, tokens, alpha=a)["logits"] for a in (1.0, 0.0))
    assert mx.allclose(one, model.module(tokens), atol=1e-5)
    with model.trace(tokens):
        model.layers[1].attn.output = mx.zeros_like(model.layers[1].attn.output)
        silent = model.output.save()
    assert mx.allclose(none, silent, atol=1e-5)


def test_a_pattern_is_carried_from_one_prompt_to_another(model):
    clean, other = [1, 2, 3, 4], [5, 6, 7, 8]
    with model.trace() as t:
        with t.invoke(clean):
            first = model.layers[1].attn.pattern
        with t.invoke(other):
            model.layers[1].attn.pattern = first
            moved = model.layers[1].attn.pattern.save()
            values = model.layers[1].attn.values.save()
            heads = model.layers[1].attn.heads.save()
    with model.trace(clean):
        wanted = model.layers[1].attn.pattern.save()
    assert mx.allclose(moved, wanted, atol=1e-6)
    assert mx.allclose(moved @ mx.repeat(values, 2, axis=1), heads, atol=1e-5)
    assert t.graph.writes


def test_order_holds_inside_an_attention(model):
    with model.trace(tokens):
        attn = model.layers[1].attn
        with pytest.raises(OrderError):
            attn.scores = attn.pattern
        with pytest.raises(OrderError):
            attn.q_proj.output = attn.heads.transpose(0, 2, 1, 3).reshape(1, 8, -1)
        attn.heads = attn.heads + attn.queries
        attn.o_proj.output.save()


def test_only_an_edited_attention_leaves_the_kernel(model):
    with model.trace(tokens):
        counts = [len(layer.attn.ops) for layer in model.layers]
    assert counts == [1] * LAYERS
    calls = []
    real = mx.fast.scaled_dot_product_attention

    def counted(*args, **kwargs):
        calls.append(1)
        return real(*args, **kwargs)

    mx.fast.scaled_dot_product_attention = counted
    try:
        plain = mg.InterpretableModel(make_llama())
        plain.module(tokens)
        assert len(calls) == LAYERS
    finally:
        mx.fast.scaled_dot_product_attention = real


def test_a_pattern_of_names_means_the_attentions_among_the_mixers():
    hybrid = mg.InterpretableModel(configs.build("qwen3_next"))
    graph = mg.edit("layers.*.attn.pattern", iv.zero_out, expect=1)
    with hybrid.trace(tokens):
        hybrid.layers[1].attn.pattern *= 0
        wanted = hybrid.output.save()
    assert mx.array_equal(hybrid.run(graph, tokens).output, wanted)
    with pytest.raises(CountError):
        hybrid.run(mg.edit("layers.*.attn.pattern", iv.zero_out, expect=3), tokens)


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda m: m.layers[0].mlp.pattern, UnknownSiteError, "computes no attention"),
        (lambda m: m["layers.0.mlp.pattern"].output, NeverCalledError, "Its .ops are: swiglu"),
        (lambda m: m.layers[0].attn.pattern.output, UnknownSiteError, "leave .output out"),
        (lambda m: m.layers[0].attn.patern, UnknownSiteError, "Did you mean 'pattern'"),
        (lambda m: m["layers.0.attn.patern"], UnknownSiteError, "'layers.0.attn.pattern'"),
        (lambda m: m.sites("layers.*.attn.score"), UnknownSiteError, "'layers.*.attn.scores'"),
        (lambda m: setattr(m.layers[0].mlp, "heads", 0), UnknownSiteError, "no attention"),
        (lambda m: setattr(m.layers[0].attn, "pattern", mx.zeros((3, 3))), ShapeError, "(3, 3)"),
        (lambda m: m.layers[0].attn.calls[1].pattern, MLXGraphError, "call"),
    ],
)
def test_what_is_not_there_says_so(model, ask, error, says):
    with model.trace(tokens), pytest.raises(error) as refused:
        ask(model)
    assert says in str(refused.value)


def test_what_is_inside_a_module_is_no_module(model):
    assert "layers.0.attn" in model and "layers.0.attn.q_proj" in model
    for name in ("layers.0.attn.heads", "layers.0.mlp.ops.swiglu", "values", "ops.softmax"):
        assert name not in model
    names = [name for name, _ in model.named_modules()]
    assert not any("ops" in name or name.endswith("heads") for name in names)


def test_outside_of_a_block_there_are_no_values(model):
    with pytest.raises(UnknownSiteError, match="in a block"):
        model.layers[0].attn.pattern  # noqa: B018
    with pytest.raises(MLXGraphError, match="while the model runs"):
        model["layers.0.attn.pattern"].output  # noqa: B018
    with pytest.raises(MLXGraphError, match="while the model runs"):
        model.layers[0].attn.heads = 0


def test_a_model_without_attention_has_none():
    mamba = mg.InterpretableModel(configs.build("mamba"))
    with mamba.trace(tokens), pytest.raises(UnknownSiteError, match="computes no attention"):
        mamba.layers[0].mixer.pattern.save()
    with pytest.raises(NeverCalledError):
        mamba.run(mg.edit("layers.*.mixer.pattern", iv.zero_out), tokens)
