"""Random chains of edits, reads and recorded graphs mean the same however they are put together."""

import mlx.core as mx
from hypothesis import given, settings
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph import interventions as iv
from tests.composing.helpers import FRANCE, GERMANY, ROME, apart, exact, plain
from tests.models import HEADS, WIDTH

VECTOR = mx.random.normal((WIDTH,), key=mx.random.key(0))
FUNCTIONS = {
    "half": iv.scale(0.5),
    "negated": lambda h: -h,
    "shifted": lambda h: h + 1.0,
    "centred": lambda h: h - h.mean(axis=-1, keepdims=True),
    "alpha": iv.scale(mg.param("alpha")),
}
PLACES = ["layers.*", "layers.[0-1].mlp", "layers.1", "layers.2.attn", "layers.0.mlp.input",
          "model.norm"]  # fmt: skip

edits = st.builds(
    lambda place, name, positions: ("edit", place, name, positions),
    st.sampled_from(PLACES),
    st.sampled_from(sorted(FUNCTIONS)),
    st.sampled_from([None, -1, 0, (1, -2), slice(2, None)]),
)
heads = st.builds(
    lambda layer, head: ("heads", layer, head), st.integers(0, 2), st.integers(0, HEADS - 1)
)
blocks = st.builds(
    lambda source, target, wide: ("block", min(source, target), max(source, target), wide),
    st.integers(0, 2),
    st.integers(0, 2),
    st.booleans(),
)
reads = st.builds(lambda place: ("read", place), st.sampled_from(PLACES))
programs = st.lists(st.one_of(edits, edits, heads, blocks, reads), min_size=1, max_size=5)


def record(model, tokens, step, number):
    """One step inside an open block."""
    kind = step[0]
    if kind == "block":
        _, source, target, wide = step
        h = model.layers[source].output
        if wide:
            model.layers[target].output += 0.1 * h + VECTOR
        else:
            model.layers[target].output[:, 0] = h[:, -1] * 0.5
        model.layers[target].output.save(f"b{number}")


def graph_of(model, tokens, step, number):
    """The same step as a graph of its own."""
    if step[0] == "edit":
        return mg.edit(step[1], FUNCTIONS[step[2]], positions=step[3])
    if step[0] == "heads":
        return mg.edit(f"layers.{step[1]}.attn", iv.scale(-1.0), heads=step[2])
    if step[0] == "read":
        return mg.read(step[1], name=f"r{number}")
    with model.trace(tokens) as t:
        record(model, tokens, step, number)
    return t.graph


def results(model, graph, tokens, **options):
    values = {"alpha": 0.7} if "alpha" in graph.params else {}
    return model.run(graph >> mg.read("__model_output__", "out"), tokens, **values, **options).saves


@settings(max_examples=12)
@given(programs, st.data())
def test_a_chain_is_the_same_however_it_is_grouped(tied, tokens, program, data):
    parts = [graph_of(tied, tokens, step, k) for k, step in enumerate(program)]
    whole = mg.chain(*parts)
    want = results(tied, whole, tokens, compile=False)
    cut = data.draw(st.integers(0, len(parts)))
    grouped = mg.chain(*parts[:cut]) >> mg.chain(*parts[cut:])
    from_the_right = mg.Graph()
    for part in reversed(parts):
        from_the_right = part >> from_the_right
    for other in (grouped, from_the_right):
        got = results(tied, other, tokens, compile=False)
        assert list(got) == list(want) and all(exact(got[k], want[k]) for k in want)
    rest = mg.chain(*parts[cut:])
    edited = tied.edit(mg.chain(*parts[:cut]))  # the first part stays, the second is run
    values = {"alpha": 0.7} if "alpha" in whole.params else {}
    tail = rest >> mg.read("__model_output__", "out")
    got = edited.run(tail, tokens, compile=False, **values).saves
    assert all(apart(got[k], want[k]) < 1e-4 for k in want)
    head = mg.chain(*parts[:cut])
    given_to = values if "alpha" in head.params else {}
    with tied.trace(tokens, graph=head, params=given_to, compile=False) as t:
        tied.output.save("here")
    first = results(tied, head, tokens, compile=False)
    assert apart(t.saved_values["here"], first["out"]) < 1e-4


@settings(max_examples=3)
@given(programs)
def test_compiled_and_unsimplified_runs_agree(tied, tokens, program):
    whole = mg.chain(*[graph_of(tied, tokens, step, k) for k, step in enumerate(program)])
    want = results(tied, whole, tokens, compile=False)
    for options in ({"compile": False, "optimize": False}, {"compile": True}):
        got = results(tied, whole, tokens, **options)
        assert list(got) == list(want)
        for name in want:
            assert apart(got[name], want[name]) < 1e-3 * (1 + float(mx.abs(want[name]).max()))


@settings(max_examples=10)
@given(programs)
def test_nothing_of_a_chain_stays_on_the_model(tied, tokens, program):
    whole = mg.chain(*[graph_of(tied, tokens, step, k) for k, step in enumerate(program)])
    results(tied, whole, tokens)
    assert exact(tied(tokens), plain(tied, tokens))


@settings(max_examples=10)
@given(st.lists(edits, min_size=1, max_size=4))
def test_chains_of_edits_act_on_each_row_of_a_padded_batch_as_on_its_text(tiny, program):
    texts = [FRANCE, ROME, GERMANY]
    whole = mg.chain(*[graph_of(tiny, None, step, k) for k, step in enumerate(program)])
    batch = results(tiny, whole, texts, compile=False)["out"]
    for row, text in enumerate(texts):
        alone = results(tiny, whole, text, compile=False)["out"][0]
        scale = 1 + float(mx.abs(alone).max())
        assert apart(batch[row, -alone.shape[0] :], alone) < 1e-4 * scale
