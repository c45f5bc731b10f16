"""Random programs over positions: done to the forwards of a generation they are what they are on
the whole text, traced at each step; or they are refused."""

from __future__ import annotations

import random
from typing import Any

import mlx.core as mx
import pytest
from einops import rearrange

import mlxgraph as mg
from mlxgraph.errors import PartOfTextError
from tests import models
from tests.generation.prefixes import close, reference

PROMPT = [7, 21, 3, 18, 40, 5, 33, 12]
LENGTH, COUNT = len(PROMPT), 4
WIDTH = models.WIDTH


@pytest.fixture(scope="module")
def model() -> mg.InterpretableModel:
    return mg.InterpretableModel(models.make_llama())


class Program:
    """A random program, the same for every length of the text: `steps` is what it does."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.steps = [self.step() for _ in range(self.random.randint(1, 4))]

    def number(self) -> float:
        return self.random.choice([-1.5, -0.5, 0.0, 0.25, 2.0])

    def vector(self, *shape: int) -> mx.array:
        key = mx.random.key(self.random.randint(0, 999))
        return mx.random.normal((*shape, WIDTH), key=key)

    def step(self) -> Any:
        kinds = [name for name in dir(self) if name.startswith("do_")]
        return getattr(self, self.random.choice(kinds))()

    def site(self) -> Any:
        layer = self.random.choice([0, 1])
        part = self.random.choice(["output", "mlp", "attn"])

        def get(m: Any) -> Any:
            block = m.layers[layer]
            return {"output": block, "mlp": block.mlp, "attn": block.self_attn}[part]

        return get

    def do_all(self) -> Any:
        site, number, vector = self.site(), self.number(), self.vector()

        def run(m: Any, n: int) -> None:
            h = site(m).output
            h *= number
            h += vector

        return run

    def do_position(self) -> Any:
        site, at, vector = self.site(), self.random.randint(0, LENGTH + 1), self.vector()

        def run(m: Any, n: int) -> None:
            if at < n:
                site(m).output[:, at] += vector

        return run

    def do_slice(self) -> Any:
        site, number = self.site(), self.number()
        start, step = self.random.randint(0, LENGTH), self.random.choice([1, 2, 3])
        stop = self.random.choice([None, start + self.random.randint(1, 5)])

        def run(m: Any, n: int) -> None:
            if start < n:
                site(m).output[:, start:stop:step] *= number

        return run

    def do_each(self) -> Any:
        site, start = self.site(), self.random.randint(0, LENGTH - 2)
        count = self.random.randint(2, 4)
        vector = self.vector(1, count)

        def run(m: Any, n: int) -> None:
            held = max(0, min(count, n - start))
            if held:
                site(m).output[:, start : start + held] += vector[:, :held]

        return run

    def do_list(self) -> Any:
        site, number = self.site(), self.number()
        chosen = self.random.sample(range(LENGTH + 2), 3)

        def run(m: Any, n: int) -> None:
            held = [at for at in chosen if at < n]
            if held:
                site(m).output[:, held] = number

        return run

    def do_copy(self) -> Any:
        source, target = sorted(self.random.sample(range(LENGTH + 2), 2))

        def run(m: Any, n: int) -> None:
            if target < n:
                m.layers[1].output[:, target] = m.layers[0].output[:, source] * 2.0

        return run

    def do_mean(self) -> Any:
        start = self.random.randint(0, 3)
        stop = start + self.random.randint(1, 3)
        target = self.random.randint(stop, LENGTH + 2)

        def run(m: Any, n: int) -> None:
            if target < n:
                mean = m.layers[0].output[:, start:stop].mean(axis=1)
                m.layers[1].output[:, target] += mean

        return run

    def do_heads(self) -> Any:
        head, at = self.random.randint(0, 3), self.random.randint(0, LENGTH)

        def run(m: Any, n: int) -> None:
            taken = m.layers[1].self_attn.o_proj.input
            split = rearrange(taken, "b s (h d) -> b h s d", h=4)
            if at % 2:
                split[:, head] = 0.0
            elif at < n:
                split[:, head, at:] *= 0.5

        return run

    def do_norm(self) -> Any:
        site = self.site()

        def run(m: Any, n: int) -> None:
            h = site(m).output
            site(m).output = mx.softmax(h, axis=-1) * h.max(axis=-1, keepdims=True)

        return run

    def do_ramp(self) -> Any:
        site, by = self.site(), self.random.randint(3, 9)

        def run(m: Any, n: int) -> None:
            h = site(m).output
            h += mx.arange(n)[:, None] / by * mx.ones((1, 1))

        return run

    def do_where(self) -> Any:
        site, at = self.site(), self.random.randint(0, LENGTH + 1)

        def run(m: Any, n: int) -> None:
            h = site(m).output
            chosen = (mx.arange(n) == at)[None, :, None]
            site(m).output = mx.where(chosen, 0.0, h)

        return run

    def do_views(self) -> Any:
        site, number = self.site(), self.number()
        start = self.random.randint(0, LENGTH - 1)

        def run(m: Any, n: int) -> None:
            view = site(m).output.transpose(0, 2, 1).reshape(1, 4, WIDTH // 4, n)
            if start < n:
                view[:, 1:3, :, start:] *= number

        return run

    def do_chain(self) -> Any:
        site, number = self.site(), self.number()
        first, second = self.random.randint(0, 3), self.random.randint(0, 3)

        def run(m: Any, n: int) -> None:
            if first + second < n:
                site(m).output[:, first:][:, second] *= number

        return run

    def __call__(self, m: Any, prompt: int, length: int) -> None:
        for step in self.steps:
            step(m, length)


def check(model: mg.InterpretableModel, seed: int) -> bool:
    """Whether a program was done; what it was refused for is one thing alone, its chunks."""
    program = Program(seed)
    size = program.random.choice([1, 2, 3, 5, 64])
    tokens, wanted = reference(model, PROMPT, COUNT, program)
    try:
        with model.generate(PROMPT, max_tokens=COUNT, prefill_step_size=size) as t:
            program(model, LENGTH, LENGTH + COUNT)
            logits = model.output.save()
    except PartOfTextError as error:
        assert "two forwards" in str(error), error
        return False
    for step in range(COUNT):
        assert close(logits[step][0, -1], wanted[step][-1], 1e-3), (seed, step)
    whole = mx.concatenate(list(logits), axis=1)[0]
    assert t.tokens == tokens
    assert close(whole, wanted[-1], 1e-3), seed
    return True


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.thin(6)
def test_a_program_is_done_as_on_the_whole_text(model, seed):
    check(model, seed)


def test_most_programs_are_done(model):
    assert sum(check(model, seed) for seed in range(20)) > 14


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 400))
def test_another_program_is_done_as_on_the_whole_text(model, seed):
    check(model, seed)


ROWS = [PROMPT, PROMPT[:3], [9, 30, 2, 44, 17], [4]]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(400, 500))
def test_a_program_is_done_to_each_row_as_to_it_alone(model, seed):
    program = Program(seed)
    try:
        with model.generate(ROWS, max_tokens=COUNT) as t:
            program(model, LENGTH, LENGTH + COUNT)
            logits = model.output[:, -1].save()
    except PartOfTextError as error:
        assert "two forwards" in str(error), error
        return
    for row, prompt in enumerate(ROWS):
        with model.generate(prompt, max_tokens=COUNT) as alone:
            program(model, len(prompt), len(prompt) + COUNT)
            own = model.output[:, -1].save()
        assert t.tokens[row] == alone.tokens
        for step in range(COUNT):
            assert close(logits[step][row], own[step], 1e-3)
