"""Tokens by their text: those of a text, a text that is one token, where a part of a text is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import mlxgraph as mg
from mlxgraph.errors import InputError, NoTokenizerError, TokenError, VocabularyError
from mlxgraph.tiny import WEIGHTS
from mlxgraph.trace.tokens import spans_of

TEXT = "The capital of France is"
TWICE = TEXT + " Paris. " + TEXT
ODD = "naïve 🎉 café"


class Slow:
    """A tokenizer that says nothing of characters."""

    def __init__(self, inner: Any):
        self._inner = inner
        self.bos_token = inner.bos_token

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return self._inner.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, tokens: list[int]) -> str:
        return self._inner.decode(tokens)


def pieces() -> PreTrainedTokenizerFast:
    """A tokenizer in SentencePiece's manner: words with the space before them, and letters."""
    words = "▁The ▁capital ▁of ▁France ▁is ▁Paris ▁ . ▁caf".split()
    letters = sorted({letter for letter in TWICE + "nfé" if letter.isalnum()})
    vocab = [("<unk>", 0.0), ("<s>", 0.0), *((word, -1.0) for word in words)]
    vocab += [(letter, -9.0) for letter in letters]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


def lowered() -> PreTrainedTokenizerFast:
    """A tokenizer that changes the text before it looks at it."""
    words = ["[unk]", "the", "capital", "of", "france", "is", "cafe"]
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, "[unk]"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[unk]")


def with_tokenizer(tokenizer: Any) -> mg.InterpretableModel:
    return mg.InterpretableModel(mg.tiny().module, tokenizer=tokenizer)


def test_a_tokenizer_of_tokenizers_alone():
    whole = mg.tiny()
    model = with_tokenizer(Tokenizer.from_file(str(WEIGHTS / "tokenizer.json")))
    assert model.encode(TEXT) == whole.encode(TEXT)
    assert model.encode(TEXT, add_special_tokens=False) == whole.encode(TEXT)[1:]
    assert model.str_tokens(TEXT)[1:] == whole.str_tokens(TEXT)[1:]
    assert model.position(TEXT, " France") == 4
    assert model.single_token(" Paris") == whole.single_token(" Paris")
    assert model.vocab_size == whole.vocab_size == 1014


@pytest.fixture(scope="module")
def slow():
    return with_tokenizer(Slow(mg.tiny().tokenizer))


# -- the tokens of a text ------------------------------------------------------------------------


def test_the_tokens_of_a_text_are_those_that_the_model_gets(tiny):
    tokens = tiny.str_tokens(TEXT)
    assert tokens == ["<|begin_of_text|>", "The", " capital", " of", " France", " is"]
    ids = tiny.encode(TEXT)
    for given in (ids, mx.array(ids), mx.array([ids]), np.array(ids), [TEXT], {"input_ids": ids}):
        assert tiny.str_tokens(given) == tokens
    assert tokens == [tiny.token_to_str(token) for token in ids]
    with tiny.trace(TEXT) as trace:
        pass
    assert len(tokens) == trace.tokens.shape[1]


def test_a_space_that_a_token_begins_with_is_part_of_it():
    model = with_tokenizer(pieces())
    assert model.str_tokens(TEXT) == [" The", " capital", " of", " France", " is"]
    assert model.tokenizer.decode([model.encode("Paris")[0]]) == "Paris"  # without its space
    assert model.token_to_str(model.encode("Paris")[0]) == " Paris"


def test_a_character_in_parts_shows_as_such(tiny):
    tokens = tiny.str_tokens(ODD)
    assert len(tokens) == len(tiny.encode(ODD))
    assert "\ufffd" in tokens and "ï" not in tokens


@pytest.mark.parametrize(
    "given", [5, None, [TEXT, TEXT], mx.zeros((2, 3)), mx.array([[1, 2], [3, 4]]), [-1, 2]]
)
def test_what_is_no_one_text_has_no_tokens(tiny, given):
    with pytest.raises(InputError):
        tiny.str_tokens(given)


# -- one token -----------------------------------------------------------------------------------


def test_a_single_token(tiny, slow):
    paris = tiny.single_token(" Paris")
    assert tiny.token_to_str(paris) == " Paris"
    assert paris == tiny.encode(" Paris")[-1] == slow.single_token(" Paris")
    assert tiny.single_token("<|begin_of_text|>") == tiny.tokenizer.bos_token_id
    assert tiny.single_token(" London") != paris


def test_a_single_token_where_the_tokenizer_puts_a_space_in_front_itself():
    model = with_tokenizer(pieces())
    assert model.single_token(" Paris") == model.single_token("Paris")
    assert model.token_to_str(model.single_token(" Paris")) == " Paris"


def test_several_tokens_are_told(tiny):
    with pytest.raises(TokenError, match=r"4 tokens: ' P', 'ar', 'is', 'ian'"):
        tiny.single_token(" Parisian")
    with pytest.raises(TokenError, match="begins with a space: ' dog'"):
        tiny.single_token("dog")
    with pytest.raises(TokenError, match="no tokens"):
        tiny.single_token("")
    with pytest.raises(InputError, match="one text"):
        tiny.single_token([" Paris"])


def test_without_a_tokenizer(llama):
    for call in (llama.str_tokens, llama.single_token, lambda text: llama.position(text, "a")):
        with pytest.raises(NoTokenizerError):
            call(TEXT)


# -- where a part of a text is -------------------------------------------------------------------


@pytest.mark.parametrize("part", [" France", "France", "of France", "ance", TEXT[: -len(" is")]])
def test_the_position_is_that_of_the_last_token(tiny, slow, part):
    for given in (TEXT, tiny.encode(TEXT), mx.array([tiny.encode(TEXT)])):
        assert tiny.position(given, part) == slow.position(given, part) == 4
        assert tiny.str_tokens(given)[4] == " France"
    assert tiny.position(TEXT, " of") == 3


def test_a_position_is_an_index(tiny):
    at = tiny.position(TEXT, " France")
    with tiny.trace(TEXT):
        h = tiny.layers[1].output
        one, whole = h[:, at].save(), h.save()
        h[:, at] = 0
        after = h.save()
    assert mx.array_equal(one, whole[:, 4]) and not mx.any(after[:, 4]).item()
    edited = tiny.run(mg.edit("layers.1", lambda h: h * 0, positions=at), TEXT)
    assert not mx.array_equal(edited.output, tiny(TEXT)).item()


def test_which_of_several(tiny, slow):
    firsts = [tiny.str_tokens(TWICE).index(" France")]
    firsts.append(tiny.str_tokens(TWICE).index(" France", firsts[0] + 1))
    for model in (tiny, slow):
        assert [model.position(TWICE, " France", occurrence=k) for k in (0, 1)] == firsts
        assert model.position(TWICE, " France", occurrence=-1) == firsts[1]
        with pytest.raises(
            TokenError, match=f"2 times, ending at positions {firsts[0]}, {firsts[1]}"
        ):
            model.position(TWICE, " France")
        with pytest.raises(TokenError, match="from 0 to 1"):
            model.position(TWICE, " France", occurrence=2)
        assert model.position(TWICE, " Paris. The capital of France") == firsts[1]
    assert tiny.position(TWICE, " Paris") == 6, "one alone needs no number"


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (" Spain", "not in the text"),
        ("france", "capitals count"),
        (" Fran", "inside the token ' France' at position 4"),
    ],
)
def test_a_part_that_is_no_part_raises(tiny, slow, part, said):
    for model in (tiny, slow):
        with pytest.raises(TokenError, match=said):
            model.position(TEXT, part)


@pytest.mark.parametrize("part", ["", 5, None, [" France"]])
def test_a_part_that_is_no_text_raises(tiny, part):
    with pytest.raises(InputError, match="part of the text"):
        tiny.position(TEXT, part)


def test_an_occurrence_that_is_no_number_raises(tiny):
    with pytest.raises(InputError, match="occurrence=-1"):
        tiny.position(TEXT, " of", occurrence="last")


def test_a_word_within_another_is_no_second_one(tiny):
    text = "The German is in Germany"
    tokens = tiny.str_tokens(text)
    assert tokens.count(" German") == 1 and text.count(" German") == 2
    assert tiny.position(text, " German") == tokens.index(" German")


def test_a_character_in_parts_is_at_the_last_of_them(tiny, slow):
    ids = tiny.encode(ODD)
    tokens = tiny.str_tokens(ODD)
    last = max(k for k in range(len(tokens)) if tokens[k] == "\ufffd" and k < tokens.index(" c"))
    for model in (tiny, slow):
        assert model.position(ODD, "🎉") == model.position(ids, "🎉") == last
        assert model.position(ODD, "naïve ") == tokens.index(" ")
        assert model.position(ODD, "é") == len(ids) - 1


def test_special_tokens_are_parts_of_the_text_where_they_are_written(tiny, slow):
    bos = tiny.tokenizer.bos_token
    for model in (tiny, slow):
        assert model.position(bos + TEXT, " France") == 4
        assert model.position(bos + TEXT, bos) == 0
        assert model.position(TEXT + bos + TEXT, bos + "The") == 7
        assert model.position(tiny.encode(TEXT), bos + "The") == 1
        with pytest.raises(TokenError, match="not in the text"):
            model.position(TEXT, bos)


def test_a_tokenizer_that_changes_the_text():
    model = with_tokenizer(lowered())
    assert model.position("The capital of France is", "France") == 3
    assert model.position("The  café of France", "café") == 1
    assert model.position("The capital of France is", " of") == 2, "a space of no token's"


def test_spaces_that_no_token_has():
    """As a byte-level tokenizer with `trim_offsets` has it: the next token's."""
    offsets = [(0, 0), (0, 3), (4, 11), (12, 14)]
    said = SimpleNamespace(ids=[0, 1, 2, 3], offsets=offsets, special_tokens_mask=[1, 0, 0, 0])
    fast = SimpleNamespace(encode=lambda text, add_special_tokens: said)
    tokenizer = SimpleNamespace(
        backend_tokenizer=fast, encode=lambda text, **_: [0, 1, 2, 3], bos_token="<s>"
    )
    spans = spans_of(tokenizer, "The capital of")
    assert spans.starts == [0, 0, 3, 11] and spans.ends == [0, 3, 11, 14]


def test_pieces_with_the_space_before_them():
    model = with_tokenizer(pieces())
    for part in (" France", "France", "of France"):
        assert model.position(TEXT, part) == 3
    assert model.position(model.encode(TEXT), "France") == 3
    assert with_tokenizer(Slow(pieces())).position(TEXT, " France") == 3


def test_tokens_that_are_not_those_of_the_model_are_not_believed():
    inner = mg.tiny().tokenizer
    changed = Slow(inner)
    changed.backend_tokenizer = inner.backend_tokenizer  # type: ignore[attr-defined]
    changed.encode = lambda text, add_special_tokens=True: [7, *inner.encode(text)]  # type: ignore
    assert with_tokenizer(changed).position(TEXT, " France") == 5


# -- ids outside the vocabulary ------------------------------------------------------------------


@pytest.mark.parametrize("token", [1014, -1, 10**6])
def test_an_id_outside_the_vocabulary_raises(tiny, token):
    for call in (tiny.trace, tiny, tiny.logit_lens):
        with pytest.raises(VocabularyError):
            with call([5, token]):
                pass


def test_a_position_is_the_same_token_in_a_batch_of_several_lengths(tiny):
    texts = [TEXT, "In the end Paris is the capital of France, and Rome of Italy"]
    at = [tiny.position(text, " France") for text in texts]
    assert at[0] != at[1]
    with tiny.trace(texts):
        h = tiny.layers[1].output
        columns = [h[k, p - len(tiny.encode(texts[k]))].save() for k, p in enumerate(at)]
    for k, text in enumerate(texts):
        with tiny.trace(text):
            alone = tiny.layers[1].output[0, at[k]].save()
        assert mx.allclose(columns[k], alone, atol=1e-5)
    graph = mg.edit("layers.1", lambda h: h * 0, positions=at[0])
    both = tiny.run(graph, texts).output
    for k, text in enumerate(texts):
        alone = tiny.run(graph, text).output[0]
        assert mx.allclose(both[k, -alone.shape[0] :], alone, atol=1e-3)
