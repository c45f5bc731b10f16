"""Every architecture of mlx-lm is generated from under edits, as on the whole text."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlxgraph as mg
from tests.architectures import configs, parts
from tests.generation.prefixes import close, plain_tokens, reference
from tests.generation.test_laws import at, everywhere

PROMPT = [7, 21, 3, 18, 40, 5, 33]
COUNT = 3
QUICK = ("llama", "gpt_oss", "gemma4_text")
OTHERWISE = ("gemma3n", "plamo3")  # mlx-lm's own forwards with a cache differ from the whole one
NAMES = [n for n in configs.installed(configs.KNOWN.split()) if n not in parts.NO_CALLS]


def logits(model: mg.InterpretableModel, edit, count: int = COUNT):
    with model.generate(PROMPT, max_tokens=count) as t:
        edit(model, len(PROMPT), len(PROMPT) + count)
        found = model.output[:, -1].save()
    return t.tokens, [value[0] for value in found]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in NAMES]
)
def test_it_is_generated_from_under_edits(name: str):
    model = mg.InterpretableModel(configs.build(name))
    plain, logprobs = plain_tokens(model, PROMPT, COUNT)
    tokens, found = logits(model, lambda *_: None)
    assert tokens == plain
    for mine, theirs in zip(found, logprobs, strict=True):
        assert mx.array_equal(mine - mx.logsumexp(mine, keepdims=True), theirs)
    if name in OTHERWISE:
        return
    for edit in (everywhere, at(2)):
        _, wanted = reference(model, PROMPT, COUNT, edit)
        _, edited = logits(model, edit)
        for mine, theirs in zip(edited, wanted, strict=True):
            assert close(mine, theirs[-1], 1e-3)
    assert not close(logits(model, everywhere)[1][0], found[0], 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", configs.installed(OTHERWISE))
def test_the_reason_to_leave_one_out_still_holds(name: str):
    model = mg.InterpretableModel(configs.build(name))
    _, whole = reference(model, PROMPT, COUNT, lambda *_: None)
    _, cached = logits(model, lambda *_: None)
    assert not all(close(a, b[-1], 1e-3) for a, b in zip(cached, whole, strict=True))
