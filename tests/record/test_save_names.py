"""A save without a name goes by what was saved, as the user wrote it."""

from __future__ import annotations

import pickle
import traceback

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph.errors import UnknownNameError

SAVED = {
    "model.layers.0.output": lambda m: m.layers[0].output,
    "model.output[:, -1]": lambda m: m.output[:, -1],
    "model.output[0, -1]": lambda m: m.output[0, -1],
    "model.output": lambda m: m.output,
    "model.layers.1()": lambda m: m.layers[1](m.layers[0].output),
    "model.norm()[0, -1]": lambda m: m.model.norm(m.layers[0].output)[0, -1],
    "model.input": lambda m: m.input,
    "model.input[:, 1:]": lambda m: m.input[:, 1:],
    "model.model.output": lambda m: m.model.output,
    "model.model.output[0]": lambda m: m.model.output[0],
    "model.model.input": lambda m: m.model.input,
    "model.layers.1.output[:, -1, ::2]": lambda m: m.layers[1].output[:, -1, ::2],
    "model.layers.0.output[..., 0][0]": lambda m: m.layers[0].output[..., 0][0],
    "model.layers.1.mlp.input": lambda m: m.layers[1].mlp.input,
    "model.layers.1.mlp.input[0]": lambda m: m.layers[1].mlp.input[0],
    "model.layers.1.self_attn.rope.calls[1].output[0]": (
        lambda m: m.layers[1].attn.rope.calls[1].output[0]
    ),
    "softmax": lambda m: mx.softmax(m.output[:, -1], axis=-1),
    "softmax[0, 3]": lambda m: mx.softmax(m.output[:, -1], axis=-1)[0, 3],
    "multiply": lambda m: m.layers[0].output * 2.5,
    "model.layers.1.output[..., 0]": lambda m: m.layers[1].output[mx.array([0]), 0],
}


@pytest.mark.parametrize("name", SAVED)
def test_a_save_is_called_what_was_saved(tied, tokens, name):
    with tied.trace(tokens) as t:
        value = SAVED[name](tied).save()
    assert list(t.saved_values) == [name] and t.get(name) is t.saved_values[name]
    result = tied.run(t.graph, tokens)
    assert bool(mx.allclose(result[name], value, atol=1e-5))


def test_names_do_not_depend_on_values_from_outside(tied, tokens):
    names = []
    for number, vector in ((2.0, mx.ones((32,))), (3.0, mx.zeros((32,)))):
        with tied.trace(tokens) as t:
            ((tied.layers[0].output * number + vector)[:, -1]).save()
        names.append(list(t.saved_values))
    assert names[0] == names[1] and "getitem" not in names[0][0]


def test_two_of_one_name_are_numbered_and_names_move_with_their_site(tied, tokens):
    with tied.trace(tokens) as t:
        tied.layers[0].output[:, -1].save()
        tied.layers[0].output *= 2
        tied.layers[0].output[:, -1].save()
    name = "model.layers.0.output[:, -1]"
    assert list(t.saved_values)[0] == name and list(t.saved_values)[1].endswith("[:, -1]")
    moved = dict(t.graph.retarget({"layers.0": "layers.1"}).saves)
    assert name.replace("0", "1") in moved and "layers.0" not in "".join(moved)


def test_a_call_by_hand_moves_with_its_module(tied, tokens):
    with tied.trace(tokens) as t:
        tied.layers[1](tied.layers[0].output).save()
        want = tied.layers[2](tied.layers[0].output).save("want")
    moved = t.graph.retarget({"layers.1": "layers.2"})
    assert list(dict(moved.saves)) == ["model.layers.2()", "want"]
    assert mx.allclose(tied.run(moved, tokens)["model.layers.2()"], want, atol=1e-4)


def test_an_invokes_saves_are_called_alike(tied):
    with tied.trace() as t:
        for ids in ([1, 2], [3, 4]):
            with t.invoke(ids):
                tied.output[:, -1].save()
    assert list(t.saved_values) == ["model.output[:, -1]", "model.output[:, -1]#2"]


def test_saves_of_a_graph_keep_their_names(tied, tokens, tmp_path):
    with tied.trace(tokens) as t:
        tied.output[0, -1].save()
    t.graph.save(tmp_path / "g")
    assert mg.Graph.load(tmp_path / "g") == t.graph


# -- the whole model's values have two names ------------------------------------------------------

TWICE = {
    "model.output": ("__model_output__", lambda m: m.output),
    "model.output[0, -1]": ("__model_output__[0, -1]", lambda m: m.output[0, -1]),
    "model.input": ("__model__.input", lambda m: m.input),
    "model.inputs": ("__model__.inputs", lambda m: m.inputs),
    "model.input[:, 1]": ("__model__.input[:, 1]", lambda m: m.input[:, 1]),
}


@pytest.mark.parametrize("name", TWICE)
def test_the_models_own_values_are_found_by_either_name(tied, tokens, name):
    other, value = TWICE[name]
    with tied.trace(tokens) as t:
        value(tied).save()
    result = tied.run(t, tokens)
    for saved in (t.saved_values, result.saves):
        assert list(saved) == [name] and len(saved) == 1
        assert saved[name] is saved[other] is saved.get(other)
        assert name in saved and other in saved and "output" not in saved
        assert saved.get("output") is None and saved.get("output", 3) == 3
    assert result[other] is result[name]
    if "[" in name:
        assert t.get(name) is t.get(other)
    twin = pickle.loads(pickle.dumps(t.saved_values))
    assert type(twin) is dict and list(twin) == [name]


def test_a_graph_that_says_it_otherwise_is_read_alike(tied, tokens):
    with tied.trace(tokens) as t:
        tied.output.save("__model_output__")
    result = tied.run(t, tokens)
    assert list(result.saves) == ["__model_output__"]
    assert result["model.output"] is result["__model_output__"]
    read = tied.run(mg.read("__model_output__"), tokens)
    assert list(read.saves) == ["model.output"]


def test_both_of_one_meaning_are_each_found_by_their_own_name(tied, tokens):
    with tied.trace(tokens) as t:
        tied.output.save()
        (tied.output * 0).save("__model_output__")
    saved = t.saved_values
    assert saved["__model_output__"].abs().max().item() == 0
    assert saved["model.output"].abs().max().item() > 0


def test_a_part_called_model_is_told_from_the_model(tied, tokens):
    with tied.trace(tokens) as t:
        tied.output.save()
        tied.model.output.save()
    assert t.saved_values["model.output"].shape != t.saved_values["model.model.output"].shape
    moved = dict(t.graph.retarget({"model": "transformer"}).saves)
    assert set(moved) == {"model.output", "model.transformer.output"}


def test_a_name_that_nothing_was_saved_by(tied, tokens):
    with tied.trace(tokens) as t:
        tied.output.save("logits")
    for name in ("logit", "model.output", "__model_output__"):
        with pytest.raises(UnknownNameError, match="no saved value named") as caught:
            t.saved_values[name]
        assert traceback.extract_tb(caught.tb)[-1].filename == __file__
    with pytest.raises(KeyError, match="Did you mean 'logits'"):
        t.saved_values["logit"]


WRONG = {
    "model.input is (2, 6)": lambda m: setattr(m, "input", "abc"),
    "model.output is (2, 6, 50)": lambda m: setattr(m, "output", mx.zeros((3, 3))),
    "model.layers.1.mlp.input is": lambda m: setattr(m.layers[1].mlp, "input", mx.zeros((3, 3))),
    "cannot write model.layers.0.output from model.output": (
        lambda m: setattr(m.layers[0], "output", m.output[..., :32])
    ),
}


@pytest.mark.parametrize("said", WRONG)
def test_errors_say_it_as_the_user_writes_it(tied, tokens, said):
    with pytest.raises(mg.MLXGraphError) as caught:
        with tied.trace(tokens):
            WRONG[said](tied)
    assert said in str(caught.value) and "__model" not in str(caught.value)


def test_a_recorded_value_prints_as_it_is_written(tied, tokens):
    with tied.trace(tokens):
        assert repr(tied.output).startswith("<Proxy model.output:")
        assert repr(tied.model.output).startswith("<Proxy model.model.output:")
        assert repr(tied.layers[0].input).startswith("<Proxy model.layers.0.input:")
