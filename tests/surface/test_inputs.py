"""What `model.trace` takes: text, texts, token arrays, lists of ids, float arrays."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import InputError, NoTokenizerError
from tests.models import same

TEXT = "The capital of France is"


def logits_of(model, *inputs):
    with model.trace(*inputs):
        return model.output.save()


def test_text_ids_and_arrays_are_one_input(tiny):
    ids = tiny.encode(TEXT)
    expected = tiny(mx.array([ids]))
    pieces = [mx.array(ids[0]), *map(np.array, ids[1:])]  # as argmax gives them, one by one
    for given in (TEXT, [TEXT], ids, [ids], mx.array([ids]), np.array([ids]), pieces):
        assert same(logits_of(tiny, given), expected, 1e-5), type(given)
    assert not same(logits_of(tiny, "The capital of Italy is"), expected, 1e-2)


def test_tokens_and_lengths_say_what_ran(tiny):
    with tiny.trace(["Hello", TEXT]) as trace:
        pass
    assert trace.lengths == [2, 6]
    assert trace.tokens.shape == (2, 6)
    assert trace.tokens[1].tolist() == tiny.encode(TEXT)
    assert trace.tokens[0, 4:].tolist() == tiny.encode("Hello"), "padding is on the left"


def test_float_arrays_for_custom_models(chain, x):
    assert same(logits_of(chain, x), chain(x), 1e-6)
    assert same(logits_of(chain, np.array(x)), chain(x), 1e-6)


def test_text_without_a_tokenizer_is_a_value_error(llama):
    with pytest.raises(NoTokenizerError, match="tokenizer="):
        logits_of(llama, "text")
    with pytest.raises(ValueError, match="tokenizer"):
        logits_of(llama, ["a", "b"])


def test_an_array_without_tokens_is_said_to_be_one(tiny, llama):
    for model in (tiny, llama):
        with pytest.raises(InputError, match="no tokens"):
            logits_of(model, mx.zeros((1, 0), mx.int32))
    with pytest.raises(InputError, match="no tokens"):
        tiny.generate(mx.zeros((0,), mx.int32))


def test_a_list_of_one_array_is_a_list_of_prompts_to_generate_from(tiny):
    ids = mx.array(tiny.encode(TEXT))
    assert tiny.generate([ids], max_tokens=1).text == [tiny.generate(ids, max_tokens=1).text]


@pytest.mark.parametrize("given", [[], ["a", 1], [[1, 2], []]])
def test_what_is_no_input_raises(tiny, given):
    with pytest.raises(InputError):
        logits_of(tiny, given)


# -- the tokenizer -------------------------------------------------------------------------------


def test_the_tokenizer_helpers_agree(tiny):
    ids = tiny.encode(TEXT)
    assert ids[0] == 0 and all(isinstance(token, int) for token in ids)
    assert tiny.decode(ids) == tiny.decode(mx.array(ids)) == "<|begin_of_text|>" + TEXT
    assert "".join(tiny.token_to_str(token) for token in ids) == tiny.decode(ids)
    assert tiny.encode_batch([TEXT, "Hello"]) == [ids, tiny.encode("Hello")]
    assert tiny.vocab_size == 1014
    assert tiny.tokenizer.decode(ids) == tiny.decode(ids)


def test_a_continued_token_sequence_runs(tiny):
    ids = tiny.encode("The capital of")
    ids.extend(tiny.encode(" France is")[1:])
    assert tiny.decode(ids).endswith(TEXT)
    assert same(logits_of(tiny, ids), logits_of(tiny, TEXT), 1e-5)


def test_without_a_tokenizer_they_raise(llama):
    assert llama.tokenizer is None and llama.vocab_size is None
    calls = [
        lambda: llama.encode("a"),
        lambda: llama.decode([1]),
        lambda: llama.encode_batch(["a"]),
        lambda: llama.token_to_str(1),
    ]
    for call in calls:
        with pytest.raises(NoTokenizerError):
            call()


# -- construction --------------------------------------------------------------------------------


def test_a_string_that_names_no_model_is_a_value_error(tmp_path):
    with pytest.raises(ValueError, match="cannot load"):
        mg.InterpretableModel(str(tmp_path))


def test_a_wrong_layer_attribute_is_an_attribute_error(llama):
    with pytest.raises(AttributeError, match="layer_attr="):
        mg.InterpretableModel(llama.module, layer_attr="transformer")


def test_layers_are_counted_indexed_and_iterated(llama):
    assert len(llama.layers) == 3
    assert [layer.path for layer in llama.layers] == [f"model.layers.{n}" for n in range(3)]
    assert llama.layers[-1].path == llama.layers[2].path
    names = dict(llama.named_modules())
    assert names["model.layers.1.mlp"] is llama.layers[1].mlp.module
    assert sum(p.size for p in llama.parameters().values()) > 1000
