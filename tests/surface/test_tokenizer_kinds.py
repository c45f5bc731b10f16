"""Tokenizers of many kinds: what begins a text, what is in no vocabulary, spaces of no token.

The reference is the tokenizer itself, asked without its special tokens.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

import mlxgraph as mg
from mlxgraph.errors import ChatError, InputError, TokenError

TEXT = "The capital of France is Paris.\n\nThe capital of Italy is"
CORPUS = [TEXT] * 3 + ["naïve 🎉 café", "the quick brown fox"]
SPECIAL = ["<s>", "</s>", "<pad>"]


def bytes_of_text(trim: bool = False, around: str = "<s> $A") -> Tokenizer:
    """Byte-level BPE; `around` is what it adds to a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<extra>", lstrip=True, rstrip=True)])
    ends = processors.TemplateProcessing(single=around, special_tokens=[("<s>", 0), ("</s>", 1)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=trim), ends])
    return tokenizer


def words(lower: bool) -> Tokenizer:
    """WordPiece, as BERT has it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def of_transformers(tokenizer: Tokenizer, **names: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


class OfItsOwn:
    """A tokenizer that cannot be told to add nothing."""

    bos_token = "<s>"

    def __init__(self, adds: bool = True):
        self._inner, self._adds = bytes_of_text(around="$A"), adds

    def encode(self, text: str) -> list[int]:
        return [0] * self._adds + self._inner.encode(text).ids

    def decode(self, ids: list[int]) -> str:
        return self._inner.decode(ids, skip_special_tokens=False)


BERT = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
KINDS = {
    "named": lambda: of_transformers(bytes_of_text(), bos_token="<s>"),
    "wrapped": lambda: TokenizerWrapper(of_transformers(bytes_of_text(), bos_token="<s>")),
    "unnamed": lambda: of_transformers(bytes_of_text()),
    "unnamed, with an end": lambda: of_transformers(bytes_of_text(around="<s> $A </s>")),
    "of tokenizers": bytes_of_text,
    "words": lambda: of_transformers(words(True), **BERT),
    "of its own": OfItsOwn,
}  # fmt: skip


def model_of(tokenizer: Any) -> mg.InterpretableModel:
    return mg.InterpretableModel(mg.tiny().module, tokenizer=tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_begins_with_the_first_token_gets_no_second(kind: str):
    model = model_of(KINDS[kind]())
    written = "[CLS]" if kind == "words" else "<s>"
    first = model.encode("The capital")[0]
    bare = model.encode("The capital", add_special_tokens=False)
    assert bare[0] != first
    assert model.encode(written + "The capital") == [first, *bare]
    assert model.encode(written + "The capital", add_special_tokens=False) == [first, *bare]
    with model.trace(written + "The capital") as t:
        pass
    assert t.tokens.tolist() == [[first, *bare]]
    assert model.position(written + "The capital", "The") == model.position("The capital", "The")


def test_a_token_that_a_text_begins_with_twice_is_the_texts_own():
    model = model_of(of_transformers(bytes_of_text(around="$A </s>")))
    twice = model.encode("aab")
    assert twice[0] == twice[1] and twice[-1] == 1
    assert twice[:-1] == model.encode("aab", add_special_tokens=False)
    plain = model_of(OfItsOwn(adds=False))
    assert plain.encode("<s><s>The") == plain.encode("<s><s>The", add_special_tokens=False)
    assert plain.encode("<s><s>The")[:2] == [0, 0] != plain.encode("<s>The")[:2]


def test_padding_that_a_tokenizer_adds_is_no_part_of_a_text():
    tokenizer = bytes_of_text()
    ids = model_of(tokenizer).encode(TEXT)
    tokenizer.enable_padding(length=100, pad_id=2, pad_token="<pad>")
    padded = model_of(tokenizer)
    assert padded.encode(TEXT) == ids and len(tokenizer.encode(TEXT).ids) == 100
    assert padded.position(TEXT, " Italy") == padded.position(ids, " Italy")


def test_spaces_before_a_comma_are_not_taken_away():
    corrupting = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    options = {"clean_up_tokenization_spaces": True, corrupting: True}
    model = model_of(of_transformers(bytes_of_text(around="$A"), **options))
    text = "The capital , of France !"
    assert "".join(model.str_tokens(text)) == text
    for part in (" ,", " !", " France"):
        assert model.position(model.encode(text), part) == model.position(text, part)


def test_special_tokens_have_their_text_in_every_kind():
    for kind in ("named", "of tokenizers"):
        assert model_of(KINDS[kind]()).str_tokens("The")[0] == "<s>"


@pytest.mark.parametrize("lower", [True, False])
def test_a_text_that_is_not_in_the_vocabulary_is_no_token(lower: bool):
    for tokenizer in (words(lower), of_transformers(words(lower), **BERT)):
        model = model_of(tokenizer)
        for text in ("☃", " ☃☃"):
            with pytest.raises(TokenError, match=r"not in the vocabulary: it becomes '\[UNK\]'"):
                model.single_token(text)
        assert model.single_token("[UNK]") == 0
        assert model.single_token("capital") == model.single_token(" capital") > 2


def test_a_letter_before_which_the_tokenizer_puts_a_space_is_one_token():
    """The space is a token by itself there, and its id is no answer."""
    vocab = [("<unk>", 0.0), ("▁", -1.0), ("▁Paris", -1.0), ("é", -1.0), ("日", -1.0), ("本", -1.0)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    model = model_of(of_transformers(tokenizer, unk_token="<unk>"))
    assert tokenizer.encode("é").ids == [1, 3]
    assert (model.single_token("é"), model.single_token("Paris")) == (3, 2)
    with pytest.raises(TokenError, match=r"add_special_tokens=False\)\[1\]") as told:
        model.single_token("日本")
    assert "begins with a space" not in str(told.value)  # with one it is three tokens too
    with pytest.raises(TokenError):  # positive control: of this one the space is a part
        model.single_token(" é")


@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("part", ["\n\n", ".\n\n", "Paris.\n", " Paris", " Italy is"])
def test_spaces_and_line_breaks_have_positions(trim: bool, part: str):
    """With `trim_offsets` the tokenizer says of no token that it is of spaces."""
    model = model_of(of_transformers(bytes_of_text(trim), bos_token="<s>"))
    found = model.position(TEXT, part)
    assert found == model.position(model.encode(TEXT), part)
    assert found == model_of(of_transformers(bytes_of_text(), bos_token="<s>")).position(TEXT, part)
    assert "".join(model.str_tokens(TEXT)[1 : found + 1]).endswith(part)


def test_what_comes_after_the_last_token_has_no_position():
    model = model_of(of_transformers(words(True), **BERT))
    with pytest.raises(TokenError, match="after the last token"):
        model.position("the capital\n\n", "\n\n")
    assert model.position("the capital\n\n", "capital") == 2


# -- messages that a template would write as something else ---------------------------------------

PLAIN = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
OF_PARTS = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}"
)
PARTS = [{"type": "text", "text": "Hello"}]


def chat(template: str) -> mg.InterpretableModel:
    model = mg.tiny()
    model.tokenizer.chat_template = template
    return model


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "user", "contents": "Hello"}, "no 'content', but 'role', 'contents'"),
        ({"role": "user"}, "no 'content'"),
        ({"role": "user", "content": None}, "is None, and the chat template makes nothing of it"),
        ({"role": "user", "content": PARTS}, "would write this list as Python does"),
        ({"role": "user", "content": 5}, "would write this int"),
    ],
)
def test_a_message_that_a_template_writes_as_it_is_not_meant(message: dict, said: str):
    with pytest.raises(ChatError, match=said):
        chat(PLAIN).encode([{"role": "user", "content": "Hello"}, message])


def test_a_refused_message_without_a_text_is_named():
    model = chat("{% for m in messages %}{{ 'x' + m['content'] }}{% endfor %}")
    hello = {"role": "user", "content": "Hello"}
    with pytest.raises(ChatError, match="Message 1 has a list as its content: write"):
        model.encode([hello, {"role": "user", "content": PARTS}])
    assert model.encode([hello])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (OF_PARTS, {"role": "user", "content": PARTS}),
        (PLAIN, {"role": "user", "content": ""}),
        (PLAIN, {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}),
        ("{% for m in messages %}{{ m.text }}{% endfor %}", {"role": "user", "text": "Hello"}),
    ],
)
def test_a_message_that_a_template_knows(template: str, message: dict):
    assert chat(template).encode([message, message])


WITHOUT_SYSTEM = (
    "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}"
)
OF_PARTS_ALONE = (
    "{% for m in messages %}<{% for part in m.content %}{{ part.text }}{% endfor %}>{% endfor %}"
)
OF_TEXT_ALONE = (
    "{% for m in messages %}<{% if m.content is string %}{{ m.content }}{% endif %}>{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "role", "content"),
    [
        (WITHOUT_SYSTEM, "system", "Be brief"),
        (OF_PARTS_ALONE, "user", "Hello"),
        (OF_TEXT_ALONE, "user", PARTS),
        ("", "user", "Hello"),
    ],
)
def test_a_message_that_a_template_leaves_out_is_refused(template: str, role: str, content: Any):
    model = chat(template)
    given = [{"role": role, "content": content}, {"role": "user", "content": ""}]
    for call in (model.encode, model, lambda x: model.position(x, "<"), model.logit_lens):
        with pytest.raises(ChatError, match=f"leaves out message 0, of role '{role}'"):
            call(given)


@pytest.mark.parametrize(
    ("template", "content", "text"),
    [
        ("{{ messages[0].content | trim }}", "  Hello\n", "Hello"),
        ("{{ messages[0].content.split('</think>')[-1] }}", "<think>a</think>Hello", "Hello"),
        ("{{ messages[0].content | upper }}", "Hello", "HELLO"),
        (OF_PARTS_ALONE, PARTS, "<Hello>"),
        (OF_TEXT_ALONE, "", "<>"),
        (OF_PARTS_ALONE, [{"type": "image"}], "<>"),
    ],
)
def test_a_message_that_a_template_changes_is_one(template: str, content: Any, text: str):
    model = chat(template)
    given = [{"role": "user", "content": content}]
    assert model.encode(given) == model.encode(text, add_special_tokens=False)


def test_logits_of_which_none_is_possible(tiny: mg.InterpretableModel):
    for logits in (mx.full((5,), -mx.inf), mx.array([0.0, mx.inf]), mx.array([0.0, mx.nan])):
        with pytest.raises(InputError, match="no number"):
            tiny.top(logits)
    assert tiny.top(mx.array([-mx.inf, 0.0]))[0].probability == 1


# -- columns of tables ----------------------------------------------------------------------------


def test_an_array_of_texts_is_a_list_of_them():
    model = chat(PLAIN)
    conversation = [{"role": "user", "content": "Hello"}]
    for given in (["The capital", "Rome is"], conversation, [conversation, conversation]):
        for column in (np.array(given, dtype=object), np.array(given)):
            assert mx.array_equal(model(column), model(given))
            found, wanted = (
                mg.get_activations(model, one, [1])["layer_1"] for one in (column, given)
            )
            assert mx.array_equal(found, wanted)
    for column in (np.array([b"The"]), np.array([object()]), np.array("2020", "datetime64")):
        with pytest.raises(InputError):
            model(column)
