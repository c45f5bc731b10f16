"""The handle: names of sites, the tree, tab completion, and errors that say what to write."""

from __future__ import annotations

import re

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import (
    BoundsError,
    InputError,
    LayersError,
    MLXGraphError,
    ModelLoadError,
    NoTokenizerError,
    OutsideTraceError,
    UnknownNameError,
    UnknownSiteError,
)
from tests import models

# -- names ----------------------------------------------------------------------------------------

FORMS = [
    "model.layers.1.self_attn.q_proj",
    "model.model.layers.1.self_attn.q_proj",
    "layers.1.self_attn.q_proj",
    "layers.1.attn.q_proj",
    "model.layers.1.attn.q_proj",
    "model.model.layers.1.attn.q_proj",
]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_name_means_the_same_module(tied, tokens, form):
    assert tied[form].path == "model.layers.1.self_attn.q_proj"
    with tied.trace(tokens, compile=False) as t:
        by_tree = tied.layers[1].attn.q_proj.output.save()
    assert models.same(t.activations[form], by_tree)
    assert models.same(t.get(form), by_tree) and models.same(t.get_activation(form), by_tree)
    assert models.same(t.get(form + ".output"), by_tree)
    assert form in t.activations
    with tied.trace(tokens, interventions={form: lambda h: h * 0}):
        zero = tied.layers[1].self_attn.q_proj.output.save()
    assert bool(mx.all(zero == 0))


def test_the_whole_models_output_has_a_name(tied, tokens):
    with tied.trace(tokens, interventions={"__model_output__": lambda h: h * 0}) as t:
        out = tied.output.save()
    assert bool(mx.all(out == 0))
    assert models.same(t.activations["__model_output__"], out)
    assert "__model_output__" in list(t.activations)


def test_canonical_names_are_those_of_named_modules(tied):
    ours = dict(tied.named_modules())
    theirs = dict(tied.module.named_modules())
    assert set(ours) == set(theirs)
    assert all(ours[name] is theirs[name] for name in ours)


def test_parameters_are_flat_and_copies_of_the_models_own(tied):
    parameters = tied.parameters()
    flat = dict(nn.utils.tree_flatten(tied.module.parameters()))
    assert set(parameters) == set(flat)
    assert all(mx.array_equal(parameters[name], flat[name]) for name in flat)
    assert sum(p.size for p in parameters.values()) == sum(p.size for p in flat.values())


def test_attributes_indices_and_iteration_go_down_the_tree(tied, tokens):
    assert len(tied.layers) == 3 and len(tied.model.layers) == 3
    assert [layer.path for layer in tied.layers] == [f"model.layers.{k}" for k in range(3)]
    assert tied.layers[-1].path == tied.layers[2].path
    assert [layer.path for layer in tied.layers[1:]] == ["model.layers.1", "model.layers.2"]
    assert tied.model.layers[0].mlp.path == "model.layers.0.mlp"
    assert tied.layers[0].attn.path == "model.layers.0.self_attn"
    assert tied.layers[0].module is tied.module.model.layers[0]
    assert isinstance(tied.layers[0].attn.module, nn.Module)
    with tied.trace(tokens) as t:
        assert t.layers[1].mlp.output.shape == (2, 6, 32)
        assert t.model.embed_tokens.output.shape == (2, 6, 32)


def test_completion_lists_children_and_ports(tied):
    assert {"layers", "model", "output", "trace", "named_modules"} <= set(dir(tied))
    assert {"self_attn", "mlp", "attn", "input_layernorm", "output", "input", "inputs",
            "calls"} <= set(dir(tied.layers[0]))  # fmt: skip
    assert {"q_proj", "o_proj", "rope"} <= set(dir(tied.layers[0].attn))
    assert all(hasattr(tied.layers[0].attn, name) for name in ("q_proj", "n_heads"))
    assert not hasattr(tied.layers[0], "no_such_thing")
    assert "model.layers.0" in repr(tied.layers[0])


@pytest.mark.parametrize("attr", ["h", "transformer.h"])
def test_layers_may_have_another_name(x, attr):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.ffn = nn.Linear(6, 6), nn.Linear(6, 6)

        def __call__(self, x):
            return x + self.ffn(self.attention(x))

    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.h = [Block() for _ in range(2)]

        def __call__(self, x):
            for block in self.h:
                x = block(x)
            return x

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.transformer = Inner()

        def __call__(self, x):
            return self.transformer(x)

    model = mg.InterpretableModel(Outer(), layer_attr=attr)
    assert len(model.layers) == 2 and model.layers[1].path == "transformer.h.1"
    for form in ("h.1.attn", "layers.1.attn", "transformer.h.1.attention", "model.layers.1.attn"):
        assert model[form].path == "transformer.h.1.attention", form
    with model.trace(x):
        assert model.layers[0].mlp.output.shape == x.shape


def test_a_misnamed_layer_attribute_says_which_lists_there_are():
    with pytest.raises(LayersError) as caught:
        mg.InterpretableModel(models.Chain(), layer_attr="blocks")
    assert "layer_attr='layers'" in str(caught.value)
    assert isinstance(caught.value, AttributeError)


def test_a_model_without_layers_can_be_traced_all_the_same(x):
    model = mg.InterpretableModel(nn.Linear(6, 6))
    with pytest.raises(LayersError):
        len(model.layers)
    with model.trace(x):
        out = model.output.save()
    assert out.shape == x.shape


# -- unknown sites --------------------------------------------------------------------------------

MISSPELT = {
    "attribute": (lambda m: m.layers[0].atn, "attn"),
    "deep attribute": (lambda m: m.layers[0].attn.qproj, "q_proj"),
    "name": (lambda m: m["layers.0.mpl"], "model.layers.0.mlp"),
    "root": (lambda m: m.modle, "model"),
    "read": (lambda m: m.layers[0].outptu, "output"),
    "write": (lambda m: setattr(m.layers[0], "outptu", 1), "output"),
    "write to a child": (lambda m: setattr(m.layers[0], "mlp", 1), "output"),
    "write to the model": (lambda m: setattr(m, "outputt", 1), "output"),
    "full path": (lambda m: m["model.layers.0.self_atn.q_proj"], "model.layers.0.self_attn.q_proj"),
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", MISSPELT)
def test_a_misspelt_name_raises_with_close_matches(tied, tokens, name, inside):
    use, meant = MISSPELT[name]
    if inside:
        with tied.trace(tokens), pytest.raises(UnknownSiteError) as caught:
            use(tied)
    else:
        with pytest.raises(UnknownSiteError) as caught:
            use(tied)
    _, _, hint = str(caught.value).partition("It has:" if "child" in name else "Did you mean")
    assert re.search(rf"(?<![a-z_.]){meant}(?![a-z_])", hint), str(caught.value)
    assert isinstance(caught.value, AttributeError) and isinstance(caught.value, KeyError)


def test_an_intervention_on_an_unknown_name_raises(tied, tokens):
    with pytest.raises(UnknownSiteError) as caught:
        with tied.trace(tokens, interventions={"layers.0.self_atn": lambda h: h}):
            raise AssertionError("the block must not begin")
    assert "self_attn" in str(caught.value)


def test_a_layer_out_of_range_raises_with_the_range(tied, tokens):
    with pytest.raises(IndexError) as caught:
        tied.layers[3].output.save()
    assert isinstance(caught.value, BoundsError) and "from -3 to 2" in str(caught.value)
    with pytest.raises(UnknownSiteError):
        tied["layers.3"].output.save()


def test_unknown_activations_saves_and_names_raise(tied, tokens):
    with tied.trace(tokens, compile=False) as t:
        tied.layers[0].output.save("state")
    assert t.get("state").shape == (2, 6, 32)
    for use in (lambda: t.get("layers.0.mpl"), lambda: t.activations["nope"],
                lambda: t.get_activation("layers.9")):  # fmt: skip
        with pytest.raises(UnknownSiteError):
            use()
    assert "nope" not in t.activations
    fast = tied.compile(t.graph)
    with pytest.raises(UnknownNameError) as caught:
        fast(tokens)["stat"]
    assert "'state'" in str(caught.value) and isinstance(caught.value, KeyError)


# -- outside a trace ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda m: m.layers[0].output,
        lambda m: m.layers[0].input,
        lambda m: m.layers[0].inputs,
        lambda m: m.output,
        lambda m: m.layers[0].calls[0].output,
        lambda m: setattr(m.layers[0], "output", 1.0),
        lambda m: setattr(m, "output", 1.0),
        lambda m: m.layers[0].output.save(),
    ],
)
def test_sites_are_only_known_inside_a_trace(tied, tokens, use):
    for _ in range(2):
        with pytest.raises(OutsideTraceError) as caught:
            use(tied)
        assert "with model.trace(" in str(caught.value)
        assert isinstance(caught.value, RuntimeError) and isinstance(caught.value, MLXGraphError)
        with tied.trace(tokens):
            pass


def test_another_models_block_is_not_this_models(tied, chain, tokens):
    with tied.trace(tokens), pytest.raises(OutsideTraceError):
        chain.layers[0].output.save()


# -- inputs ---------------------------------------------------------------------------------------


def test_token_inputs_of_every_kind_mean_the_same(tied):
    expected = tied.module(mx.array([[1, 2, 3]]))
    for given in (mx.array([[1, 2, 3]]), np.array([[1, 2, 3]]), [1, 2, 3], [[1, 2, 3]], (1, 2, 3)):
        with tied.trace(given) as t:
            out = tied.output.save()
        assert models.same(out, expected, 1e-5)
        assert t.tokens.tolist() == [[1, 2, 3]] and list(t.lengths) == [3]


def test_text_without_a_tokenizer_says_what_to_write(tied):
    for use in (
        lambda: tied.trace("some text"),
        lambda: tied.trace(["some", "texts"]),
        lambda: tied.encode("text"),
        lambda: tied.decode([1, 2]),
        lambda: tied.token_to_str(1),
        lambda: tied.encode_batch(["text"]),
    ):
        with pytest.raises(NoTokenizerError) as caught:
            use()
        assert "tokenizer=tokenizer" in str(caught.value)
        assert isinstance(caught.value, ValueError)
    assert tied.vocab_size is None


@pytest.mark.parametrize("name", ["/no/such/folder", "./missing", ""])
def test_a_string_that_cannot_be_loaded_says_what_can(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelLoadError) as caught:
        mg.InterpretableModel(name or str(tmp_path))
    assert "nn.Module" in str(caught.value) and isinstance(caught.value, ValueError)
    assert caught.value.__cause__ is not None


def test_something_that_is_no_model_says_what_is():
    for wrong in (3, mx.zeros(3), lambda x: x, None):
        with pytest.raises(ModelLoadError) as caught:
            mg.InterpretableModel(wrong)
        assert "nn.Module" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "Give at least one text or token"),
        ([[]], "row 0 has no tokens"),
        ([[1, 2], []], "row 1 has no tokens"),
        ([1, "a"], "this one holds int, str"),
        ([1.5, 2.5], "this one holds float"),
        ([None], "this one holds NoneType"),
    ],
)
def test_inputs_that_no_model_takes_say_what_to_write(tied, given, said):
    with pytest.raises(InputError, match=said) as caught, tied.trace(given):
        raise AssertionError("the block must not begin")
    assert isinstance(caught.value, ValueError)


def test_an_error_of_the_models_own_reaches_the_user_unchanged(chain):
    with pytest.raises(ValueError, match="addmm|matmul"), chain.trace(mx.zeros((2, 4, 7))):
        raise AssertionError("the block must not begin")
    with pytest.raises(TypeError), chain.trace(mx.zeros((2, 4, 6)), nonsense=3):
        raise AssertionError("the block must not begin")


# -- the trace ------------------------------------------------------------------------------------


def test_activations_list_every_module_and_cost_nothing(counted, x):
    with counted.trace(x, compile=False) as t:
        counted.layers[0].output += 1
    counted.module.reset()
    names = list(t.activations)
    assert len(names) == len(t.activations) and "__model_output__" in names
    assert "model.layers.0.inner" in names and "model.layers.3" in names
    assert counted.module.ticks() == [0, 0, 0, 0]
    first = t.activations["layers.0"]
    expected = counted.module.layers[0].inner(x) + 1
    assert models.same(first, expected, 1e-6)


def test_output_and_saved_values_after_the_block(chain, x):
    with chain.trace(x) as t:
        chain.layers[0].output *= 0
        mine = chain.layers[0].output.save("mine")
        chain.layers[1].output.save()
        chain.layers[1].output.save()
    assert list(t.saved_values)[0] == "mine" and len(t.saved_values) == 3
    assert t.saved_values["mine"] is mine
    assert models.same(t.get("mine"), mine)
    moved = x + mx.tanh(mine)
    for layer in chain.module.layers[1:]:
        moved = moved + mx.tanh(layer(moved))
    assert models.same(t.output, moved, 1e-5)


def test_a_graph_runs_again_on_other_inputs(chain, x):
    with chain.trace(x) as t:
        chain.layers[1].output[:, 0] = 0.0
        chain.output.save("out")
    for given in (x * 2, x[:1]):
        with chain.trace(given, compile=False):
            chain.layers[1].output[:, 0] = 0.0
            expected = chain.output.save()
        assert models.same(chain.run(t.graph, given).saves["out"], expected, 1e-5)
        assert models.same(chain.compile(t.graph)(given)["out"], expected, 1e-5)
        with chain.trace(given, graph=t.graph) as again:
            pass
        assert models.same(again.saved_values["out"], expected, 1e-5)


def test_interventions_are_functions_of_one_array(chain, x):
    with chain.trace(x, {"layers.0": lambda h: h * 0, "layers.2": lambda h: h + 1}):
        first, last = chain.layers[0].output.save(), chain.layers[2].output.save()
        given = chain.layers[2].input.save()
    assert bool(mx.all(first == 0))
    assert models.same(last, chain.module.layers[2](given) + 1, 1e-6)
