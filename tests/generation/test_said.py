"""What a generation says to who takes it for something else, and weights that change within one."""

from __future__ import annotations

import traceback
from typing import Any

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import (
    InputError,
    MLXGraphError,
    OperationError,
    PartOfTextError,
    UnboundParamError,
)
from tests import models
from tests.generation.prefixes import plain_tokens

PROMPT = [7, 21, 3, 18, 40, 5, 33]


@pytest.fixture
def model() -> mg.InterpretableModel:
    return mg.InterpretableModel(models.make_llama())


def test_a_loop_over_steps_or_over_a_generation_says_what_to_write(model):
    with pytest.raises(InputError, match=r"with t\.iter"):
        with model.generate(PROMPT, max_tokens=3) as t:
            for _ in t.iter[0:2]:
                model.layers[1].output *= 0.5
    with pytest.raises(OperationError, match="stream") as raised:
        list(model.generate(PROMPT, max_tokens=3))
    assert traceback.extract_tb(raised.value.__traceback__)[-1].filename == __file__


def test_a_param_without_a_value_is_asked_for_as_a_generation_takes_it(model):
    graph = mg.edit("layers.1", iv.scale(mg.param("alpha")))
    with pytest.raises(UnboundParamError, match=r"model\.generate\(prompt, params="):
        model.generate(PROMPT, max_tokens=2, graph=graph).tokens  # noqa: B018
    assert len(model.generate(PROMPT, max_tokens=2, graph=graph, params={"alpha": 2.0}).tokens) == 2


@pytest.mark.parametrize("start", [6, 7, 8, 11])
def test_positions_from_any_on_are_edited_in_a_module(model, start):
    """Recorded on a text that ends at `start`, they would be one position and no more."""
    push = mx.linspace(-1.0, 2.0, 32)

    def edit() -> None:
        model.layers[1].output[:, start:] += push

    with model.edit() as edited:
        edit()
    with model.generate(PROMPT, max_tokens=6) as t:
        edit()
    from mlx_lm.generate import generate_step

    found = generate_step(mx.array(PROMPT), edited.as_module(), max_tokens=6, prefill_step_size=3)
    assert [int(token) for token, _ in found][:6] == t.tokens
    assert t.tokens != model.generate(PROMPT, max_tokens=6).tokens


@pytest.mark.parametrize("compile", [False, True])
def test_weights_that_change_are_seen_by_the_next_forward(model, compile):
    """As mlx-lm's own loop sees them, and compiled as in Python."""

    def changing(at: int) -> Any:
        def process(tokens: mx.array, logits: mx.array) -> mx.array:
            if len(tokens) == at:
                down = model.module.layers[0].mlp.down_proj
                down.weight = down.weight * -9.0
            return logits

        return process

    def run() -> list[int]:
        with model.generate(
            PROMPT, max_tokens=9, compile=compile, logits_processors=[changing(len(PROMPT) + 3)]
        ) as t:
            model.layers[1].output *= 1.0
        return t.tokens

    unchanged = model.generate(PROMPT, max_tokens=9).tokens
    found = run()
    model.module.layers[0].mlp.down_proj.weight /= -9.0
    wanted, _ = plain_tokens(model, PROMPT, 9, logits_processors=[changing(len(PROMPT) + 3)])
    assert found == wanted != unchanged


def test_an_error_of_a_module_ends_at_the_line_that_called_it(model):
    from mlx_lm.models.cache import make_prompt_cache

    with model.edit() as edited:
        model.layers[1].output[:, -1] = 0.0
    with pytest.raises(PartOfTextError, match="each_call") as raised:
        edited.as_module()(mx.array([PROMPT]), cache=make_prompt_cache(model.module))
    assert traceback.extract_tb(raised.value.__traceback__)[-1].filename == __file__


def test_a_prompt_cache_that_was_filled_meanwhile_is_refused(model):
    """Positions would be those of another text, silently."""
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model.module)
    first = model.generate(PROMPT, max_tokens=3, prompt_cache=cache)
    second = model.generate(PROMPT, max_tokens=3, prompt_cache=cache)
    assert first.tokens == model.generate(PROMPT, max_tokens=3).tokens
    with pytest.raises(InputError, match="held 0 tokens") as raised:
        second.tokens  # noqa: B018
    assert traceback.extract_tb(raised.value.__traceback__)[-1].filename == __file__
    assert len(model.generate(PROMPT, max_tokens=3, prompt_cache=cache).tokens) == 3


def test_a_prompt_cache_with_entries_for_other_layers_is_refused(model):
    from mlx_lm.models.cache import make_prompt_cache

    with pytest.raises(InputError, match="1 entries"):
        model.generate(PROMPT, prompt_cache=make_prompt_cache(model.module)[:1])


@pytest.mark.parametrize(
    "options, said",
    [
        ({"sampler": 0.8}, "make_sampler"),
        ({"logits_processors": lambda tokens, logits: logits}, r"=\[function\]"),
        ({"logits_processors": [3]}, r"=\[function\]"),
        ({"prefill_step_size": 0}, "prefill_step_size=512"),
    ],
)
@pytest.mark.parametrize("prompt", [PROMPT, [PROMPT, PROMPT[:2]]], ids=["one", "two"])
def test_a_value_that_mlx_lm_would_stumble_over_says_what_to_write(model, prompt, options, said):
    with pytest.raises(InputError, match=said):
        model.generate(prompt, max_tokens=2, **options)


def test_steps_beside_a_generation_are_told_where_they_belong(model):
    with model.generate(PROMPT, max_tokens=2):
        for of in (model, model.layers[1]):
            with pytest.raises(MLXGraphError, match=r"model\.generate\(prompt\) as t"):
                of.step[1:]
    with model.trace(mx.array([PROMPT])) as t:
        for name in ("iter", "step", "all"):
            with pytest.raises(MLXGraphError, match=r"model\.generate\(prompt\) as t"):
                getattr(t, name)


@pytest.mark.parametrize("prompt", [PROMPT, [PROMPT, PROMPT[:3]]], ids=["one", "two"])
def test_what_is_saved_is_there_while_tokens_come(model, prompt):
    with model.generate(
        prompt, max_tokens=4, **({} if prompt is not PROMPT else {"prefill_step_size": 3})
    ) as t:
        h = model.layers[1].output[:, -1].save("h")
        seen = [(len(h), h[-1], t.saved_values["h"][0]) for _ in t.stream()]
    assert [count for count, _, _ in seen] == [1, 2, 3, 4] and len(h) == 4
    for k, (_, last, first) in enumerate(seen):
        pairs = [(last, h[k]), (first, h[0])]
        for mine, theirs in pairs:
            both = zip(mine, theirs, strict=True) if prompt is not PROMPT else [(mine, theirs)]
            assert all(mx.array_equal(a, b) for a, b in both)
