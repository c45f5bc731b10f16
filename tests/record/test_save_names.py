"""A save without a name goes by what was saved, as the user wrote it."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlxgraph as mg

SAVED = {
    "model.layers.0.output": lambda m: m.layers[0].output,
    "__model_output__[:, -1]": lambda m: m.output[:, -1],
    "__model_output__[0, -1]": lambda m: m.output[0, -1],
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


def test_an_invokes_saves_are_called_alike(tied):
    with tied.trace() as t:
        for ids in ([1, 2], [3, 4]):
            with t.invoke(ids):
                tied.output[:, -1].save()
    assert list(t.saved_values) == ["__model_output__[:, -1]", "__model_output__[:, -1]#2"]


def test_saves_of_a_graph_keep_their_names(tied, tokens, tmp_path):
    with tied.trace(tokens) as t:
        tied.output[0, -1].save()
    t.graph.save(tmp_path / "g")
    assert mg.Graph.load(tmp_path / "g") == t.graph
