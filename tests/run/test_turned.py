"""Models that cannot mask: rows padded on the right, and shown as if they were padded on the left.

The reference is each row alone, in the same model.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import InputError, ShapeError, SharedByRowsError, VocabularyError
from mlxgraph.graph.nested import leaves
from mlxgraph.run.turned import SharedByRows
from tests.architectures import configs
from tests.models import same

ROWS = [[7, 21, 3, 88, 40], [5, 63], [12, 9, 4]]
QUICK = ("gemma2", "mamba", "gpt_bigcode", "llama4")
SLOW = (
    "afm7", "baichuan_m1", "bailing_moe_linear", "deepseek_v41", "gemma3n", "jamba", "olmo_hybrid",
    "recurrent_gemma", "rwkv7",
)  # fmt: skip
CLOSE = 1e-5
NO_SLOPES = "deepseek_v41"  # it differentiates what it chooses by, which MLX refuses


def kinds() -> list[Any]:
    found = [pytest.param(name) for name in configs.installed(QUICK)]
    return found + [pytest.param(n, marks=pytest.mark.slow) for n in configs.installed(SLOW)]


@pytest.fixture(scope="module", params=kinds())
def model(request: pytest.FixtureRequest) -> mg.InterpretableModel:
    return mg.InterpretableModel(configs.build(request.param))


def first(value: Any) -> Any:
    while not isinstance(value, mx.array):
        value = value[0]
    return value


def stream_of(m: mg.InterpretableModel) -> Any:
    """The first layer's stream; of what passes on several, stacked, its feed-forward part."""
    stream = first(m.layers[0].output)
    return stream if stream.ndim == 3 else first(m.layers[0].mlp.output)


def test_every_value_of_every_row_is_that_of_its_single_run(model: mg.InterpretableModel):
    """Of every module, what it gives that has the batch's rows and the text's positions."""
    with model.trace(ROWS) as t:
        names = list(t.activations)
    together = {name: leaves(t.activations[name]) for name in names}
    compared = 0
    for k, row in enumerate(ROWS):
        with model.trace([row]) as one:
            pass
        for name in names:
            for both, single in zip(together[name], leaves(one.activations[name]), strict=True):
                if (
                    not isinstance(both, mx.array)
                    or both.ndim < 2
                    or single.shape[1:2] != (len(row),)
                    or both.shape[1] != 5
                ):
                    continue  # no positions, or on another axis
                assert same(both[k, -len(row) :], single[0], CLOSE), name
                compared += 1
    assert compared > 3 * len(ROWS)


@pytest.mark.parametrize("compile", [False, True])
def test_an_edit_of_every_row_is_that_of_its_single_run(
    model: mg.InterpretableModel, compile: bool
):
    def edit(m: mg.InterpretableModel) -> Any:
        stream = stream_of(m)
        stream[:, -2:] += mx.linspace(-1.0, 2.0, stream.shape[-1])
        stream[:, -1] *= 3.0
        return m.output.save(), stream_of(m).save()

    with model.trace(ROWS, compile=compile) as t:
        logits, stream = edit(model)
    assert t.lengths == [5, 2, 3]
    assert t.tokens.shape == (3, 5) and t.tokens[1].tolist()[-2:] == ROWS[1]
    plain = model.module(mx.array([ROWS[1]]))[0]
    assert not same(logits[1, -2:], plain, 1e-3)  # the control: the edit bites
    for k, row in enumerate(ROWS):
        with model.trace([row], compile=False):
            alone, alone_stream = edit(model)
        assert same(logits[k, -len(row) :], alone[0], CLOSE)
        assert same(stream[k, -len(row) :], alone_stream[0], CLOSE)


def test_values_flow_between_texts_of_several_lengths(model: mg.InterpretableModel):
    with model.trace() as t:
        with t.invoke(ROWS[0]):
            clean = stream_of(model)[:, -1]
        with t.invoke(ROWS[1]):
            stream_of(model)[:, -1] = clean
            patched = model.output[:, -1].save()
    with model.trace([ROWS[0]]):
        clean = stream_of(model)[:, -1].save()
    with model.trace([ROWS[1]]):
        stream_of(model)[:, -1] = clean
        alone = model.output[:, -1].save()
    assert same(patched, alone, CLOSE)
    assert not same(alone, model.module(mx.array([ROWS[1]]))[:, -1], 1e-4)


def test_the_model_called_on_texts_gives_rows_that_end_in_the_last_column(
    model: mg.InterpretableModel,
):
    out = model(ROWS)
    for k, row in enumerate(ROWS):
        assert same(out[k, -len(row) :], model.module(mx.array([row]))[0], CLOSE)


def test_gradients_of_rows_are_those_of_single_runs(model: mg.InterpretableModel):
    def slope(m: mg.InterpretableModel, t: Any) -> Any:
        return t.grad(m.output[:, -1, 3].sum(), stream_of(m)).save()

    if NO_SLOPES in type(model.module).__module__:
        with pytest.raises(ValueError, match="VJP with respect to indices"):
            with model.trace(ROWS[:1]) as t:
                slope(model, t)
        return
    with model.trace(ROWS) as t:
        together = slope(model, t)
    for k, row in enumerate(ROWS):
        with model.trace([row]) as t:
            alone = slope(model, t)
        assert mx.abs(alone).max().item() > 1e-6
        assert same(together[k, -len(row) :], alone[0], 1e-4)


def test_a_loss_of_whole_rows_has_no_slope_through_the_padding(model: mg.InterpretableModel):
    """The padding is computed from the text before it, and is no part of any row."""
    if NO_SLOPES in type(model.module).__module__:
        return
    together = grad_of_rows(model, ROWS)
    for k, row in enumerate(ROWS):
        alone = grad_of_rows(model, [row])
        assert mx.abs(alone).max().item() > 1e-6
        assert same(together[k, -len(row) :], alone[0], 1e-4)
        assert not mx.any(together[k, : -len(row)]).item()


def grad_of_rows(m: mg.InterpretableModel, rows: Any) -> Any:
    """The slope of a loss of every column, at an edited stream."""
    with m.trace(rows) as t:
        stream = stream_of(m)
        stream[:, -1] *= 2.0
        return t.grad((m.output * m.output).sum(), stream).save()


def test_a_skipped_module_gives_what_was_said_for_every_row(model: mg.InterpretableModel):
    layer = model.layers[0]
    with model.trace(ROWS, compile=False):
        if not isinstance(layer.output, mx.array) or layer.output.shape != layer.input.shape:
            return  # nothing of its output's shape comes in
        layer.skip(layer.input)
        skipped = model.output.save()
    for k, row in enumerate(ROWS):
        with model.trace([row], compile=False):
            layer.skip(layer.input)
            alone = model.output.save()
        assert same(skipped[k, -len(row) :], alone[0], CLOSE)


def test_an_id_without_a_row_is_refused_in_any_row(model: mg.InterpretableModel):
    with pytest.raises(VocabularyError, match="100000"):
        with model.trace([[1, 2, 3], [4, 100_000]]):
            model.output.save()


def test_a_cache_is_refused(model: mg.InterpretableModel):
    with pytest.raises(InputError, match="a cache was given"):
        with model.trace(ROWS, cache=None):
            model.output.save()


def test_what_rows_share_says_so_where_it_is_looked_at():
    """GPT-BigCode's learned positions are the same for all rows, which are turned each by its own
    padding."""
    model = mg.InterpretableModel(configs.build("gpt_bigcode"))
    with model.trace(ROWS):
        shared = model.transformer.wpe.output
        assert isinstance(shared, SharedByRows)
        assert "one by one" in repr(shared)
        for use in (lambda: shared + 1, shared.__len__, lambda: shared[0], lambda: shared.save()):
            with pytest.raises(SharedByRowsError, match="one by one"):
                use()
        assert not hasattr(shared, "dtype")  # no array to whoever asks
    for graph in (mg.read("transformer.wpe"), mg.edit("transformer.wpe", iv.zero_out)):
        with pytest.raises(ShapeError, match="one by one"):
            model.run(graph, ROWS)
    with model.trace(ROWS[:1]):
        assert isinstance(model.transformer.wpe.output, mx.array)


class Summing(nn.Module):
    """Gives its state after the last token beside the logits, as recurrent layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.layers = [Running()]
        self.head = nn.Linear(8, 20)

    def __call__(self, tokens: mx.array) -> Any:
        stream, state = self.layers[0](self.embedding(tokens))
        return self.head(stream), state


class Running(nn.Module):
    def __call__(self, x: mx.array) -> Any:
        total = mx.cumsum(x, axis=1)
        return total, total[:, -1]


def test_what_rows_share_stays_where_the_rest_is_written():
    """Gemma 2's layers are given a mask of positions alone."""
    model = mg.InterpretableModel(configs.build("gemma2"))

    def doubled(rows: Any) -> Any:
        with model.trace(rows):
            args, kwargs = model.layers[1].inputs
            model.layers[1].inputs = (args[0] * 2, *args[1:]), kwargs
            given = model.layers[1].inputs.save()
            return model.output.save(), given

    with model.trace(ROWS):
        kept = model.layers[1].inputs.save()
    assert any(isinstance(leaf, SharedByRows) for leaf in leaves(kept.value))
    together, _ = doubled(ROWS)
    assert not same(together, model(ROWS), 1e-3)
    for k, row in enumerate(ROWS):
        assert same(together[k, -len(row) :], doubled([row])[0][0], CLOSE)


def test_a_state_after_the_last_token_is_not_shown():
    """The forward has come to it after the padding."""
    model = mg.InterpretableModel(Summing())
    logits, state = model(ROWS_OF_TWENTY)
    with model.trace(ROWS_OF_TWENTY) as t:
        saved = model.layers[0].output.save()
    for hidden in (state, saved[1], t.activations["layers.0"][1], t.output[1]):
        assert isinstance(hidden, SharedByRows)
        with pytest.raises(SharedByRowsError, match="one by one"):
            hidden * 2
    with pytest.raises(SharedByRowsError, match="one by one"):
        with model.trace(ROWS_OF_TWENTY):
            model.layers[0].output[1].save()
    for k, row in enumerate(ROWS_OF_TWENTY):
        alone, state = model(mx.array([row]))
        assert same(logits[k, -len(row) :], alone[0], CLOSE)
        assert same(saved[0][k, -1], state[0], CLOSE)


@pytest.mark.parametrize("compile", [False, True])
def test_what_rows_share_is_no_number_in_a_graph_that_was_recorded_on_one_text(compile: bool):
    model = mg.InterpretableModel(Summing())
    with model.trace(ROWS_OF_TWENTY[:1]) as t:
        model.layers[0].output[1].save("state")
        model.layers[0].output[0].save("stream")
    found = model.run(t.graph, ROWS_OF_TWENTY, compile=compile)
    assert isinstance(found["state"], SharedByRows) and isinstance(found["stream"], mx.array)
    with model.trace(ROWS_OF_TWENTY[:1]) as t:
        model.layers[0].output = (model.layers[0].output[0], mx.zeros((1, 8)))
    with pytest.raises(SharedByRowsError, match="one by one"):
        model.run(t.graph, ROWS_OF_TWENTY, compile=compile)


ROWS_OF_TWENTY = [[7, 2, 3], [5]]
rows = st.lists(
    st.lists(st.integers(0, 95), min_size=1, max_size=6), min_size=2, max_size=4
).filter(lambda rows: len({*map(len, rows)}) > 1)


@settings(max_examples=15, deadline=None)
@given(rows=rows, strength=st.floats(-2, 2))
def test_law_a_row_is_its_single_run(rows: list[list[int]], strength: float):
    model = _small()
    graph = mg.edit("layers.1", iv.scale(strength), positions=-1) >> mg.read("layers.1", name="h")
    together = model.run(graph, rows)
    for k, row in enumerate(rows):
        alone = model.run(graph, [row])
        mine, its = together.saves["h"][k, -len(row) :], alone.saves["h"][0]
        np.testing.assert_allclose(np.array(mine), np.array(its), atol=1e-5)


_made: list[mg.InterpretableModel] = []


def _small() -> mg.InterpretableModel:
    if not _made:
        _made.append(mg.InterpretableModel(configs.build("gemma2")))
    return _made[0]
