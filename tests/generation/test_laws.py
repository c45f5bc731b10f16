"""Laws 14 and 27 of a generation: a forward on a part of the text does there what the whole text's
does, whatever the chunks, the caches and the architecture."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

import mlxgraph as mg
from tests.architectures import configs
from tests.generation.prefixes import close, plain_tokens, reference, stream

PROMPT = [7, 21, 3, 18, 40, 5, 33]
LENGTH = len(PROMPT)
COUNT = 6
ALWAYS = ("llama", "gemma3_text", "mamba")
SLOW = ("gpt2", "gemma2", "qwen3", "mixtral", "deepseek_v3", "gpt_oss", "lfm2", "olmo2", "phi3")
NAMES = configs.installed([*ALWAYS, *SLOW])


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=[] if n in ALWAYS else [pytest.mark.slow]) for n in NAMES],
)
def model(request: pytest.FixtureRequest) -> mg.InterpretableModel:
    return mg.InterpretableModel(configs.build(request.param))


def push(width: int) -> mx.array:
    return mx.linspace(-1.0, 2.0, width)


def everywhere(m: Any, prompt: int, length: int) -> None:
    h = stream(m)
    h += push(h.shape[-1])


def scaled(m: Any, prompt: int, length: int) -> None:
    h = stream(m)
    h *= 0.25
    h[..., 3] = 0.0


def at(position: int) -> Any:
    def edit(m: Any, prompt: int, length: int) -> None:
        if position < length:
            h = stream(m)
            h[:, position] += 3.0 * push(h.shape[-1])

    edit.__name__ = f"at_{position}"
    return edit


def from_two(m: Any, prompt: int, length: int) -> None:
    h = stream(m)
    h[:, 2:] += push(h.shape[-1])


def in_a_row(m: Any, prompt: int, length: int) -> None:
    h = stream(m)
    h[:, [1, 4]] = 0.0
    h[:, 2:4] *= push(h.shape[-1])


def copied(m: Any, prompt: int, length: int) -> None:
    """A position that comes later is given what an earlier one had, in another forward."""
    source = stream(m, 0)[:, 2]
    h = stream(m)
    if length > 5:
        h[:, 5] = source


def by_an_array(m: Any, prompt: int, length: int) -> None:
    """Of positions that are an array's numbers, some of them to come."""
    h = stream(m)
    there = [p for p in (1, LENGTH + 1, LENGTH + 3) if p < length]
    h[:, mx.array(there)] = 0.0


EDITS = [
    by_an_array,
    everywhere,
    scaled,
    at(0),
    at(2),
    at(LENGTH - 1),
    at(LENGTH + 2),
    from_two,
    in_a_row,
    copied,
]
CHUNKS = [{}, {"prefill_step_size": 2}, {"prefill_step_size": 3}]


def generated(m: Any, edit: Any, **options: Any) -> tuple[list[int], list[mx.array]]:
    with m.generate(mx.array(PROMPT), max_tokens=COUNT, **options) as t:
        edit(m, LENGTH, LENGTH + COUNT - 1)
        logits = m.output[:, -1].save()
    return t.tokens, [logits[k][0] for k in range(COUNT)]


def test_without_edits_the_tokens_are_mlx_lms_own(model: mg.InterpretableModel):
    plain, logprobs = plain_tokens(model, PROMPT, COUNT)
    assert model.generate(PROMPT, max_tokens=COUNT).tokens == plain
    tokens, logits = generated(model, lambda *_: None)
    assert tokens == plain
    for mine, theirs in zip(logits, logprobs, strict=True):
        assert mx.array_equal(mine - mx.logsumexp(mine, keepdims=True), theirs)
    assert not close(generated(model, everywhere)[1][0], logits[0])


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
@pytest.mark.thin(4)
def test_an_edit_is_that_of_the_whole_text_traced_at_each_step(
    model: mg.InterpretableModel, edit: Any
):
    tokens, wanted = reference(model, PROMPT, COUNT, edit)
    found, logits = generated(model, edit)
    assert found == tokens
    for mine, theirs in zip(logits, wanted, strict=True):
        assert close(mine, theirs[-1])
    _, plain = reference(model, PROMPT, COUNT, lambda *_: None)
    assert not all(mx.array_equal(a, b) for a, b in zip(wanted, plain, strict=True))


@pytest.mark.parametrize("options", CHUNKS, ids=str)
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
@pytest.mark.thin(4)
def test_a_prompt_in_chunks_is_the_prompt_in_one(
    one: mg.InterpretableModel, edit: Any, options: dict[str, Any]
):
    tokens, wanted = reference(one, PROMPT, COUNT, edit)
    found, logits = generated(one, edit, **options)
    assert found == tokens
    for mine, theirs in zip(logits, wanted, strict=True):
        assert close(mine, theirs[-1])
