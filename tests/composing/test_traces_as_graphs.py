"""A finished trace stands wherever a graph does, and so does a compiled pass."""

from __future__ import annotations

import pytest

import mlxgraph as mg
from mlxgraph.errors import NotAGraphError
from tests.models import same


@pytest.fixture
def done(tied, tokens):
    with tied.trace(tokens) as t:
        tied.layers[1].output *= 0.5
        tied.layers[2].mlp.output.save("h")
    return t


USES = {
    "run": lambda m, x, g: m.run(g, x)["h"],
    "compile": lambda m, x, g: m.compile(g)(x)["h"],
    "edit": lambda m, x, g: m.edit(g).run(mg.read("layers.2.mlp", "other"), x)["other"],
    "chain": lambda m, x, g: m.run(mg.chain(g, mg.Graph()), x)["h"],
    "merge": lambda m, x, g: m.run(mg.merge(g, mg.read("layers.0", "first")), x)["h"],
    "before": lambda m, x, g: m.run(g >> mg.read("layers.0", "first"), x)["h"],
    "after": lambda m, x, g: m.run(mg.read("layers.0", "first") >> g, x)["h"],
    "simplify": lambda m, x, g: m.run(mg.simplify(g), x)["h"],
    "rewrite": lambda m, x, g: m.run(mg.rewrite(g, lambda node: None), x)["h"],
    "list": lambda m, x, g: [m.run(one, x)["h"] for one in (g, mg.chain(*[g]))][1],
}


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("form", ["trace", "pass"])
def test_a_finished_trace_stands_for_its_graph(tied, tokens, done, name, form):
    given = done if form == "trace" else tied.compile(done)
    assert same(USES[name](tied, tokens, given), done.get("h"), 1e-5)
    assert same(USES[name](tied, tokens, done.graph), done.get("h"), 1e-5)


def test_it_is_compared_explained_and_traced_on(tied, tokens, done):
    assert not mg.diff(done, done.graph) and mg.diff(done, mg.Graph())
    assert tied.explain(done, tokens) == tied.explain(done.graph, tokens)
    with tied.trace(tokens, graph=done) as t:
        pass
    assert same(t.get("h"), done.get("h"), 1e-5)
    assert (done >> mg.Graph()) == done.graph


def test_several_prompts_are_a_graph_too(tied):
    with tied.trace() as t:
        with t.invoke([1, 2, 3]):
            tied.layers[1].output *= 0.5
            first = tied.output.save("first")
        with t.invoke([4, 5, 6]):
            tied.output.save("second")
    found = tied.run(t, [[1, 2, 3], [4, 5, 6]])
    assert same(found["first"], first, 1e-5)
    assert set(dict((t >> mg.read("layers.0", "h")).saves)) == {"first", "second"}


@pytest.mark.parametrize("given", ["text", 5, None, object(), {"layers.1": len}])
def test_what_is_no_graph_raises(tied, tokens, given):
    calls = [
        lambda: tied.run(given, tokens),
        lambda: tied.compile(given),
        lambda: mg.chain(given),
        lambda: mg.merge(given),
        lambda: mg.diff(given, mg.Graph()),
        lambda: mg.Graph() >> given,
        lambda: given >> mg.Graph(),
        lambda: mg.simplify(given),
        lambda: mg.rewrite(given),
        lambda: tied.explain(given, tokens),
    ]
    for call in calls:
        with pytest.raises(NotAGraphError, match="a graph is needed") as caught:
            call()
        assert isinstance(caught.value, TypeError)


# -- the output beside saves ---------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False, "auto"])
def test_a_result_has_its_output_beside_its_saves(tied, tokens, done, compiled):
    with tied.trace(tokens, graph=done.graph):
        expected = tied.output.save()
    result = tied.run(done, tokens, compile=compiled)
    assert same(result.output, expected, 1e-5) and same(result["h"], done.get("h"), 1e-5)
    assert result.output is result.output
    assert not same(expected, tied(tokens), 1e-3)


def test_the_output_is_of_the_same_draws(tied, tokens):
    from mlxgraph import interventions as iv

    noisy = mg.edit("layers.1", iv.noise(1.0))
    fast = tied.compile(noisy >> mg.read("__model_output__", "logits"))
    one, two = fast(tokens), fast(tokens)
    assert same(one.output, one["logits"], 1e-4) and same(two.output, two["logits"], 1e-4)
    assert not same(one.output, two.output, 1e-3)


def test_the_output_beside_saves_leaves_a_cache_alone(tied):
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(tied.module)
    result = tied.run(mg.read("layers.1", "h"), [1, 2, 3], cache=cache)
    before = cache[0].offset
    assert result.output.shape[:2] == (1, 3) and cache[0].offset == before
