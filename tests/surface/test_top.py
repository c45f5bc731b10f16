"""`model.top`: the most probable tokens of logits, as a list that prints as a table."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlxgraph.errors import InputError

TEXT = "The capital of France is"


@pytest.fixture(scope="module")
def logits(tiny):
    return tiny(TEXT)


def test_tokens_with_their_probabilities_best_first(tiny, logits):
    found = tiny.top(logits, k=3)
    chances = mx.softmax(logits[0, -1])
    ids = mx.argsort(-chances)[:3].tolist()
    assert [one.id for one in found] == ids
    assert [one.token for one in found] == [tiny.token_to_str(token) for token in ids]
    for token, number, chance in found:
        assert chance == pytest.approx(chances[number].item(), rel=1e-5), token
    assert found[0].token == " Paris"
    assert len(tiny.top(logits)) == 5


def test_the_last_position_counts_whatever_the_shape(tiny, logits):
    expected = tiny.top(logits)
    for given in (logits[0, -1], logits[:, -1], np.array(logits), [logits], {"logits": logits}):
        assert tiny.top(given) == expected
    assert tiny.top(logits[:, :3]) != expected


def test_several_rows_are_a_list_of_tables(tiny, logits):
    positions = tiny.top(logits[0], k=1)
    assert [type(one) for one in positions] == [type(tiny.top(logits))] * 6
    assert positions[-1] == tiny.top(logits, k=1)
    batch = tiny(["The capital of Italy is", TEXT])
    assert [one[0].token for one in tiny.top(batch)] == [" Rome", " Paris"]


def test_it_prints_as_a_table(tiny, logits):
    found = tiny.top(logits, k=2)
    first, second = str(found).splitlines()
    assert first.split()[:3] == ["'", "Paris'", str(found[0].id)] and first.endswith("%")
    assert len(first) == len(second)
    html = found._repr_html_()
    assert html.count("<tr>") == 3 and "&#x27; Paris&#x27;" in html


def test_what_is_in_a_token_is_no_html(tiny):
    logits = mx.zeros((1014,))
    logits[0] = 50.0
    assert "&lt;|begin_of_text|&gt;" in tiny.top(logits)._repr_html_()


def test_in_a_block_it_is_of_the_values_by_then(tiny, logits):
    with tiny.trace(TEXT):
        before = tiny.top(tiny.output)
        tiny.layers[4].output *= 0
        after = tiny.top(tiny.output[:, -1])
    assert before == tiny.top(logits)
    assert after != before


def test_half_precision_and_more_than_there_are(tiny, logits):
    found = tiny.top(logits.astype(mx.bfloat16), k=5000)
    assert len(found) == logits.shape[-1]
    assert sum(one.probability for one in found) == pytest.approx(1.0, abs=1e-4)


def test_what_is_masked_has_no_probability(tiny):
    logits = mx.full((1014,), -mx.inf)
    logits[7] = 1.0
    assert [one.probability for one in tiny.top(logits, k=2)] == [1.0, 0.0]


def test_without_a_tokenizer_a_token_is_its_number(llama, tokens):
    found = llama.top(llama(tokens)[:1])
    assert found[0].token == str(found[0].id)


@pytest.mark.parametrize(
    ("given", "k", "said"),
    [
        (TEXT, 5, "logits are needed"),
        (3.0, 5, "logits are needed"),
        (mx.array([1, 2, 3]), 5, "floats"),
        (mx.zeros((2, 3, 4, 5)), 5, "of shape"),
        (mx.zeros((3, 0)), 5, "of shape"),
        (mx.array([0.0, mx.nan]), 1, "nan"),
        (mx.array([0.0, mx.inf]), 1, "inf"),
        (mx.zeros((5,)), 0, "k must be at least 1"),
        (mx.zeros((5,)), "a", "k=3"),
    ],
)
def test_what_is_refused(tiny, given, k, said):
    with pytest.raises(InputError, match=said):
        tiny.top(given, k)
