"""Several prompts in one forward: each means what it means alone, slopes too.

Random programs and gradients in `t.invoke` blocks, on prompts of equal and of different lengths and
of several rows, against the naive interpreter on each prompt by itself.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import event, given, note, settings
from hypothesis import strategies as st
from mlx_lm.models import gpt2

import mlxgraph as mg
from mlxgraph.errors import ShapeError
from tests import models
from tests.laws.interpreter import (
    Read,
    Replace,
    Save,
    hooked_forward,
    interpret,
    positions_of,
    sites_of,
)
from tests.laws.play import play, read
from tests.laws.programs import programs


class Positions(nn.Module):
    """Values without the batch's axis beside values that have it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(20, 6), nn.Embedding(20, 6)
        self.mix, self.mask = nn.Linear(6, 6), Masked()

    def __call__(self, tokens: mx.array) -> mx.array:
        h = self.embed(tokens) + self.places(mx.arange(tokens.shape[1]))
        return self.mask(self.mix(h), mx.tri(tokens.shape[1]))


class Masked(nn.Module):
    """The mean of all that came before."""

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        return mask @ x / mask.sum(-1, keepdims=True)


class Prompt:
    """Token ids, with the float sites of a forward on them alone."""

    def __init__(self, module: nn.Module, rows: int, length: int, start: int):
        self.tokens = (mx.arange(rows * length).reshape(rows, length) * 7 + start) % 19
        plain = sites_of(module, (self.tokens,))
        shared = _shared(module, self.tokens)
        self.order = {
            site: when
            for site, when in positions_of(plain).items()
            if mx.issubdtype(plain[site].dtype, mx.floating) and plain[site].ndim
        }
        self.shared = {site for site in self.order if site in shared}
        self.shapes = {site: plain[site].shape for site in plain}
        own = {site: when for site, when in self.order.items() if site not in shared}
        self.programs = programs(own, self.shapes, most=8)
        self.own = list(own)


def _shared(module: nn.Module, tokens: mx.array) -> set:
    """The sites whose first axis is not the batch's: with a row more they are as they were."""
    more = sites_of(module, (mx.concatenate([tokens, tokens[:1]]),))
    return {
        site
        for site, value in sites_of(module, (tokens,)).items()
        if more[site].shape[:1] == value.shape[:1]
    }


class Case:
    """A model, and prompts for it; those of one length stand together."""

    def __init__(self, model: mg.InterpretableModel, shapes: list, ragged: bool = False):
        self.model = model
        self.prompts = [Prompt(model.module, *shape, 2 + k) for k, shape in enumerate(shapes)]
        lengths = sorted({prompt.tokens.shape[1] for prompt in self.prompts})
        together = [
            [prompt for prompt in self.prompts if prompt.tokens.shape[1] == n] for n in lengths
        ]
        self.groups = [*[self.prompts] * 4, *together] if ragged else together

    def draw(self, data: Any) -> list[Prompt]:
        group = data.draw(st.sampled_from(self.groups))
        least = data.draw(st.integers(1, 3))
        return data.draw(st.lists(st.sampled_from(group), min_size=least, max_size=3))


def _gpt2() -> nn.Module:
    return gpt2.Model(gpt2.ModelArgs("gpt2", 16, 2, 2, 32, 32, 1e-5, 20))


SHAPES = [(1, 3), (1, 3), (1, 2), (1, 2), (2, 3), (1, 5), (2, 1)]  # rows, length
CASES = {
    "llama": Case(models.made(models.make_llama(True, layers=2)), SHAPES, ragged=True),
    "gpt2": Case(models.made(_gpt2()), [(1, 2), (1, 2), (2, 2)]),  # two rows of two
    "positions": Case(models.made(Positions), SHAPES),
}


def close(ours: mx.array, theirs: mx.array) -> bool:
    """Other lengths are other kernels: up to a small part of the largest entry."""
    scale = max(1e-2, float(mx.abs(theirs).max())) if theirs.size else 1.0
    return models.same(ours / scale, theirs / scale, 1e-4)


# -- programs ------------------------------------------------------------------------------------


def invoked(case: Case, parts: list[tuple[Prompt, list]], compile: Any) -> list[list[mx.array]]:
    """What each prompt's program saves, all of them in one forward."""
    found = []
    with case.model.trace(compile=compile) as t:
        for prompt, program in parts:
            with t.invoke(prompt.tokens):
                handles: dict[int, Any] = {}
                steps = [(step, play(case.model, handles, step)) for step in program]
                saves = [made for step, made in steps if isinstance(step, Save)]
                found.append([*saves, case.model.output.save()])
    return found


def agree(case: Case, parts: list[tuple[Prompt, list]], compile: Any) -> None:
    for (prompt, program), ours in zip(parts, invoked(case, parts, compile), strict=True):
        saves, output = interpret(case.model.module, (prompt.tokens,), program)
        for number, (mine, wanted) in enumerate(zip(ours, [*saves, output], strict=True)):
            assert close(mine, wanted), f"save {number}:\n{mine}\nshould be\n{wanted}"


def law(name: str, examples: int, compile: Any = False) -> Counter:
    case, seen = CASES[name], Counter()

    @settings(max_examples=examples)
    @given(data=st.data())
    def run(data):
        prompts = case.draw(data)
        parts = [(prompt, data.draw(prompt.programs)) for prompt in prompts]
        note("\n\n".join("\n".join(map(str, program)) for _, program in parts))
        agree(case, parts, compile)
        lengths = {prompt.tokens.shape[1] for prompt in prompts}
        kind = "alone" if len(prompts) == 1 else "ragged" if len(lengths) > 1 else "of one length"
        event(kind)
        seen.update([kind, *{f"{prompt.tokens.shape[0]} rows" for prompt in prompts}])

    run()
    return seen


@pytest.mark.parametrize("name", ["llama", "positions"])
def test_a_program_in_an_invoke_means_what_it_means_alone(name):
    seen = law(name, 20)
    assert seen["of one length"] + seen["ragged"] > 2
    if name == "llama":
        assert seen["ragged"] > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_programs_in_invokes_mean_what_they_mean_alone(name):
    seen = law(name, 40 if name == "gpt2" else 400)  # gpt2 takes kernels, and seconds
    assert seen["alone"] and seen["of one length"] and seen["2 rows"]


def test_a_program_on_another_prompt_is_noticed():
    case = CASES["llama"]
    first, second, *_ = case.prompts
    program = [Read(0, ("model.layers.0", "output", 0)), Save(1, 0)]
    agree(case, [(first, program), (second, program)], False)
    (wrong, _), (right, _) = invoked(case, [(first, program), (second, program)], False)
    (wanted,), _ = interpret(case.model.module, (second.tokens,), program)
    assert close(right, wanted) and not close(wrong, wanted)


@given(data=st.data())
@settings(max_examples=15)
def test_what_has_no_rows_of_its_own_raises_in_an_invoke(data):
    """GPT-2's position embeddings, a mask: whatever the numbers of rows and of positions are."""
    case = CASES[data.draw(st.sampled_from(["gpt2", "positions"]))]
    group = data.draw(st.sampled_from(case.groups))
    prompts = data.draw(st.lists(st.sampled_from(group), min_size=2, max_size=3))
    site = data.draw(st.sampled_from(sorted(prompts[0].shared, key=str)))
    step = data.draw(st.sampled_from([Read(0, site), Replace(site, 0.5)]))
    program = [step, Save(1, 0)] if isinstance(step, Read) else [step]
    with pytest.raises(ShapeError, match=r"rows cannot"):
        invoked(case, [(prompt, program) for prompt in prompts], False)
    agree(case, [(prompts[0], program)], False)  # one prompt is the whole batch


# -- slopes --------------------------------------------------------------------------------------

LOSSES = {
    "of the last": lambda logits: logits[:, -1].square().mean(),
    "of all": lambda logits: mx.tanh(logits).sum(),
    "of the first": lambda logits: logits[0, 0, 3] - logits[0, 0, 5],
    "of a row": lambda logits: mx.logsumexp(logits[-1], axis=-1).sum(),
}


class Slope:
    """A loss, where its slope is asked for, and an edit that it is the slope under."""

    def __init__(self, data: Any, prompt: Prompt):
        self.prompt = prompt
        self.loss = data.draw(st.sampled_from(sorted(LOSSES)))
        self.site = data.draw(st.sampled_from(prompt.own))
        self.edited = data.draw(st.sampled_from(prompt.own))
        self.scale = data.draw(st.sampled_from([-0.5, 2.0]))

    def invoked(self, t: Any, model: Any) -> mx.array:
        h = read(model, self.edited)
        h *= self.scale
        at = read(model, self.site)
        return t.grad(LOSSES[self.loss](model.output), at).save()

    def by_hand(self, module: nn.Module, scale: float) -> mx.array:
        def loss(delta: mx.array) -> mx.array:
            def visit(found: list) -> list:
                values = [v * scale if site == self.edited else v for site, v in found]
                moved = zip(found, values, strict=True)
                return [v + delta if site == self.site else v for (site, _), v in moved]

            return LOSSES[self.loss](hooked_forward(module, (self.prompt.tokens,), visit))

        return mx.grad(loss)(mx.zeros(self.prompt.shapes[self.site]))


def slopes(name: str, examples: int, compile: Any = False) -> Counter:
    case, seen = CASES[name], Counter()

    @settings(max_examples=examples)
    @given(data=st.data())
    def run(data):
        asked = [Slope(data, prompt) for prompt in case.draw(data)]
        note("\n".join(str(vars(one)) for one in asked))
        with case.model.trace(compile=compile) as t:
            found = []
            for one in asked:
                with t.invoke(one.prompt.tokens):
                    found.append(one.invoked(t, case.model))
        for one, slope in zip(asked, found, strict=True):
            wanted = one.by_hand(case.model.module, one.scale)
            assert close(slope, wanted), f"{slope}\nshould be\n{wanted}"
            without = one.by_hand(case.model.module, 1.0)  # the control: the edit is felt
            seen["under the edit"] += not close(slope, without)
            seen["steep"] += float(mx.abs(wanted).max()) > 1e-2
        lengths = {one.prompt.tokens.shape[1] for one in asked}
        seen["several"] += len(asked) > 1
        seen["ragged"] += len(lengths) > 1

    run()
    return seen


@pytest.mark.parametrize("name", ["llama", "positions"])
def test_a_slope_in_an_invoke_is_that_of_the_prompt_alone(name):
    seen = slopes(name, 20)
    assert seen["under the edit"] > 1 and seen["steep"] > 2 and seen["several"] > 1
    if name == "llama":
        assert seen["ragged"] > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_slopes_in_invokes_are_those_of_the_prompts_alone(name):
    examples = 30 if name == "gpt2" else 200
    seen = slopes(name, examples)
    assert seen["under the edit"] > examples / 8 and seen["several"] > examples / 4


def test_a_slope_at_one_of_several_inputs_after_an_edit_of_it_is_found_in_an_invoke():
    case = CASES["llama"]
    rope = case.model.layers[0].self_attn.rope  # it takes an offset too
    with case.model.trace() as t, t.invoke(case.prompts[0].tokens):
        rope.input *= 2.0
        slope = t.grad(LOSSES["of the last"](case.model.output), rope.input).save()
    assert float(mx.abs(slope).max()) > 1e-4
