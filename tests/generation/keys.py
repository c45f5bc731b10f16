"""Edits of what attention computes, and how a generation under them is held against the reference:
the whole text so far, traced anew for every token."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from tests.generation.prefixes import close, reference

PROMPT = [7, 21, 3, 18, 40, 5, 33]
LENGTH, COUNT = len(PROMPT), 5
TEXT = "The capital of France is"
CHUNKS = [{}, {"prefill_step_size": 3}, {"prefill_step_size": 1}, {"prefill_step_size": 2}]
CHUNKED = [pytest.param(c, marks=[] if k < 2 else [pytest.mark.slow]) for k, c in enumerate(CHUNKS)]
LAYER = 1  # its cache keeps every token, in each of them


def attn(m: Any) -> Any:
    return m.layers[LAYER].self_attn


# Every edit takes the model, the length of the prompt and that of the text so far.


def a_key_of_the_pattern(m: Any, p: int, n: int) -> None:
    attn(m).pattern[:, :, :, 0] = 0


def a_weaker_key(m: Any, p: int, n: int) -> None:
    attn(m).pattern[..., 3] *= 0.25


def a_key_to_come(m: Any, p: int, n: int) -> None:
    if n > p + 1:
        attn(m).pattern[..., p + 1] = 0.0


def a_row_of_scores(m: Any, p: int, n: int) -> None:
    attn(m).scores[:, :, 3] *= 0.1


def a_key_of_scores(m: Any, p: int, n: int) -> None:
    attn(m).scores[..., 2] += 3.0


def scores_of_later_keys(m: Any, p: int, n: int) -> None:
    scores = attn(m).scores
    scores[:, 1, :, 3:] -= 2.0
    scores[:, 2, p + 1 :, 2:p] += 1.0


def rows_and_keys(m: Any, p: int, n: int) -> None:
    attn(m).pattern[:, :, 4:, 1:3] = 0.2


def lists(m: Any, p: int, n: int) -> None:
    pattern = attn(m).pattern
    pattern[..., [0, 2, 3]] *= 0.5
    pattern[:, 1, [4, 6], 0] = 0.3
    pattern[:, 2][..., mx.array([1, 2])] = 0.0


def an_array_for_keys(m: Any, p: int, n: int) -> None:
    pattern = attn(m).pattern
    pattern *= 1.0 / (1.0 + mx.arange(pattern.shape[-1]))
    pattern[:, :, 4, :3] = mx.array([0.5, 0.0, 0.25])


def an_array_for_both(m: Any, p: int, n: int) -> None:
    pattern = attn(m).pattern
    rows = mx.arange(pattern.shape[-2])[:, None]
    attn(m).pattern = pattern * (1.0 / (1.0 + rows + 2 * mx.arange(pattern.shape[-1])))


def shared_by_the_rest(m: Any, p: int, n: int) -> None:
    pattern = attn(m).pattern
    pattern[..., 1] = 0.0
    attn(m).pattern = pattern / pattern.sum(axis=-1, keepdims=True)


def scaled_softmax(m: Any, p: int, n: int) -> None:
    attn(m).pattern = mx.softmax(0.5 * attn(m).scores, axis=-1)


def heads_by_hand(m: Any, p: int, n: int) -> None:
    pattern = attn(m).pattern
    pattern[:, 1] *= 0.25
    values = mx.repeat(attn(m).values, pattern.shape[1] // attn(m).values.shape[1], axis=1)
    attn(m).heads = 0.5 * (pattern @ values)


def the_mean_head(m: Any, p: int, n: int) -> None:
    pattern = attn(m).pattern
    attn(m).pattern = 0.5 * pattern + 0.5 * pattern.mean(axis=1, keepdims=True)


def a_normed_row(m: Any, p: int, n: int) -> None:
    row = attn(m).pattern[:, :, 4]
    attn(m).pattern[:, :, 4, 1:3] *= row.sum(axis=-1, keepdims=True) * 0.3


def of_both(m: Any, p: int, n: int) -> None:
    pattern = attn(m).pattern
    attn(m).pattern = 0.5 * pattern + 0.5 * pattern[:, 1:2]


def a_row_of_another(m: Any, p: int, n: int) -> None:
    pattern = attn(m).pattern
    pattern[:, :, 5, :3] = pattern[:, :, 2, :3]
    pattern[:, :, 6, 1] += pattern[:, :, 4, 0]


def in_a_view(m: Any, p: int, n: int) -> None:
    head = attn(m).pattern[:, 2]
    head[:, 2:, 1] = 0.0
    head[..., 0] *= 0.5


def by_the_row(m: Any, p: int, n: int) -> None:
    pattern = attn(m).pattern
    pattern *= 1.0 - pattern[..., 0:1]
    pattern *= 1.0 - pattern[..., 1][..., None]
    pattern[:, 0] *= attn(m).queries[:, 0, :, :1]


def a_position_of_keys(m: Any, p: int, n: int) -> None:
    attn(m).keys[:, :, 2] = 0.0
    attn(m).keys[..., 4, :] *= 3.0


def positions_of_values(m: Any, p: int, n: int) -> None:
    attn(m).values[..., 1:3, :] = 0.0
    attn(m).values[:, 0, 3:] *= 2.0


def all_values(m: Any, p: int, n: int) -> None:
    values = attn(m).values
    values += 0.5 * values[:, :, :1].mean(axis=-1, keepdims=True)


def queries_and_keys(m: Any, p: int, n: int) -> None:
    attn(m).keys[..., 2, :] = attn(m).keys[..., 0, :]
    attn(m).queries[:, :, 2] *= 3.0


EDITS = [
    a_key_of_the_pattern, a_weaker_key, a_key_to_come, a_row_of_scores, a_key_of_scores,
    scores_of_later_keys, rows_and_keys, lists, an_array_for_keys, an_array_for_both, of_both,
    shared_by_the_rest, scaled_softmax, heads_by_hand, the_mean_head, a_normed_row,
    a_row_of_another, in_a_view, by_the_row, a_position_of_keys, positions_of_values, all_values,
    queries_and_keys,
]  # fmt: skip
BROAD = [
    a_key_of_the_pattern, a_row_of_scores, scores_of_later_keys, of_both, a_position_of_keys,
    positions_of_values,
]  # fmt: skip


def nothing(m: Any, p: int, n: int) -> None:
    pass


def generated(
    m: Any, edit: Any, prompt: list[int] = PROMPT, count: int = COUNT, **options: Any
) -> tuple[list[int], list[mx.array]]:
    with m.generate(mx.array(prompt), max_tokens=count, **options) as t:
        edit(m, len(prompt), len(prompt) + count - 1)
        logits = m.output[:, -1].save()
    return t.tokens, [logits[k][0] for k in range(count)]


def check(m: Any, edit: Any, wanted: Any = None, tolerance: float = 2e-4, **options: Any) -> None:
    tokens, logits = wanted or reference(m, PROMPT, COUNT, edit)
    found, mine = generated(m, edit, **options)
    assert found == tokens
    assert all(close(a, b[-1], tolerance) for a, b in zip(mine, logits, strict=True))


def felt(m: Any, edit: Any, wanted: Any) -> bool:
    """The positive control: the edit is felt, by more than the tolerance."""
    plain = reference(m, PROMPT, COUNT, nothing)[1]
    return not all(close(a[-1], b[-1]) for a, b in zip(wanted[1], plain, strict=True))


def traced(m: Any, tokens: list[int], read: Any, edit: Any = nothing) -> mx.array:
    with m.trace(mx.array([tokens])):
        edit(m, LENGTH, len(tokens))
        value = read(m).save()
    return mx.array(value)
