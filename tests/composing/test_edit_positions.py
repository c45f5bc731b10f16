"""`positions=` and `heads=`: which part of a site's value an edit changes."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import BoundsError, HeadsError, PositionError, ShapeError
from tests.composing.helpers import FRANCE, GERMANY, ROME, apart, exact, plain
from tests.models import HEADS, WIDTH

OUT = mg.read("__model_output__", name="out")
TEXTS = [FRANCE, ROME, GERMANY]

POSITIONS = [
    0, 1, -1, -2, [0], [1, -1], (-2, 0), range(2), slice(None, 2), slice(-2, None), slice(1, -1),
    slice(None, None, 2), slice(None, None, -1), np.int64(-1), np.array([0, 2]),
]  # fmt: skip


@pytest.mark.parametrize("positions", POSITIONS, ids=str)
def test_positions_are_those_of_the_sequence_axis(tied, tokens, positions):
    index = list(positions) if isinstance(positions, (range, tuple)) else positions
    if isinstance(index, np.ndarray):
        index = index.tolist()
    with tied.trace(tokens):
        tied.layers[1].output[:, index] *= 2.0
        want = tied.output.save()
    got = tied.run(mg.edit("layers.1", iv.scale(2.0), positions=positions) >> OUT, tokens)["out"]
    assert exact(got, want)
    assert apart(want, plain(tied, tokens)) > 1e-3


def test_an_array_of_positions_is_taken_too(tied, tokens):
    one = mg.edit("layers.1", iv.zero_out, positions=mx.array([0, 2]))
    other = mg.edit("layers.1", iv.zero_out, positions=[0, 2])
    assert one == other and exact(tied.run(one, tokens).output, tied.run(other, tokens).output)


@pytest.mark.parametrize("positions", [1.5, "last", [0.5], [None]], ids=str)
def test_what_is_no_position_raises_where_it_is_written(positions):
    with pytest.raises(TypeError, match="positions="):
        mg.edit("layers.1", iv.zero_out, positions=positions)
    with pytest.raises(TypeError, match="heads="):
        mg.edit("layers.1.attn", iv.zero_out, heads=positions)


def test_no_positions_and_no_heads_are_no_edit(tied, tokens):
    for nothing in (
        mg.edit("layers.1", iv.zero_out, positions=[]),
        mg.edit("layers.1", iv.zero_out, positions=slice(3, 3)),
        mg.edit("layers.1.attn", iv.zero_out, heads=[]),
    ):
        assert exact(tied.run(nothing, tokens).output, plain(tied, tokens))


@pytest.mark.parametrize("positions", POSITIONS, ids=str)
@pytest.mark.thin(4)
def test_in_a_padded_batch_positions_count_from_each_rows_real_ends(tiny, positions):
    graph = mg.edit("layers.*", iv.scale(1.7), positions=positions) >> OUT
    batch = tiny.run(graph, TEXTS, compile=False)["out"]
    clean = tiny.run(OUT, TEXTS, compile=False)["out"]
    for row, text in enumerate(TEXTS):
        alone = tiny.run(graph, text, compile=False)["out"][0]
        length = alone.shape[0]
        assert apart(batch[row, -length:], alone) < 1e-5
        assert apart(batch[row, -length:], clean[row, -length:]) > 1e-2


@pytest.mark.parametrize("positions", [0, -2, [0, -1], slice(1, 2)], ids=str)
@pytest.mark.thin(3)
def test_in_a_padded_batch_other_ports_and_functions_count_alike(tiny, positions):
    graph = (
        mg.edit("layers.2.mlp.input", lambda h: mx.flip(h, -1), positions=positions)
        >> mg.edit("layers.1.attn", iv.scale(0.1), heads=[1, 5], positions=positions)
        >> OUT
    )
    batch = tiny.run(graph, TEXTS, compile=False)["out"]
    for row, text in enumerate(TEXTS):
        alone = tiny.run(graph, text, compile=False)["out"][0]
        assert apart(batch[row, -alone.shape[0] :], alone) < 1e-5
        assert apart(alone, tiny.run(OUT, text, compile=False)["out"][0]) > 1e-2


def in_place(h):
    h[:, -1] = 0
    h += 1
    return h


def mixing(h):
    return h - h.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("positions", [slice(None), slice(0, 2), slice(1, None), [0, -1],
                                       slice(4, None)], ids=str)  # fmt: skip
@pytest.mark.parametrize("function", [in_place, mixing])
@pytest.mark.thin(3)
def test_in_a_padded_batch_a_function_sees_the_chosen_positions_alone(tiny, positions, function):
    graph = mg.edit("layers.1", function, positions=positions) >> OUT
    batch = tiny.run(graph, TEXTS, compile=False)["out"]
    for row, text in enumerate(TEXTS):
        alone = tiny.run(graph, text, compile=False)["out"][0]
        assert apart(batch[row, -alone.shape[0] :], alone) < 1e-4
    clean = tiny.run(OUT, TEXTS, compile=False)["out"]
    assert apart(batch, clean) > 1e-2


@pytest.mark.parametrize("kind", ["list", "slice"])
def test_a_function_that_writes_in_place_writes_its_part(tied, tokens, kind):
    positions = [0, 2, 4] if kind == "list" else slice(0, 5, 2)
    with tied.trace(tokens):
        h = tied.layers[1].output
        h[:, 4] = 0
        h[:, positions] += 1
        want = tied.output.save()
    got = tied.run(mg.edit("layers.1", in_place, positions=positions), tokens).output
    assert exact(got, want)


def test_a_position_that_a_row_does_not_have_raises(tiny, tied, tokens):
    for positions in (3, [0, 3], -4):
        with pytest.raises(PositionError):  # "Rome is" has three tokens, the others more
            tiny.run(mg.edit("layers.1", iv.zero_out, positions=positions), TEXTS)
        edited = tiny.run(mg.edit("layers.1", iv.zero_out, positions=positions), GERMANY).output
        assert apart(edited, plain(tiny, GERMANY)) > 1e-2
    with pytest.raises(PositionError):
        tied.run(mg.edit("layers.1", iv.zero_out, positions=6), tokens)


def test_one_graph_serves_batches_of_all_kinds(tiny):
    fast = tiny.compile(mg.edit("layers.2", iv.zero_out, positions=0) >> OUT)
    for inputs in (FRANCE, TEXTS, [ROME, ROME], TEXTS, TEXTS[::-1], [GERMANY, ROME]):
        got = fast(inputs)["out"]
        texts = [inputs] if isinstance(inputs, str) else inputs
        for row, text in enumerate(texts):
            with tiny.trace(text):
                tiny.layers[2].output[:, 0] = 0
                alone = tiny.output.save()
            assert apart(got[row, -alone.shape[1] :], alone[0]) < 1e-4, (inputs, row)


# -- heads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [0, [1], [0, 3], -1, [2, -3]], ids=str)
@pytest.mark.parametrize("layer", [0, 2])
def test_zeroing_heads_is_zeroing_their_columns_of_the_output_projection(
    fresh, tokens, layer, heads
):
    """Law 8, with grouped queries: 4 query heads on 2 key-value heads."""
    edited = fresh.run(mg.edit(f"layers.{layer}.attn", iv.zero_out, heads=heads), tokens).output
    clean = plain(fresh, tokens)
    projection = fresh.module.model.layers[layer].self_attn.o_proj
    columns = mx.array(projection.weight).reshape(WIDTH, HEADS, WIDTH // HEADS)
    for head in [heads] if isinstance(heads, int) else heads:
        columns[:, head] = 0
    projection.weight = columns.reshape(WIDTH, WIDTH)
    assert exact(edited, plain(fresh, tokens))
    assert apart(edited, clean) > 1e-3


def test_the_function_sees_the_chosen_heads(tied, tokens):
    seen = []

    def noted(z):
        seen.append(z.shape)
        return z * 2

    tied.run(mg.edit("layers.1.attn", noted, heads=[0, 2]), tokens)
    tied.run(mg.edit("layers.1.attn", noted, heads=1, positions=slice(0, 2)), tokens)
    assert seen == [(2, 6, 2, WIDTH // HEADS), (2, 2, 1, WIDTH // HEADS)]


def test_heads_and_positions_together(tied, tokens):
    graph = mg.edit("layers.*.attn", iv.scale(3.0), heads=[1, 2], positions=[0, -1], expect=3)
    with tied.trace(tokens):
        for layer in tied.layers:
            z = layer.self_attn.o_proj.input.reshape(2, 6, HEADS, WIDTH // HEADS)
            for p in (0, -1):
                z[:, p, 1:3] *= 3.0
        want = tied.output.save()
    assert exact(tied.run(graph, tokens).output, want)
    assert apart(want, tied.run(mg.edit("layers.*.attn", iv.scale(3.0), heads=[1, 2]),
                                tokens).output) > 1e-3  # fmt: skip


@settings(max_examples=15)
@given(st.lists(st.integers(0, HEADS - 1), unique=True), st.integers(0, 2))
def test_editing_heads_together_is_editing_them_one_by_one(tied, tokens, heads, layer):
    together = mg.edit(f"layers.{layer}.attn", iv.scale(0.2), heads=heads)
    one_by_one = mg.chain(
        *(mg.edit(f"layers.{layer}.attn", iv.scale(0.2), heads=head) for head in heads)
    )
    assert exact(tied.run(together, tokens).output, tied.run(one_by_one, tokens).output)


def test_all_heads_zero_is_no_attention(tied, tokens):
    heads = tied.run(mg.edit("layers.1.attn", iv.zero_out, heads=range(HEADS)), tokens).output
    whole = tied.run(mg.edit("layers.1.attn", iv.zero_out), tokens).output
    assert exact(heads, whole) and apart(whole, plain(tied, tokens)) > 1e-3


@pytest.mark.parametrize("head", [HEADS, -HEADS - 1])
def test_a_head_that_there_is_not_raises(tied, tokens, head):
    with pytest.raises(BoundsError, match=f"index {head} is out of bounds"):
        tied.run(mg.edit("layers.1.attn", iv.zero_out, heads=[0, head]), tokens)


def test_a_module_without_heads_raises(tied, tokens):
    with pytest.raises(HeadsError, match="layers.1.mlp"):
        tied.run(mg.edit("layers.1.mlp", iv.zero_out, heads=0), tokens)


class Pooled(nn.Module):
    """A sum over the positions, and one axis for texts and positions before it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.places = nn.Embedding(10, 8)
        self.pool = nn.Linear(8, 8)

    def __call__(self, ids):
        h = self.embed(ids) + self.places(mx.arange(ids.shape[1]))
        return self.pool(h.sum(1))


@pytest.mark.parametrize("site", ["places", "pool", "pool.input"])
@pytest.mark.parametrize("positions", [-1, 0, [0, 1], slice(0, 2)])
@pytest.mark.parametrize("tokens", [[[1, 2, 3]], [[1, 2, 3], [4, 5, 6]]])
def test_a_site_without_an_axis_of_positions_is_refused(site, positions, tokens):
    model = mg.InterpretableModel(Pooled())
    with pytest.raises(ShapeError, match=r"no axis of positions.*\n.*test_edit_positions.py"):
        model.run(mg.edit(site, iv.zero_out, positions=positions), tokens)
    whole = model.run(mg.edit(site, iv.zero_out) >> mg.read(site, name="h"), tokens)["h"]
    assert not whole.any()
    one = mg.edit("embed", iv.zero_out, positions=positions) >> mg.read("embed", name="h")
    kept = model.run(one, tokens)["h"]
    assert kept.any() and not kept[:, positions].any()


def test_ids_have_positions(tied, tokens):
    graph = mg.edit("model.embed_tokens.input", lambda ids: ids * 0 + 1, positions=-1)
    ids = tied.run(graph >> mg.read("model.embed_tokens.input", name="ids"), tokens)["ids"]
    assert ids[:, -1].tolist() == [1] * len(ids) and exact(ids[:, :-1], tokens[:, :-1])
