"""Arguments of a wrong kind or number, of the analyses, texts, files and graphs: refused on the
user's line."""

from __future__ import annotations

import traceback

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph import plot
from mlxgraph.errors import InputError, InterventionError, MLXGraphError, UnknownNameError

TEXT = "The capital of France is"
WRONG = {
    "encode several": (lambda m: m.encode(["a", "b"]), "encode_batch"),
    "encode a number": (lambda m: m.encode(5), "encode"),
    "a part that is absent": (lambda m: m.position(TEXT, " Spain"), "str_tokens"),
    "several tokens": (lambda m: m.single_token(" Parisian"), "'ian'"),
    "tokens of several": (lambda m: m.str_tokens([TEXT, TEXT]), "one at a time"),
    "messages": (lambda m: m.trace([{"role": "user", "content": "Hi"}]), "chat_template"),
    "a message": (lambda m: m.logit_lens({"role": "user", "content": "Hi"}), r"\[message\]"),
    "a message for texts": (
        lambda m: mg.get_activations(m, {"role": "user", "content": "Hi"}),
        r"\[message\]",
    ),
    "a dict for texts": (lambda m: mg.get_activations(m, {"a": TEXT}), "this is a dict"),
    "messages among texts": (
        lambda m: mg.get_activations(m, [TEXT, {"role": "user", "content": "Hi"}]),
        r"\[message\]",
    ),
    "a text for logits": (lambda m: m.top(TEXT), "model.output.save"),
    "a block's weight": (lambda m: m.weight("layers.3"), "mlp.up_proj"),
    "no token's direction": (lambda m: m.unembed(" Parisian"), "'ian'"),
    "a layer that is none": (lambda m: m.logit_lens(TEXT, layers=["model.norm"]), "no layer"),
    "a fraction of a layer": (lambda m: m.logit_lens(TEXT, layers=[1.5]), "no layer"),
    "a position": (lambda m: m.logit_lens(TEXT, position="a"), "position=3"),
    "positions": (lambda m: m.logit_lens(TEXT, position=[1.5]), "position=3"),
    "a text for a count": (lambda m: m.logit_lens(TEXT, top_k="a"), "top_k=3"),
    "a fraction for a count": (lambda m: m.logit_lens(TEXT, top_k=1.5), "top_k=3"),
    "a text for a state": (lambda m: m.get_token_predictions(TEXT), "logit_lens"),
    "a number for texts": (lambda m: mg.get_activations(m, 5, ["layers.2"]), "list of texts"),
    "the end for a position": (
        lambda m: mg.batch_get_activations(m, [TEXT], ["layers.2"], positions="end"),
        "positions=-1",
    ),
    "an edit's positions": (lambda m: mg.edit("layers.2", iv.zero_out, positions="last"), "=-1"),
    "an edit's heads": (lambda m: mg.edit("layers.2", iv.zero_out, heads="a"), r"heads=\[0, 3\]"),
    "a position between": (lambda m: mg.edit("layers.2", iv.zero_out, positions=1.5), "=-1"),
    "a mask for positions": (
        lambda m: mg.edit("layers.2", iv.zero_out, positions=[False, True]), "flatnonzero",
    ),
    "a mask for heads": (
        lambda m: m.activation_patching(TEXT, TEXT, "heads", heads=mx.array([True])), "flatnonzero",
    ),
    "a mask of a prompt": (
        lambda m: mg.get_activations(m, [TEXT], [2], positions=[False, True]), "no whole number",
    ),
    "one yes for a position": (
        lambda m: mg.get_activations(m, [TEXT], [2], positions=np.True_), "no whole number",
    ),
    "a mask of heads to draw": (
        lambda m: plot.attention(mx.zeros((2, 3, 3)), heads=[True, False]), r"heads=\[0, 3\]",
    ),
    "moves": (lambda m: mg.Graph().retarget("layers.5"), "a dict of old and new"),
    "rewrites": (lambda m: m.run(mg.Graph(), TEXT, optimize=None), "optimize=True"),
    "a param's dtype": (lambda m: mg.param("a", dtype="float"), "dtype=mx.float32"),
    "an id to stop at": (lambda m: m.generate(TEXT, stop=13), "token_to_str"),
    "no text among them": (lambda m: m.logit_lens([None]), "holds NoneType"),
    "nothing before a graph": (lambda m: None >> mg.Graph(), "graph"),
    "a param's name": (lambda m: mg.param("a b"), "by keyword"),
    "a param without a name": (lambda m: mg.param(5), "by keyword"),
    "a param's value": (lambda m: float(mg.param("a")), "mx.where"),
    "a param for a choice": (lambda m: bool(mg.param("a")), "mx.where"),
    "a pass": (lambda m: m.pass_(5), "function of the model"),
    "layers called": (lambda m: m.layers(3), r"layers\[3\]"),
    "an id": (lambda m: m.decode(5), r"decode\(\["),
    "rows of ids": (lambda m: m.decode(mx.array([[1, 2]])), r"tokens\[0\]"),
    "ids below": (lambda m: m.decode([1, -1]), "from 0 on"),
    "an id below": (lambda m: m.token_to_str(-1), "from 0 on"),
    "a param's shape": (lambda m: mg.param("a", shape="x"), "shape="),
    "a pass without a model": (lambda m: m.pass_(lambda: 1)(TEXT), "in place of its model"),
    "a pass's argument": (lambda m: m.pass_(lambda m, v: m.output)(TEXT), "missing a required"),
    "a way to merge": (lambda m: mg.merge(mg.Graph(), mg.Graph(), on_conflict="a"), "sequence"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_an_argument_of_a_wrong_kind(tiny, name):
    call, said = WRONG[name]
    with pytest.raises(MLXGraphError, match=said) as caught:
        call(tiny)
    assert traceback.extract_tb(caught.tb)[-1].filename == __file__
    assert isinstance(caught.value, (TypeError, ValueError))


def test_a_param_inside_a_function_cannot_be_bound_and_says_where_to_give_it(tiny):
    graph = mg.edit("layers.2", lambda h: h * mg.param("a")) >> mg.read("layers.2", name="h")
    with pytest.raises(UnknownNameError, match="give the value to the run"):
        graph.bind(a=2.0)
    twice, once = (tiny.run(graph, TEXT, a=a)["h"] for a in (2.0, 1.0))
    assert mx.allclose(twice, 2 * once, atol=1e-4)


def test_a_layer_may_be_named_in_any_form(tiny):
    by_number = tiny.logit_lens(TEXT, layers=[2, 4])
    assert tiny.logit_lens(TEXT, layers=["layers.2", tiny.layers[4]]) == by_number
    assert tiny.logit_lens(TEXT, layers=tiny.layers[2]) == tiny.logit_lens(TEXT, layers=2)
    assert tiny.logit_lens(TEXT, layers=mx.array([2, 4])) == by_number
    with pytest.raises(InputError, match="layers.99|no layer"):
        tiny.logit_lens(TEXT, layers=[tiny.layers[2].mlp])


CALLS = {
    "none": lambda m: iv.scale(),
    "too many": lambda m: iv.scale(1, 2, 3),
    "a keyword": lambda m: mg.edit("layers.2", iv.zero_out, pos=1),
    "a keyword of a method": lambda m: m.edit(mg.edit("layers.2", iv.zero_out), inplace=True),
    "a method": lambda m: m.compile(),
    "a method of a graph": lambda m: mg.Graph().retarget("layers.1", "layers.2"),
    "a class": lambda m: mg.InterpretableModel("gpt2", device="cpu"),
    "a file": lambda m: mg.Graph.load(5),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_python_refuses_ends_at_its_own_line(tiny, name):
    with pytest.raises(TypeError) as caught:
        CALLS[name](tiny)
    assert traceback.extract_tb(caught.tb)[-1].filename == __file__


def test_all_frames_of_one_are_there_where_they_are_asked_for(tiny, monkeypatch):
    monkeypatch.setenv("MLXGRAPH_TRACEBACK", "full")
    with pytest.raises(TypeError) as caught:
        iv.scale()
    assert len(traceback.extract_tb(caught.tb)) > 1


def test_an_error_of_types_inside_a_users_function_keeps_its_frames(tiny):
    with pytest.raises(TypeError) as caught:
        mg.apply(lambda: len(5))
    assert traceback.extract_tb(caught.tb)[-1].name == "<lambda>"
    with pytest.raises(InterventionError) as failed:
        tiny.run(mg.edit("layers.1", lambda h: len(5)), [1, 2])
    assert isinstance(failed.value.__cause__, TypeError)


@pytest.mark.parametrize("where", ["missing/graph.mlxg", "a/b/c.mlxg"])
def test_a_file_that_is_not_there_is_called_as_it_was_given(tmp_path, where):
    path = str(tmp_path / where)
    for call in (lambda: mg.Graph.load(path), lambda: mg.Graph().save(path)):
        with pytest.raises(FileNotFoundError) as caught:
            call()
        assert path in str(caught.value)
        assert traceback.extract_tb(caught.tb)[-1].filename == __file__
    with pytest.raises(mg.errors.GraphFileError) as broken:
        mg.Graph.load(tmp_path)
    assert traceback.extract_tb(broken.tb)[-1].filename == __file__
