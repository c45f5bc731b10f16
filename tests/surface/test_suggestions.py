"""What is misspelt is answered in the words of the model: modules where modules are meant, methods
where a method is, layers by their numbers, each once."""

from __future__ import annotations

import re

import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import (
    BoundsError,
    NeverCalledError,
    NoLayerError,
    UnknownSiteError,
    close_matches,
)


def suggested(error):
    (line,) = re.findall(r"Did you mean (.*)\?", str(error))
    return re.findall(r"'([^']+)'", line)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("logit_lense", "logit_lens"),
        ("trce", "trace"),
        ("activation_patch", "activation_patching"),
        ("named_module", "named_modules"),
        ("layer", "layers"),
        ("encod", "encode"),
    ],
)
def test_a_misspelt_method_suggests_methods(tied, written, meant):
    with pytest.raises(AttributeError, match="module or method") as caught:
        getattr(tied, written)
    assert suggested(caught.value)[0] == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [("activatons", "activations"), ("saved_value", "saved_values"), ("token", "tokens")],
)
def test_a_misspelt_method_of_a_trace(tied, tokens, written, meant):
    with tied.trace(tokens) as t:
        pass
    with pytest.raises(AttributeError) as caught:
        getattr(t, written)
    assert suggested(caught.value)[0] == meant


def test_a_misspelt_method_of_a_trace_of_prompts(tied):
    with tied.trace() as t:
        with pytest.raises(AttributeError) as caught:
            t.invok([1, 2])
    assert suggested(caught.value)[0] == "invoke"
    with pytest.raises(AttributeError, match="t.output"):
        t.result  # noqa: B018


@pytest.mark.parametrize(
    ("written", "meant"),
    [("mpl", "mlp"), ("self_atn", "self_attn"), ("atn", "attn"), ("outptu", "output")],
)
def test_a_misspelt_part_of_a_module_suggests_each_once(tied, written, meant):
    with pytest.raises(UnknownSiteError) as caught:
        getattr(tied.layers[1], written)
    found = suggested(caught.value)
    assert found[0] == meant and not {"attn", "self_attn"} <= set(found)


def test_where_modules_are_meant_only_modules_are_listed(tied):
    with pytest.raises(UnknownSiteError) as caught:
        tied.layers[1].zzz  # noqa: B018
    assert "It has: self_attn, mlp" in str(caught.value)
    assert not re.search(r"\b(output|inputs|calls|skip)\b", str(caught.value))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("layrs.*.mlp", "layers.*.mlp"),
        ("layers.*.mpl", "layers.*.mlp"),
        ("model.layers.*.mpl", "model.layers.*.mlp"),
        ("layers.[0-1].self_attn.qproj", "layers.*.self_attn.q_proj"),
    ],
)
def test_a_misspelt_pattern_suggests_patterns(tied, tokens, written, meant):
    for call in (
        lambda: tied.run(mg.edit(written, iv.zero_out), tokens),
        lambda: tied.trace(tokens, interventions={written: iv.zero_out}).__enter__(),
        lambda: tied.sites(written),
    ):
        with pytest.raises(UnknownSiteError, match="matches") as caught:
            call()
        found = suggested(caught.value)
        assert found[0] == meant and len(set(found)) == len(found)


@pytest.mark.parametrize("name", ["layers.12", "layers.12.mlp", "model.layers.[9-12]", "layers.3"])
def test_a_layer_that_is_not_there_by_name(tied, tokens, name):
    for call in (
        lambda: tied.run(mg.edit(name, iv.zero_out), tokens),
        lambda: tied.sites(name),
        lambda: mg.collect_activations(tied, tokens, layers=[name]),
    ):
        with pytest.raises(UnknownSiteError, match="layers 0–2"):
            call()


@pytest.mark.parametrize("number", [12, 3, -4])
def test_a_layer_that_is_not_there_by_number(tied, tokens, number):
    for call in (
        lambda: tied.layers[number],
        lambda: tied.logit_lens(tokens[:1], layers=[number]),
        lambda: mg.get_activations(tied, tokens, layers=[number]),
        lambda: tied.activation_patching(tokens[:1], tokens[1:], layers=[number]),
    ):
        with pytest.raises(NoLayerError, match=rf"no layer {number}: it has layers 0–2") as caught:
            call()
        assert isinstance(caught.value, BoundsError) and "axis" not in str(caught.value)
        assert "test_suggestions.py" in str(caught.value)


def test_a_call_that_is_not_there(tied, tokens):
    with tied.trace(tokens), pytest.raises(NoLayerError, match="no call 2: it has calls 0–1"):
        tied.layers[0].attn.rope.calls[2]
    with tied.trace(tokens), pytest.raises(NoLayerError, match="no call 1: it has call 0 alone"):
        tied.layers[0].mlp.calls[1]


def test_a_dead_handle_says_in_its_repr_that_it_was_not_saved(tied, tokens):
    with tied.trace(tokens):
        h, whole = tied.layers[0].output, tied.layers[0].inputs
        assert "not saved" not in repr(h) + repr(whole)
        kept = tied.layers[1].output.save()
    assert "layers.0.output" in repr(h) and "not saved" in repr(h) and "not saved" in str(h)
    assert "not saved" in repr(whole) and "not saved" not in repr(kept)
    with tied.trace(tokens):
        waits = tied.layers[0].output * mg.param("alpha")
        waits.save()
    assert "param alpha" in repr(waits)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("layers.1.mpl", "model.layers.1.mlp"),
        ("model.layers.2.self_atn", "model.layers.2.self_attn"),
        ("layers.0.mlp.upproj", "model.layers.0.mlp.up_proj"),
        ("layers.12", "model.layers.2"),
        ("layers.12.mlp", "model.layers.2.mlp"),
        ("layers.-1", "model.layers.2"),
        ("model.layers.-3.mlp", "model.layers.0.mlp"),
        ("layers.[7-9]", "layers.[0-2]"),
        ("layers.[7-9].attn", "layers.[0-2].attn"),
    ],
)
def test_one_slip_has_one_answer_and_not_one_for_each_layer(tied, tokens, written, meant):
    with tied.trace(tokens) as t:
        pass
    for call in (lambda: tied.sites(written), lambda: t.activations[written]):
        with pytest.raises(UnknownSiteError) as caught:
            call()
        found = suggested(caught.value)
        forms = [re.sub(r"\.\d+", ".*", one) for one in found]
        assert found[0] == meant and len(set(forms)) == len(forms)


def test_numbers_that_are_no_part_of_their_own_are_names():
    assert close_matches("cnv2", ["conv1", "conv2", "conv3"]) == ["conv2", "conv3", "conv1"]
    many = [f"blocks.{k}.mlp" for k in range(40)]
    assert close_matches("blocks.31.mpl", many) == ["blocks.31.mlp"]
    assert close_matches("mlp", many) == ["blocks.0.mlp"]


@pytest.mark.parametrize("name", ["layers", "model.layers", "handle"])
def test_a_list_of_layers_where_one_is_meant_says_how_to_name_them_all(tied, tokens, name):
    given = tied.layers if name == "handle" else name

    def cached():
        with tied.trace(tokens) as t:
            t.cache(given)

    for call in (
        lambda: tied.sites(given),
        lambda: tied[given],
        lambda: tied.run(mg.edit(given, iv.zero_out), tokens),
        lambda: tied.trace(tokens, interventions={given: iv.zero_out}).__enter__(),
        cached,
    ):
        with pytest.raises(UnknownSiteError, match=r"Write 'layers\.\*' for them all") as caught:
            call()
        assert "Did you mean" not in str(caught.value)
    assert len(tied.sites("layers.*")) == 3 and tied.sites("layers.0") == ["model.layers.0"]


@pytest.mark.parametrize("to", ["layers.99", "layers.3", "layers.12.mlp"])
def test_a_graph_aimed_at_a_layer_that_is_not_there(tied, tokens, tmp_path, to):
    with tied.trace(tokens) as t:
        tied.layers[1].output *= 0.5
        tied.output.save("out")
    aimed = t.graph.retarget({"layers.1": to})
    aimed.save(tmp_path / "g")

    def traced(**options):
        with tied.trace(tokens, **options):
            tied.output.save()

    def invoked():
        with tied.edit(aimed).trace() as t, t.invoke(tokens):
            tied.output.save()

    for call in (
        lambda: tied.run(aimed, tokens),
        lambda: tied.run(aimed >> mg.read("layers.0"), tokens),
        lambda: tied.compile(mg.Graph.load(tmp_path / "g"))(tokens),
        lambda: tied.edit(aimed)(tokens),
        lambda: traced(graph=aimed),
        invoked,
    ):
        with pytest.raises(NeverCalledError, match="layers 0–2") as caught:
            call()
        assert "Did you mean" not in str(caught.value) and "as_linear" not in str(caught.value)
    assert tied.run(t.graph.retarget({"layers.1": "layers.2"}), tokens)["out"].shape


def test_what_other_libraries_call_a_site_is_told_as_a_name_too(tied, tokens):
    for name, meant in (
        ("hook_attn_out", "layers.k.attn"),
        ("hook_resid_mid", "layers.k.resid_mid"),
    ):
        with pytest.raises(UnknownSiteError, match=rf"by name it is '{meant}'"):
            tied.sites(f"blocks.1.{name}")


OF_GRAPHS = ["retarget", "without", "only", "save", "bind", "writes", "params", "explain", "to_dot"]


@pytest.mark.parametrize("name", OF_GRAPHS)
def test_what_a_graph_has_and_its_trace_has_not(tied, tokens, name):
    with tied.trace(tokens) as t:
        tied.layers[0].output *= 0.5
    with tied.trace() as several, several.invoke(tokens):
        tied.layers[0].output *= 0.5
    for trace in (t, several):
        with pytest.raises(AttributeError, match=rf"Write t\.graph\.{name}: ") as caught:
            getattr(trace, name)
        assert "Did you mean" not in str(caught.value) and "It has" not in str(caught.value)
        assert getattr(trace.graph, name) is not None
    with pytest.raises(AttributeError, match="It has: model"):
        t.zzz  # noqa: B018


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("bench", "benchmark"),
        ("get_activation", "get_activations"),
        ("Interpretable", "InterpretableModel"),
    ],
)
def test_a_misspelt_name_of_the_library(written, meant):
    with pytest.raises(AttributeError) as caught:
        getattr(mg, written)
    assert isinstance(caught.value, mg.MLXGraphError)
    assert suggested(caught.value)[0] == meant
    assert not hasattr(mg, written) and getattr(mg, written, 3) == 3


@pytest.mark.parametrize(
    ("written", "where"),
    [("logit_lens", "model.logit_lens"), ("zero_out", "mg.interventions.zero_out")],
)
def test_a_name_of_something_else_says_where_it_is(written, where):
    with pytest.raises(AttributeError, match=f"Write {re.escape(where)}[.]$"):
        getattr(mg, written)


def test_a_name_like_none_of_the_library_has_all_of_them():
    with pytest.raises(AttributeError, match="It has: .*InterpretableModel.*tiny"):
        mg.xyzzy  # noqa: B018
    with pytest.raises(AttributeError, match="^module 'mlxgraph' has no attribute '__path_of__'$"):
        mg.__path_of__  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'xyzzy'"):
        from mlxgraph import xyzzy  # noqa: F401


def test_a_misspelt_name_of_the_library_ends_at_the_users_line():
    with pytest.raises(AttributeError) as caught:
        mg.tinny()
    assert caught.traceback[-1].path.name == "test_suggestions.py"
