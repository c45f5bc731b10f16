"""Law 26: a trace on an array, a list of ids, a text and a tokenizer's encoding are one trace."""

from __future__ import annotations

from collections import UserDict

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import InputError
from tests.models import same

TEXT = "The capital of France is"
TEXTS = ["Hello", TEXT, "The cat"]


class Encoding(UserDict):
    """What a tokenizer of transformers returns: a dict whose entries are attributes as well."""

    def __getattr__(self, name):
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(name) from None


class Encoded:
    """What a tokenizer of tokenizers returns."""

    def __init__(self, ids, mask):
        self._ids, self._mask = ids, mask

    @property
    def ids(self):
        return self._ids

    @property
    def attention_mask(self):
        return self._mask


def padded(rows, side):
    longest = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        gap = [0] * (longest - len(row))
        ids.append(gap + row if side == "left" else row + gap)
        mask.append(gap + [1] * len(row) if side == "left" else [1] * len(row) + gap)
    return {"input_ids": ids, "attention_mask": mask}


def one_text(tiny):
    ids = tiny.encode(TEXT)
    ones = [1] * len(ids)
    return {
        "a text": TEXT,
        "texts": [TEXT],
        "numpy's texts": np.array([TEXT]),
        "a list": ids,
        "a tuple": tuple(ids),
        "rows": [ids],
        "an array": mx.array([ids]),
        "one axis": mx.array(ids),
        "numpy, one axis": np.array(ids),
        "numpy, two axes": np.array([ids]),
        "numpy, small": np.array(ids, dtype=np.uint16),
        "numpy's numbers": list(np.array(ids)),
        "a list of arrays": [mx.array(ids)],
        "a list of numpy's arrays": [np.array(ids)],
        "an encoding": Encoding(input_ids=ids, attention_mask=ones),
        "an encoding of rows": Encoding(input_ids=[ids], attention_mask=[ones]),
        "an encoding of numpy": Encoding(
            input_ids=np.array([ids]), attention_mask=np.array([ones])
        ),
        "an encoding of arrays": Encoding(input_ids=mx.array([ids]), token_type_ids=[[0]]),
        "a dict": {"input_ids": [ids], "attention_mask": [ones]},
        "a padded dict": padded([ids], "left") | {"input_ids": [[0, 0, *ids]]}
        | {"attention_mask": [[0, 0, *ones]]},
        "tokenizers' encoding": Encoded(ids, ones),
        "the text with its first token": "<|begin_of_text|>" + TEXT,
    }  # fmt: skip


@pytest.mark.parametrize("name", list(one_text(mg.tiny())))
@pytest.mark.thin(4)
def test_every_form_of_one_text_is_one_trace(tiny, name):
    given = one_text(tiny)[name]
    graph = mg.edit("layers.2", iv.scale(0.5)) >> mg.read("layers.4", name="h")
    expected = tiny.run(graph, tiny.encode(TEXT))
    with tiny.trace(given, graph=graph) as trace:
        pass
    assert trace.tokens.tolist() == [tiny.encode(TEXT)] and trace.lengths == [6]
    assert same(trace.get("h"), expected["h"])
    assert same(tiny.run(graph, given)["h"], expected["h"])
    assert same(tiny.compile(graph)(given)["h"], expected["h"], 1e-5)
    assert same(tiny(given), tiny(mx.array([tiny.encode(TEXT)])))
    assert not same(tiny("The capital of Italy is"), tiny(given), 1e-2)
    with tiny.trace() as t, t.invoke(given, interventions={"layers.2": iv.scale(0.5)}):
        h = tiny.layers[4].output.save()
    assert same(h, expected["h"], 1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["dict", "encoding", "numpy", "tokenizers"])
def test_a_padded_encoding_is_its_texts(tiny, side, kind):
    found = padded([tiny.encode(text) for text in TEXTS], side)
    given = {
        "dict": found,
        "encoding": Encoding(found),
        "numpy": Encoding({k: np.array(v) for k, v in found.items()}),
        "tokenizers": [Encoded(*pair) for pair in zip(*found.values(), strict=True)],
    }[kind]
    with tiny.trace(TEXTS) as texts:
        expected = tiny.output.save()
    with tiny.trace(given) as trace:
        logits = tiny.output.save()
    assert same(logits, expected) and trace.lengths == texts.lengths == [2, 6, 3]
    assert trace.tokens.tolist() == texts.tokens.tolist()


def test_an_encoding_that_leaves_out_the_middle_raises(tiny):
    with pytest.raises(InputError, match="middle"):
        tiny.trace({"input_ids": [[1, 2, 3]], "attention_mask": [[1, 0, 1]]})
    with pytest.raises(InputError, match="shape"):
        tiny.trace({"input_ids": [[1, 2, 3]], "attention_mask": [[1, 1]]})


def test_the_analyses_take_an_encoding_too(tiny):
    found = padded([tiny.encode(text) for text in TEXTS], "right")
    one = {"input_ids": tiny.encode(TEXT)}
    by_text = mg.get_activations(tiny, TEXTS, layers=[1])["layer_1"]
    assert same(mg.get_activations(tiny, Encoding(found), layers=[1])["layer_1"], by_text)
    assert tiny.logit_lens(one, position=-1) == tiny.logit_lens(TEXT, position=-1)
    cache = mg.collect_activations(tiny, one, layers=["layers.1"])
    assert same(cache["layers.1"][:, -1], by_text[1:2], 1e-5)


def test_arrays_of_numbers_that_are_no_ids_keep_their_shape(chain):
    x = mx.arange(6, dtype=mx.float32)
    with chain.trace(x):
        out = chain.output.save()
    assert out.shape == (6,) and same(out, chain(x), 1e-6)


# -- the model on inputs of every kind -----------------------------------------------------------


def test_the_model_takes_what_its_edited_twin_takes(tiny):
    same_edit = tiny.edit(mg.edit("layers.1", iv.scale(1.0)))
    for given in (TEXT, TEXTS, tiny.encode(TEXT), np.array(tiny.encode(TEXT))):
        assert same(tiny(given), same_edit(given), 1e-5)


def test_the_model_on_a_cache_advances_it(tiny):
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(tiny.module)
    whole = tiny(TEXT)
    tiny(tiny.encode(TEXT)[:-1], cache=cache)
    assert same(tiny(tiny.encode(TEXT)[-1:], cache=cache)[:, -1], whole[:, -1], 1e-4)


# -- one first token -----------------------------------------------------------------------------


def test_text_that_begins_with_the_first_token_gets_no_second_one(tiny):
    first = tiny.tokenizer.bos_token
    ids = tiny.encode(TEXT)
    assert ids[0] == tiny.tokenizer.bos_token_id and ids[1] != ids[0], "the tokenizer adds one"
    assert tiny.encode(first + TEXT) == ids
    assert tiny.encode_batch([first + TEXT, TEXT]) == [ids, ids]
    assert tiny.encode(TEXT + first)[0] == ids[0] and tiny.encode(TEXT + first)[-1] == ids[0]
    assert tiny.encode(first + first + TEXT) == [ids[0], *ids], "what the text says twice is kept"


def test_a_tokenizer_without_a_first_token_is_asked_as_before():
    class Plain:
        def encode(self, text):
            return [ord(c) % 50 for c in text]

    class Named(Plain):
        bos_token = "<s>"

    for tokenizer in (Plain(), Named()):
        model = mg.InterpretableModel(mg.tiny().module, tokenizer)
        assert model.encode("<s>ab")[-2:] == [ord("a") % 50, ord("b") % 50]
