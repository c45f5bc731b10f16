"""mlx-lm's loops: what a model can tell of the prompt that it is given in parts."""

from __future__ import annotations

import sys
import types
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.sample_utils import make_logits_processors, make_sampler

from mlxgraph.mlx_facts.loops import is_of_one_row, settle, still_to_come, told_of
from tests import models

PROMPT = [7, 21, 3, 18, 40, 5, 33]


def listening(heard: list[tuple[int, int | None]]) -> Any:
    """A model that notes how many tokens it is given, and what it is told of those to come."""
    module: Any = models.make_llama(tied=False)

    class Listening(type(module)):
        def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
            heard.append((tokens.shape[1], still_to_come()))
            return super().__call__(tokens, cache)

    module.__class__ = Listening
    return module


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        (2048, [(6, 1), (1, 0), (1, 0), (1, 0)]),
        (3, [(3, 4), (3, 1), (1, 0), (1, 0), (1, 0)]),
        (5, [(5, 2), (1, 1), (1, 0), (1, 0), (1, 0)]),
    ],
)
def test_a_step_is_told_from_a_chunk_of_the_prompt(size: int, wanted: list[tuple[int, int]]):
    heard: list[tuple[int, int | None]] = []
    module = listening(heard)
    for _ in generate_step(mx.array(PROMPT), module, max_tokens=2, prefill_step_size=size):
        pass
    assert heard == wanted


@pytest.mark.skipif(
    not hasattr(sys.modules[generate_step.__module__], "PromptProcessingBatch"),
    reason="older batches are of another make: nothing is told, and a chunk is refused",
)
def test_of_a_batch_a_chunk_says_that_some_are_to_come():
    heard: list[tuple[int, int | None]] = []
    batch: Any = types.SimpleNamespace(eos_token_ids=[], decode=str)
    mlx_lm.batch_generate(listening(heard), batch, [PROMPT, PROMPT[:4]], max_tokens=2)
    assert {later for count, later in heard if count > 1} == {-1}
    assert (1, 0) in heard
    assert {later for _, later in heard} == {-1, 0}


def test_another_loop_says_nothing():
    heard: list[tuple[int, int | None]] = []
    listening(heard)(mx.array([PROMPT]))
    assert heard == [(7, None)]
    assert still_to_come() is None


def test_what_does_the_same_to_each_row_is_known_by_its_name():
    alike = [make_sampler(), *make_logits_processors({3: 1.0}, 1.2)]
    assert all(map(is_of_one_row, alike))
    row, other = mx.array([[0.0, 2.0, 1.0, -1.0]]), mx.array([[3.0, 1.0, 0.0, 0.0]])
    assert make_sampler()(mx.concatenate([row, other]))[0] == make_sampler()(row)[0]
    others = [make_sampler(1.0), make_sampler(0.5, top_p=0.9), lambda p: p.argmax(-1), print]
    assert not any(map(is_of_one_row, others))
    assert told_of(make_logits_processors(None, 1.2)[0]) != told_of(
        make_logits_processors(None, 1.3)[0]
    )
    assert told_of(make_logits_processors(None, 1.2)[0]) == told_of(alike[2])


def test_the_forward_that_mlx_lm_begins_beyond_the_last_token_can_be_waited_for():
    heard: list[tuple[int, int | None]] = []
    for _ in generate_step(mx.array(PROMPT), listening(heard), max_tokens=2):
        pass
    assert len(heard) > 3  # the prompt in two parts, a token, and one that nobody asked for
    settle()
