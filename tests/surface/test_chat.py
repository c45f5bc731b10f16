"""Messages go through the tokenizer's chat template, wherever a text is taken."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import (
    ChatError,
    InputError,
    KeywordError,
    NoChatTemplateError,
    NoTokenizerError,
)
from mlxgraph.trace.encoding import prompt_rows
from tests.models import same

MESSAGES = [{"role": "user", "content": "The capital of France is"}]
LONGER = [*MESSAGES, {"role": "assistant", "content": "Paris"}, {"role": "user", "content": "Rome"}]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
TEXT = "<|begin_of_text|>user: The capital of France is\nassistant:"


@pytest.fixture(scope="module")
def chat():
    model = mg.tiny()
    model.tokenizer.chat_template = TEMPLATE
    return model


def logits_of(model, *inputs, **kwargs):
    with model.trace(*inputs, **kwargs):
        return model.output.save()


def test_messages_are_the_text_of_the_template(chat):
    ids = chat.tokenizer.encode(TEXT, add_special_tokens=False)
    assert chat.encode(MESSAGES) == ids == chat.encode(TEXT)
    assert ids.count(chat.tokenizer.bos_token_id) == 1
    assert ids == chat.tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True)
    assert ids != chat.tokenizer.apply_chat_template(MESSAGES)  # without the answer's beginning
    expected = chat(mx.array([ids]))
    assert same(logits_of(chat, MESSAGES), expected)
    assert same(logits_of(chat, tuple(MESSAGES)), expected)
    assert not same(logits_of(chat, MESSAGES[0]["content"]), expected[:, :6], 1e-2)


def test_templated_text_gets_no_second_bos(chat):
    text = chat.tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    with chat.trace(text) as trace:
        pass
    assert trace.tokens.tolist() == [chat.encode(MESSAGES)]
    twice = chat.encode(text, add_special_tokens=True)
    assert twice == [chat.tokenizer.bos_token_id, *chat.encode(MESSAGES)]


def test_special_tokens_as_they_are_asked_for(chat):
    bos, text = chat.tokenizer.bos_token_id, "The capital"
    bare = chat.encode(text, add_special_tokens=False)
    assert chat.encode(text) == chat.encode(text, add_special_tokens=True) == [bos, *bare]
    assert chat.encode_batch([text, MESSAGES], False) == [bare, chat.encode(MESSAGES)]
    assert chat.encode(MESSAGES, add_special_tokens=False) == chat.encode(MESSAGES)
    with pytest.raises(InputError, match="Leave out add_special_tokens"):
        chat.encode(MESSAGES, add_special_tokens=True)


def test_conversations_are_a_batch_with_texts_among_them(chat):
    batch = [MESSAGES, LONGER, "The capital of Italy is"]
    logits = logits_of(chat, batch)
    assert logits.shape[0] == 3
    for row, one in enumerate(batch):
        assert same(logits[row, -1], logits_of(chat, one)[0, -1], 1e-4), one
    assert prompt_rows(batch, chat.tokenizer) == chat.encode_batch(batch)


def test_every_form_of_a_prompt_is_rows_of_ids(chat):
    ids = chat.encode(MESSAGES)
    for given in (MESSAGES, [MESSAGES], TEXT, ids, [ids], mx.array(ids), mx.array([ids])):
        assert prompt_rows(given, chat.tokenizer) == [ids]
    assert prompt_rows(mx.array([ids, ids]), None) == [ids, ids]
    for given in (None, 5, mx.array(5), mx.zeros((2, 2)), mx.array([True]), {"a": 1}):
        with pytest.raises(InputError):
            prompt_rows(given, chat.tokenizer)


GRAPH = mg.edit("layers.2.mlp", iv.zero_out) >> mg.read("layers.4", name="h")

WAYS = {
    "a call": lambda m, x: m(x),
    "a run": lambda m, x: m.run(GRAPH, x)["h"],
    "a compiled pass": lambda m, x: m.compile(GRAPH)(x)["h"],
    "a pass function": lambda m, x: m.pass_(lambda m: m.layers[1].output)(x),
    "an edited model": lambda m, x: m.edit(GRAPH)(x),
    "activations": lambda m, x: mg.get_activations(m, x, [1], positions=[0, -1])["layer_1"],
    "of a batch": lambda m, x: mg.batch_get_activations(m, [x, x], [1])["layer_1"],
    "collected": lambda m, x: mg.collect_activations(m, x, ["layers.1"])["layers.1"],
    "a lens": lambda m, x: mx.array([found[-1][0][1] for found in m.logit_lens(x).values()]),
    "patching": lambda m, x: mx.array(
        [*m.activation_patching(x, "The capital of Italy is", align="end").values()]
    ),
    "explained": lambda m, x: mx.array([*str(m.explain(GRAPH, x)).encode()]),
}


def invoked(model, prompt):
    with model.trace() as t:
        with t.invoke("The capital of Italy is"):
            pass
        with t.invoke(prompt):
            return model.output[0, -1].save()


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.thin(3)
def test_every_call_that_takes_a_text_takes_messages(chat, name):
    way = WAYS[name]
    found = way(chat, MESSAGES)
    assert same(found, way(chat, chat.encode(MESSAGES)))
    assert not mx.array_equal(found, way(chat, LONGER)).item()


def test_an_invoke_takes_messages(chat):
    assert same(invoked(chat, MESSAGES), invoked(chat, chat.encode(MESSAGES)))
    assert not same(invoked(chat, MESSAGES), invoked(chat, LONGER), 1e-2)


def test_a_model_called_in_a_block_takes_messages(chat):
    with chat.trace("The capital of Italy is"):
        inside = chat(MESSAGES).save()
    assert same(inside, chat(MESSAGES))


def test_a_tokenizer_of_transformers_alone_has_the_template_too(chat):
    model = mg.InterpretableModel(chat.module, tokenizer=chat.tokenizer._tokenizer)
    assert model.encode(MESSAGES) == chat.encode(MESSAGES)
    assert model.str_tokens(MESSAGES)[-1] == ":"


def test_the_place_of_a_part_of_a_message(chat):
    assert chat.str_tokens(MESSAGES)[chat.position(MESSAGES, " France")] == " France"
    assert chat.position(MESSAGES, "assistant:") == len(chat.encode(MESSAGES)) - 1


def test_options_of_a_template_are_for_the_tokenizer(chat):
    plain = chat.tokenizer.apply_chat_template(MESSAGES, tokenize=False)
    with chat.trace(plain) as trace:
        pass
    assert trace.tokens.shape[1] == len(chat.encode(MESSAGES)) - len(
        chat.encode("assistant:", False)
    )


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*WAYS, "encode", "str_tokens", "position"])
def test_without_a_template_messages_raise(tiny, name):
    ways = {
        **WAYS,
        "encode": lambda m, x: m.encode(x),
        "str_tokens": lambda m, x: m.str_tokens(x),
        "position": lambda m, x: m.position(x, " France"),
    }
    with pytest.raises(NoChatTemplateError, match="tokenizer.chat_template = "):
        ways[name](tiny, MESSAGES)


def test_without_a_tokenizer_messages_raise(llama):
    with pytest.raises(NoTokenizerError, match="list of messages"):
        logits_of(llama, MESSAGES)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (MESSAGES[0], r"\[message\]"),
        ([{"content": "Hello"}], "needs a 'role'"),
        ([*MESSAGES, "Hello"], "messages alone"),
        ([*MESSAGES, {"content": "Hello"}], "needs a 'role'"),
        (["Hello", MESSAGES[0]], "messages alone"),
    ],
)
def test_what_is_almost_messages_raises(chat, given, said):
    with pytest.raises(ChatError, match=said):
        logits_of(chat, given)
    with pytest.raises(ChatError, match=said):
        chat.encode(given)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("tools", "apply_chat_template"),
        ("enable_thinking", "apply_chat_template"),
        ("add_special_tokens", "add_special_tokens=False"),
        ("prepend_bos", "add_special_tokens=False"),
    ],
)
def test_an_option_of_the_template_or_the_tokenizer_is_sent_there(chat, option, said):
    with pytest.raises(KeywordError, match=said):
        chat.trace(MESSAGES, **{option: False})


def test_several_conversations_are_one_list(chat):
    with pytest.raises(InputError, match=r"model.trace\(\[a, b\]\)"):
        logits_of(chat, MESSAGES, LONGER)


def test_what_a_template_refuses_is_said():
    model = mg.tiny()
    model.tokenizer.chat_template = "{{ raise_exception('users only') }}"
    with pytest.raises(ChatError, match="users only") as caught:
        model.encode(MESSAGES)
    assert caught.value.__cause__ is not None
