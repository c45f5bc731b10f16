"""`graph.explain`: the graph before and after each pass, and what the run will do."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import UnknownNameError
from tests import models

TOKENS = mx.array([[1, 7, 3, 9, 4, 2]])


@pytest.fixture(scope="module")
def model():
    return mg.InterpretableModel(models.make_llama(True))


def run_part(text: str) -> list[str]:
    lines = text.split("\n")
    return [line.strip() for line in lines[lines.index("the run") + 1 :]]


def test_it_shows_the_graph_before_and_after_each_pass_that_changed_it(model):
    with model.trace(TOKENS) as t:
        h = model.layers[1].output
        h[:, -1] *= 1.5
        h[:, -1] += 1
        model.layers[2].output[:, 0] = model.layers[2].output[:, 0]
        model.output[:, -1].save("logits")
    text = t.graph.explain(model, TOKENS)
    heads = [line for line in text.split("\n") if not line.startswith(" ")]
    names = [line.split(":")[0] for line in heads]
    assert names[0] == "as it was written" and names[-1] == "the run"
    assert {"after updates", "after noops", "after reads", "after pushdown"} <= set(names)
    assert "after views" not in names
    before, _, after = text.partition("after updates")
    assert before.count("= update(") == 3 and after.split("after ")[0].count("= update(") == 3
    last = text.split("after pushdown")[1].split("after ")[0]
    assert last.count("= update(") == 1 and "write model.norm.inputs" in last


def test_it_tells_what_the_run_visits_and_where_it_stops(model):
    with model.trace(TOKENS) as t:
        model.layers[0].output *= 2
        model.layers[1].mlp.output.save("mlp")
        model.layers[2].output *= 3
    told = run_part(t.graph.explain(model, TOKENS))
    assert told[0] == "read and write model.layers.0.output"
    assert told[1] == "read model.layers.1.mlp.output"
    assert "leave out the write at model.layers.2.output: no save can see it" in told
    (end,) = [line for line in told if line.startswith("stop")]
    assert end.startswith("stop at model.layers.1.mlp.output:") and "not finished" in end
    whole = run_part(t.graph.replace(saves=()).explain(model, TOKENS))
    assert "read and write model.layers.2.output" in whole
    assert "stop at __model_output__: the whole forward is needed" in whole


def test_a_graph_that_needs_no_model_says_so(model):
    with model.trace(TOKENS) as t:
        model.layers[0].output = model.layers[0].output * 2
        (mx.array(model.layers[0].output) * 0).save("nothing")
    assert not run_part(t.graph.explain(model, TOKENS))[-2].startswith("run no forward")
    alone = t.graph.replace(writes=(), saves=[("c", mg.Node("constant", (0, (), "float32")))],
                            constants=(mx.array(1.0),))  # fmt: skip
    assert "run no forward: nothing of the model is needed" in run_part(
        alone.explain(model, TOKENS)
    )


def test_it_tells_why_a_run_compiles_or_not(model):
    with model.trace(TOKENS) as t:
        model.layers[0].output.save()
    assert run_part(t.graph.explain(model, TOKENS))[-1].startswith("eager the first time, compiled")
    with model.trace(TOKENS) as t:
        mg.apply(lambda h: h + 1, model.layers[0].output).save()
    assert "Python function" in run_part(t.graph.explain(model, TOKENS))[-1]
    branching = mg.InterpretableModel(models.Branching())
    x = mx.ones((2, 6))
    with branching.trace(x) as t:
        branching.output.save()
    assert "looks at values" in run_part(t.graph.explain(branching, x))[-1]


def test_without_passes_it_says_so(model):
    with model.trace(TOKENS) as t:
        model.layers[0].output.save()
    text = t.graph.explain(model, TOKENS, optimize=False)
    assert "no rewrite is used" in text and "after " not in text
    assert "no rewrite changes it" in t.graph.explain(model, TOKENS)
    with pytest.raises(UnknownNameError, match="pushdown"):
        t.graph.explain(model, TOKENS, optimize="pushdwn")


def test_a_graph_by_pattern_is_explained_as_resolved(model):
    graph = mg.edit("layers.*.mlp", iv.scale(0.5)) >> mg.read("layers.1", name="h")
    text = graph.explain(model, TOKENS)
    assert "write model.layers.0.mlp.output" in text and "save 'h'" in text
    assert "leave out the write at model.layers.2.mlp.output: no save can see it" in text


def test_params_need_no_values_to_be_explained(model):
    alpha = mg.param("alpha")
    graph = mg.edit("layers.1", lambda h: h * alpha)
    texts = [graph.explain(model, TOKENS, **values) for values in ({}, {"alpha": 2.0})]
    assert "param('alpha')" in texts[0] and texts[0] == texts[1]


def test_it_is_text_that_shows_itself(model):
    with model.trace(TOKENS) as t:
        model.layers[0].output.save()
    text = t.graph.explain(model, TOKENS)
    assert isinstance(text, str) and repr(text) == str(text) and "\n" in repr(text)


def test_explaining_computes_and_changes_nothing(model):
    with model.trace(TOKENS) as t:
        model.layers[0].output *= 2
        model.output[:, -1].save("logits")
    before = model.run(t.graph, TOKENS)["logits"]
    compilations = model.compilations
    state = mx.random.state[0].tolist()
    t.graph.explain(model, TOKENS)
    assert model.compilations == compilations
    assert mx.random.state[0].tolist() == state
    assert models.same(before, model.run(t.graph, TOKENS)["logits"])
