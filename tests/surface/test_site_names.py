"""Law 26: every form of a site's name is one site, in every call that takes a name: texts, patterns
and module handles, of outputs, inputs and single calls."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import SiteNameError, UnknownSiteError
from tests.models import same

PATHS = {"mlp": "layers.1.mlp", "attention": "layers.1.self_attn", "block": "layers.1"}
HANDLES = {
    "mlp": lambda m: m.layers[1].mlp,
    "attention": lambda m: m.layers[1].attn,
    "block": lambda m: m.layers[1],
}


def edited_output(model, tokens, **kwargs):
    with model.trace(tokens, **kwargs):
        return model.output.save()


def names_of(model, what, port):
    """Every form of one site's name; `port` is written with its dot."""
    path = PATHS[what]
    forms = [path, "model." + path, "model.model." + path, path.replace(".1", ".[1]")]
    if what == "attention":
        forms.append("layers.1.attn")
    forms = [form + port for form in forms]
    if port in ("", ".output"):
        forms += [form.removesuffix(".output") for form in forms] + [HANDLES[what](model)]
        forms.append(model[path])
    return forms


@pytest.mark.parametrize("what", PATHS)
@pytest.mark.parametrize("port", ["", ".output", ".input"])
@pytest.mark.thin(4)
def test_every_form_is_one_site_in_every_call(llama, tokens, what, port):
    handle = HANDLES[what](llama)
    with llama.trace(tokens):
        kept = (handle.input if port == ".input" else handle.output).save()
    with llama.trace(tokens):
        if port == ".input":
            handle.input = handle.input * 0.5
        else:
            handle.output = handle.output * 0.5
        expected = llama.output.save()
    assert not same(expected, edited_output(llama, tokens), 1e-3)
    with llama.trace(tokens) as plain:
        pass
    for name in names_of(llama, what, port):
        half = iv.scale(0.5)
        by_dict = edited_output(llama, tokens, interventions={name: half})
        by_edit = llama.run(mg.edit(name, half), tokens).output
        assert same(by_dict, expected, 1e-5) and same(by_edit, expected, 1e-5), str(name)
        assert same(llama.run(mg.read(name, "h"), tokens)["h"], kept, 1e-5)
        assert same(plain.get(name), kept, 1e-5) and same(plain.get_activation(name), kept, 1e-5)
        assert same(plain.activations[name], kept, 1e-5) and name in plain.activations
        cache = mg.collect_activations(llama, tokens, layers=[name])
        assert len(cache) == 1 and same(cache[name], kept, 1e-5) and name in cache
        assert len(llama.sites(name)) == 1
        found = mg.get_activations(llama, tokens, layers=[name])
        assert same(*found.values(), kept[:, -1], 1e-5)
        with llama.trace(tokens) as t:
            values = t.cache(name)
            inside = t.activations[name]
        assert same(*values.values(), kept, 1e-5) and same(inside, kept, 1e-5)
        with llama.trace() as t, t.invoke(tokens, interventions={name: half}):
            invoked = llama.output.save()
        assert same(invoked, expected, 1e-5)
    assert len({tuple(llama.sites(name)) for name in names_of(llama, what, port)}) == 1


PATTERNS = [
    "layers.*.mlp",
    "model.layers.[0-2].mlp",
    "**.mlp",
    "layers.?.mlp",
    "layers.*.mlp.output",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_is_all_of_them_in_every_call(llama, tokens, pattern):
    with llama.trace(tokens):
        for layer in llama.layers:
            layer.mlp.output *= 0.5
        expected = llama.output.save()
    assert same(
        edited_output(llama, tokens, interventions={pattern: iv.scale(0.5)}), expected, 1e-5
    )
    paths = [f"model.layers.{k}.mlp" for k in range(3)]
    assert llama.sites(pattern) == paths
    assert list(mg.collect_activations(llama, tokens, layers=[pattern])) == paths
    assert list(mg.get_activations(llama, tokens, layers=[pattern])) == paths
    assert list(mg.batch_get_activations(llama, tokens, layers=[0, pattern])) == ["layer_0", *paths]
    with llama.trace(tokens) as t:
        assert list(t.cache(pattern)) == paths
    for one in (t.get, t.get_activation, llama.__getitem__, t.activations.__getitem__):
        with pytest.raises(SiteNameError, match="one of the 3 names"):
            one(pattern)


def test_a_pattern_of_inputs(llama, tokens):
    with llama.trace(tokens):
        for layer in llama.layers:
            layer.mlp.input *= 0.5
        expected = llama.output.save()
    edits = {"layers.*.mlp.input": iv.scale(0.5)}
    assert same(edited_output(llama, tokens, interventions=edits), expected, 1e-5)
    names = [f"model.layers.{k}.mlp.input" for k in range(3)]
    cache = mg.collect_activations(llama, tokens, layers=["layers.*.mlp.input"])
    assert list(cache) == names == llama.sites("layers.*.mlp.input")
    with llama.trace(tokens) as t:
        kept = t.cache("layers.*.mlp.input")
    assert list(kept) == names and all(same(kept[n], cache[n], 1e-5) for n in names)


def test_a_single_call_has_a_name(llama, tokens):
    rope = llama.layers[1].attn.rope
    with llama.trace(tokens) as t:
        second = rope.calls[1].output.save()
        first = rope.output.save()
    name = "layers.1.attn.rope.calls[1]"
    assert not same(first, second, 1e-3)
    for form in (name, name + ".output", rope.calls[1], llama[name]):
        assert same(t.get(form), second) and same(t.activations[form], second)
        assert same(llama.run(mg.read(form, "h"), tokens)["h"], second, 1e-6)
        zeroed = edited_output(llama, tokens, interventions={form: iv.zero_out})
        with llama.trace(tokens):
            rope.calls[1].output *= 0
            expected = llama.output.save()
        assert same(zeroed, expected, 1e-5)
    assert str(rope.calls[1]) == "model.layers.1.self_attn.rope.calls[1]"
    apart = mg.merge(mg.edit(name, iv.zero_out), mg.edit("layers.1.attn.rope", iv.zero_out))
    assert len(apart.then) == 2, "two calls are two sites"


# -- a module that is called as a port is --------------------------------------------------------


class Block(nn.Module):
    """A block whose own parts are called as ports are, as BERT's are."""

    def __init__(self, width):
        super().__init__()
        self.input = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def __call__(self, x):
        return x + self.output(mx.tanh(self.input(x)))


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [Block(6) for _ in range(3)]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture
def stack():
    mx.random.seed(2)
    return mg.InterpretableModel(Stack())


@pytest.mark.parametrize("port", ["output", "input"])
def test_a_module_wins_over_a_port_in_every_call(stack, x, port):
    name = f"layers.0.{port}"
    child = stack[name]
    assert child.module is stack.module.layers[0][port]
    edits = [
        edited_output(stack, x, interventions={name: iv.zero_out}),
        edited_output(stack, x, interventions={child: iv.zero_out}),
        stack.run(mg.edit(name, iv.zero_out), x).output,
        stack.run(mg.edit(child, iv.zero_out), x).output,
        stack.run(mg.edit(name + ".output", iv.zero_out), x).output,
    ]
    assert all(same(one, edits[0], 1e-6) for one in edits)
    block = stack.run(mg.edit("layers.0", iv.zero_out), x).output
    assert not same(block, edits[0], 1e-3), "and the layer itself is another site"
    with stack.trace(x) as t:
        kept = t.cache(name)
    value = t.activations[name]
    expected = t.get(f"{name}.output")
    assert same(value, expected) and same(t.get(name), expected)
    assert same(*kept.values(), expected)
    assert same(stack.run(mg.read(name, "h"), x)["h"], expected, 1e-6)
    assert same(mg.collect_activations(stack, x, layers=[name])[name], expected, 1e-6)
    found = mg.get_activations(stack, x, layers=[child])
    assert same(*found.values(), expected[:, -1], 1e-6)
    every = f"layers.*.{port}"
    assert stack.sites(every) == [f"layers.{k}.{port}" for k in range(3)]


def test_an_edit_keeps_its_name_on_disk(stack, x, tmp_path):
    for name in ("layers.0.output", "layers.0.output.output", "layers.0.input", "layers.0"):
        graph = mg.edit(name, iv.zero_out)
        graph.save(tmp_path / "edit")
        loaded = mg.Graph.load(tmp_path / "edit")
        assert loaded == graph
        assert same(stack.run(loaded, x).output, stack.run(graph, x).output, 1e-6)


def test_names_in_a_graphs_algebra(tied, tokens):
    mlp = tied.layers[1].mlp
    graph = mg.edit(mlp, iv.scale(0.5)) >> mg.edit("layers.2.mlp.output", iv.scale(0.2))
    for name in (mlp, "model.layers.1.mlp", "model.layers.1.mlp.output"):
        assert len(graph.without(name).then) == 1 == len(graph.only(name).then)
    assert "layers.2.mlp.output with" in str(graph) and "output.output" not in str(graph)
    moved = mg.edit("layers.1.mlp.output", iv.scale(0.5)).retarget({mlp: tied.layers[0].mlp})
    assert same(
        tied.run(moved, tokens).output,
        tied.run(mg.edit("layers.0.mlp", iv.scale(0.5)), tokens).output,
    )
    with pytest.raises(mg.errors.MergeError):
        mg.merge(mg.edit("layers.1.mlp.output", iv.zero_out), mg.edit(mlp, iv.zero_out))


@pytest.mark.parametrize("given", [5, None, 1.5, ("layers.1",), mx.array(1)])
def test_what_is_no_name_raises(tied, tokens, given):
    calls = [
        lambda: mg.edit(given, iv.zero_out),
        lambda: mg.read(given),
        lambda: tied[given],
        lambda: tied.sites(given),
        lambda: edited_output(tied, tokens, interventions={given: iv.zero_out}),
    ]
    for call in calls:
        with pytest.raises(SiteNameError, match="named by a text") as caught:
            call()
        assert isinstance(caught.value, TypeError)


def test_a_modules_input_is_no_module(tied):
    with pytest.raises(UnknownSiteError, match=r"model\['layers.1.mlp'\].input"):
        tied["layers.1.mlp.input"]


class WithAnOutput(nn.Module):
    """A block with a part that is called as a port is."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(6, 6)

    def __call__(self, x):
        return self.output(x) + x


def test_a_module_called_as_a_port_comes_first_in_a_graph_too(x):
    model = mg.InterpretableModel(nn.Sequential(WithAnOutput(), WithAnOutput()))
    part, layer = "layers.0.output", "layers.0"
    with model.trace(x) as t:
        model[part].output *= 0
        model.layers[0].output *= 2
    both = t.graph
    assert [str(site) for site, _ in both.without(part).writes] == ["layers.0.output"]
    assert [str(site) for site, _ in both.without("layers.0.output.output").writes] == [part]
    assert [str(site) for site, _ in both.only(part).writes] == ["layers.0.output.output"]
    assert [str(site) for site, _ in both.only("model." + part).writes] == [f"{part}.output"]
    assert [str(site) for site, _ in both.only(layer).writes] == [part]
    deferred = (mg.read("layers.1") >> both).without(part)
    assert "0.output.output" not in str(deferred)
    with model.trace(x) as t:
        model.layers[0].output *= 2
    assert not t.graph.without("layers.0.output").writes  # as `graph.sites` names it
