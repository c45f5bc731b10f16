"""Batches of several lengths: left padding that nobody can see in the numbers."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlxgraph import interventions as iv
from mlxgraph.errors import InputError
from tests.models import same

TEXTS = ["Hello", "The capital of France is", "I love this movie a lot", "The cat sleeps"]
ROWS = [[1, 7, 3, 9, 4], [2, 5], [8, 8, 1], [3]]


def test_each_row_equals_the_same_text_alone(tiny):
    with tiny.trace(TEXTS) as batch:
        streams = [layer.output.save() for layer in tiny.layers]
        logits = tiny.output.save()
    for row, text in enumerate(TEXTS):
        length = batch.lengths[row]
        with tiny.trace(text) as alone:
            pass
        assert same(logits[row, -length:], alone.output[0], 1e-4)
        for layer, stream in enumerate(streams):
            assert same(stream[row, -length:], alone.activations[f"layers.{layer}"][0], 1e-4)


def test_without_the_mask_it_would_not(tiny):
    """The control: the same padded tokens as an array, which is not masked."""
    with tiny.trace(TEXTS) as masked:
        pass
    with tiny.trace(masked.tokens) as bare:
        pass
    shortest = masked.lengths.index(min(masked.lengths))
    assert not same(masked.output[shortest, -1], bare.output[shortest, -1], 1e-2)


def test_the_last_column_is_every_rows_last_token(llama):
    with llama.trace(ROWS) as trace:
        last = llama.output[:, -1].save()
    for row, ids in enumerate(ROWS):
        assert trace.tokens[row, -1].item() == ids[-1]
        assert same(last[row], llama(mx.array([ids]))[0, -1], 1e-5)


@pytest.mark.parametrize("name", ["layers.1", "layers.1.mlp", "layers.0.attn", "__model_output__"])
def test_edited_rows_equal_the_same_text_edited_alone(llama, name):
    edit = {name: lambda x: mx.tanh(x) * 2}
    with llama.trace(ROWS, interventions=edit):
        last = llama.output[:, -1].save()
    for row, ids in enumerate(ROWS):
        with llama.trace(ids, interventions=edit):
            alone = llama.output[0, -1].save()
        assert same(last[row], alone, 1e-5)
        assert not same(last[row], llama(mx.array([ids]))[0, -1], 1e-3)


def test_rows_come_in_the_order_given_and_equal_rows_agree(llama):
    with llama.trace([ROWS[0], ROWS[1], ROWS[0]]):
        one = llama.output[:, -1].save()
    with llama.trace([ROWS[1], ROWS[0]]):
        other = llama.output[:, -1].save()
    assert same(one[0], one[2]) and same(one[:2], other[::-1], 1e-5)


def test_an_intervention_by_value_reaches_every_row(llama):
    with llama.trace(ROWS, interventions={"layers.2": iv.replace_with(1.0)}):
        last = llama.output[:, -1].save()
    assert same(last, mx.broadcast_to(last[:1], last.shape), 1e-5)


def test_a_model_that_cannot_mask_says_so(chain):
    with pytest.raises(InputError, match="cannot mask"):
        chain.trace([[1, 2, 3], [4]]).__enter__()
