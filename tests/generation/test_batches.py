"""Several prompts in one generation: each row equals its own run, whatever the others are."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph.errors import InputError, OptionError, PartOfTextError
from tests.architectures import configs
from tests.generation.prefixes import close, stream

ROWS = [[7, 21, 3, 18, 40, 5, 33], [9, 2, 44], [31], [12, 6, 27, 8, 19]]
COUNT = 5
TEXTS = ["The capital of France is", "The capital", "Mary and John went to the store and"]
ALWAYS = ("llama",)
SLOW = ("gemma3_text", "qwen3", "mixtral", "qwen3_next", "gpt2")
NAMES = configs.installed([*ALWAYS, *SLOW])


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=[] if n in ALWAYS else [pytest.mark.slow]) for n in NAMES],
)
def model(request: pytest.FixtureRequest) -> mg.InterpretableModel:
    return mg.InterpretableModel(configs.build(request.param))


def push(width: int) -> mx.array:
    return mx.linspace(-2.0, 3.0, width)


def everywhere(m: Any) -> None:
    h = stream(m)
    h += push(h.shape[-1])


def at_two(m: Any) -> None:
    h = stream(m)
    h[:, 2] *= -3.0


def newest(m: Any) -> None:
    h = stream(m)
    h[:, -1] += push(h.shape[-1])


def from_the_first(m: Any) -> None:
    h = stream(m)
    h[:, 3:] += 0.5 * stream(m, 0)[:, :1]


def scaled(m: Any) -> None:
    h = stream(m)
    h *= -2.0
    m.layers[0].mlp.output = mx.tanh(m.layers[0].mlp.output)


EDITS = [everywhere, at_two, newest, from_the_first]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
@pytest.mark.thin(3)
def test_each_row_equals_its_own_run(model: mg.InterpretableModel, edit: Any):
    with model.generate(ROWS, max_tokens=COUNT) as t:
        edit(model)
        h = stream(model).save("h")
        logits = model.output[:, -1].save("logits")
    for row, prompt in enumerate(ROWS):
        with model.generate(prompt, max_tokens=COUNT) as alone:
            edit(model)
            stream(model).save("h")
            model.output[:, -1].save("logits")
        assert t.tokens[row] == alone.tokens
        for name, values in (("h", h), ("logits", logits)):
            for step in alone.saved_values[name].steps:
                assert close(values[step][row], alone.saved_values[name][step])
    with model.generate(ROWS, max_tokens=1):
        plain = model.output[:, -1].save()
    assert not all(map(mx.array_equal, plain[0], logits[0]))


@pytest.mark.parametrize("options", [{}, {"prefill_step_size": 2}], ids=str)
def test_what_is_done_to_each_row_alike_is_done_at_once(one, options):
    with one.generate(ROWS, max_tokens=COUNT, **options) as t:
        scaled(one)
    alone = [one.generate(row, max_tokens=COUNT, graph=t.graph).tokens for row in ROWS]
    assert t.tokens == alone != one.generate(ROWS, max_tokens=COUNT).tokens


@pytest.mark.parametrize("options", [{"prefill_step_size": 2}, {"max_kv_size": 64}], ids=str)
def test_options_are_mlx_lms_own(one, options):
    with one.generate(ROWS, max_tokens=COUNT, **options) as t:
        at_two(one)
    assert t.tokens == [one.generate(row, max_tokens=COUNT, graph=t.graph).tokens for row in ROWS]


def test_without_edits_it_is_mlx_lms_batched_generation():
    import mlx_lm

    model = mg.tiny()
    ids = [model.encode(text) for text in TEXTS]
    theirs = mlx_lm.batch_generate(
        model.module, model.tokenizer, ids, max_tokens=6, return_token_ids=True
    )
    t = model.generate(TEXTS, max_tokens=6)
    ends = set(model.tokenizer.eos_token_ids)
    assert [[n for n in row if n not in ends] for row in t.tokens] == theirs.token_ids
    assert t.text == [model.generate(text, max_tokens=6).text for text in TEXTS]


def test_texts_end_each_at_its_own_time_and_saves_say_so():
    model = mg.tiny()
    with model.generate(TEXTS, max_tokens=8, stop="capital") as t:
        h = model.layers[2].output.save()
    alone = [model.generate(text, max_tokens=8, stop="capital") for text in TEXTS]
    assert t.tokens == [one.tokens for one in alone] and t.text == [one.text for one in alone]
    assert len({len(tokens) for tokens in t.tokens}) > 1
    for step in h.steps:
        there = [value is not None for value in h[step]]
        assert there == [step < len(tokens) for tokens in t.tokens]


def test_steps_and_the_stream_go_over_all_rows(one):
    with one.generate(ROWS, max_tokens=COUNT) as t:
        with t.step[2:]:
            everywhere(one)
        came = list(t.stream())
    assert [[step[row] for step in came] for row in range(len(ROWS))] == t.tokens
    assert list(t.stream()) == came
    for row, tokens in zip(ROWS, t.tokens, strict=True):
        assert one.generate(row, max_tokens=COUNT, graph=t.graph).tokens == tokens


def test_leaving_the_stream_keeps_what_came(one):
    with one.generate(ROWS, max_tokens=COUNT) as t:
        h = one.layers[1].output.save()
        for _ in t.stream():
            break
    assert [len(tokens) for tokens in t.tokens] == [1] * len(ROWS) and h.steps == (0,)


def test_a_model_whose_rows_are_not_those_of_single_runs_is_refused():
    mamba = mg.InterpretableModel(configs.build("mamba"))
    with pytest.raises(InputError, match="not those of single runs"):
        list(mamba.generate(ROWS, max_tokens=2).stream())
    same = [ROWS[0], ROWS[0][::-1]]
    found = mamba.generate(same, max_tokens=4).tokens
    assert found == [mamba.generate(row, max_tokens=4).tokens for row in same]


def test_a_list_of_one_prompt_is_a_list(one):
    tiny = mg.tiny()
    assert tiny.generate(TEXTS[:1], max_tokens=3).text == [
        tiny.generate(TEXTS[0], max_tokens=3).text
    ]
    assert one.generate([ROWS[0]], max_tokens=3).tokens == [
        one.generate(ROWS[0], max_tokens=3).tokens
    ]
    row = mx.array([ROWS[0]])
    assert one.generate(row, max_tokens=3).tokens == one.generate(ROWS[0], max_tokens=3).tokens


def test_what_a_batch_cannot_do_says_so(one):
    with pytest.raises(OptionError, match="several prompts"):
        one.generate(ROWS, kv_bits=8)
    with pytest.raises(OptionError, match="compile"):
        one.generate(ROWS, compile=True)
    with pytest.raises(PartOfTextError, match="texts of a batch"):
        with one.generate(ROWS, max_tokens=2):
            one.layers[1].self_attn.pattern.save()
    with pytest.raises(InputError):
        one.generate([ROWS[0], []], max_tokens=2)
