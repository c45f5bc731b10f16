"""A compiled step gives what the step gives in Python; where it does not, it is not used."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.run import compiled_step
from tests import models
from tests.architectures import configs
from tests.generation.prefixes import close

PROMPT = [7, 21, 3, 18, 40, 5, 33]
COUNT = 12
NAMES = configs.installed(["llama", "qwen3", "gemma2", "gpt2", "phi3", "mixtral", "deepseek_v3"])
ALWAYS = ("llama", "gpt2")


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the steps that were made compiled."""
    found: list[int] = []
    take = compiled_step.CompiledStep.take

    def counted(self: Any, *args: Any) -> Any:
        found.append(1)
        return take(self, *args)

    monkeypatch.setattr(compiled_step.CompiledStep, "take", counted)
    return found


def stream(m: Any) -> Any:
    value = m.layers[1].output
    while not isinstance(value, mx.array):
        value = value[0]
    return value


def run(model: Any, compile: bool, prompt: Any = None, count: int = COUNT) -> Any:
    with model.generate(prompt or PROMPT, max_tokens=count, compile=compile) as t:
        h = stream(model)
        h[:, 2] *= 0.0
        with t.step[2:]:
            h = stream(model)
            h += mx.linspace(-1.0, 2.0, h.shape[-1])
        saved = stream(model).save()
        model.output[:, -1].save("logits")
    return t, saved


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in ALWAYS else [pytest.mark.slow]) for n in NAMES],
)
def test_compiled_equals_python(name: str, used: list[int]):
    model = mg.InterpretableModel(configs.build(name))
    plain, values = run(model, False)
    assert not used
    t, found = run(model, True)
    assert len(used) > 5
    assert t.tokens == plain.tokens
    for a, b in zip(found, values, strict=True):
        assert close(a, b, 1e-3)
    for a, b in zip(t.saved_values["logits"], plain.saved_values["logits"], strict=True):
        assert close(a, b, 1e-3)


def test_the_caches_grow_and_are_left_as_mlx_lm_leaves_them(used: list[int]):
    from mlx_lm.models.cache import make_prompt_cache

    model = mg.InterpretableModel(models.make_llama())
    prompt = [k % 50 for k in range(240)]
    plain, values = run(model, False, prompt, 40)
    t, found = run(model, True, prompt, 40)
    assert 30 < len(used) < 40  # a step in Python where they grow, and one to compare with
    assert t.tokens == plain.tokens
    assert all(close(a, b, 1e-3) for a, b in zip(found, values, strict=True))

    caches = [make_prompt_cache(model.module) for _ in range(2)]
    for cache, compile in zip(caches, (False, True), strict=True):
        with model.generate(PROMPT, max_tokens=8, prompt_cache=cache, compile=compile):
            model.layers[0].output *= 0.5
    for one, other in zip(*caches, strict=True):
        assert one.offset == other.offset
        assert close(one.state[0][:, :, : one.offset], other.state[0][:, :, : one.offset], 1e-3)


class Blind(nn.Module):
    """An attention that takes all that its cache gives for filled."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.layers = [nn.Linear(16, 16)]

    def __call__(self, x: mx.array, cache: Any = None) -> mx.array:
        h = self.embed(x)
        q, k, v = (part(h)[:, None] for part in (self.q, self.k, self.v))
        if cache is not None:
            k, v = cache[0].update_and_fetch(k, v)
        weights = mx.softmax(q @ k.swapaxes(-1, -2), axis=-1)
        if x.shape[1] > 1:
            weights = mx.softmax(q @ k.swapaxes(-1, -2) + self.causal(q, k), axis=-1)
        return self.embed.as_linear(self.layers[0](h + (weights @ v)[:, 0]))

    def causal(self, q: mx.array, k: mx.array) -> mx.array:
        rows = mx.arange(k.shape[2])[-q.shape[2] :, None]
        return mx.where(mx.arange(k.shape[2])[None] <= rows, 0.0, -1e9)


def test_a_step_that_would_give_another_result_is_not_used(used: list[int]):
    module = Blind()
    mx.eval(module.parameters())
    model = mg.InterpretableModel(module)

    def tokens(compile: bool) -> list[int]:
        with model.generate(PROMPT, max_tokens=COUNT, compile=compile) as t:
            model.layers[0].output *= 3.0
        return t.tokens

    assert tokens(True) == tokens(False) and not used


def test_other_caches_stay_in_python(used: list[int]):
    from mlx_lm.models.cache import RotatingKVCache

    model = mg.InterpretableModel(models.make_llama())

    def rotating() -> list[Any]:
        return [RotatingKVCache(9, keep=4) for _ in model.layers]

    with model.generate(PROMPT, max_tokens=COUNT, compile=True, prompt_cache=rotating()) as t:
        model.layers[0].output *= 3.0
    plain = model.generate(PROMPT, max_tokens=COUNT, graph=t.graph, prompt_cache=rotating())
    assert t.tokens == plain.tokens and not used


def test_what_cannot_be_compiled_stays_in_python(used: list[int]):
    model = mg.InterpretableModel(models.make_llama())
    mx.random.seed(1)
    with model.generate(PROMPT, max_tokens=COUNT, compile=True) as t:
        h = model.layers[0].output
        h += 0.1 * mx.random.normal(h.shape)
    mx.random.seed(1)
    assert t.tokens == model.generate(PROMPT, max_tokens=COUNT, graph=t.graph).tokens
    with model.generate(PROMPT, max_tokens=COUNT, compile=True) as t:
        model.layers[1].self_attn.heads[:, 2] = 0.0
    assert t.tokens == model.generate(PROMPT, max_tokens=COUNT, graph=t.graph).tokens
    assert not used
