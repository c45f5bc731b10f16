"""Saves of what attention computes: one value a step, whatever chunks a prompt comes in."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from mlxgraph.errors import PartOfTextError
from tests.generation.keys import (
    CHUNKED,
    COUNT,
    LENGTH,
    PROMPT,
    a_weaker_key,
    attn,
    nothing,
    rows_and_keys,
    traced,
)
from tests.generation.prefixes import close


@pytest.mark.parametrize("options", CHUNKED, ids=str)
@pytest.mark.parametrize("edit", [nothing, rows_and_keys, a_weaker_key], ids=lambda e: e.__name__)
@pytest.mark.thin(3)
def test_a_save_is_what_the_whole_text_has_at_each_step(one, edit, options):
    reads = [
        (lambda m: attn(m).pattern, (-2, -1)),
        (lambda m: attn(m).scores, (-2, -1)),
        (lambda m: attn(m).keys, (None, -2)),
        (lambda m: attn(m).values, (None, -2)),
        (lambda m: attn(m).queries, (-2, None)),
        (lambda m: attn(m).heads, (-2, None)),
        (lambda m: attn(m).pattern[:, 1], (-2, -1)),
        (lambda m: attn(m).pattern[..., 2], (-1, None)),
        (lambda m: attn(m).pattern[..., 2:5], (-2, None)),
        (lambda m: attn(m).pattern[..., 3:], (-2, None)),
        (lambda m: attn(m).scores[..., [4, 1]], (-2, None)),
        (lambda m: attn(m).pattern * 0.5, (-2, -1)),
        (lambda m: attn(m).pattern.swapaxes(-1, -2), (-1, -2)),
        (lambda m: attn(m).pattern.mean(axis=1), (-2, -1)),
        (lambda m: attn(m).pattern.sum(axis=-1), (-1, None)),
        (lambda m: attn(m).scores.argmax(axis=-1), (-1, None)),
        (lambda m: mx.softmax(attn(m).scores, axis=-1), (-2, -1)),
    ]
    with one.generate(mx.array(PROMPT), max_tokens=COUNT, **options) as t:
        edit(one, LENGTH, LENGTH + COUNT)
        saves = [read(one).save() for read, _ in reads]
    for (read, (rows, _)), save in zip(reads, saves, strict=True):
        assert save.steps == tuple(range(COUNT))
        for step in range(COUNT):
            text = PROMPT + t.tokens[:step]
            whole = traced(one, text, read, edit)
            if rows is not None and step:
                where = [slice(None)] * whole.ndim
                where[rows] = slice(-1, None)
                whole = whole[tuple(where)]
            assert close(save[step], whole), (step, whole.shape, save[step].shape)


@pytest.mark.parametrize("options", CHUNKED, ids=str)
def test_a_saved_row_has_a_value_where_it_is_held(one, options):
    with one.generate(mx.array(PROMPT), max_tokens=COUNT, **options) as t:
        pattern = attn(one).pattern
        row, newest, entry = pattern[:, :, 3].save(), pattern[:, :, -1].save(), pattern[0, 0, 4, 2]
        entry = entry.save()
        late = pattern[:, :, LENGTH + 1, :3].save()
        block = pattern[:, :, 2:4, 1:6].save()
        keys = attn(one).keys[:, :, 2].save()
    assert row.steps == entry.steps == block.steps == (0,) and late.steps == (2,)
    assert newest.steps == keys.steps == tuple(range(COUNT))
    for step in range(COUNT):
        text = PROMPT + t.tokens[:step]
        whole = traced(one, text, lambda m: attn(m).pattern)
        assert close(newest[step], whole[:, :, -1])
        assert close(keys[step], traced(one, text, lambda m: attn(m).keys)[:, :, 2])
        if step == 0:
            assert close(row[0], whole[:, :, 3]) and close(entry[0], whole[0, 0, 4, 2])
            assert close(block[0], whole[:, :, 2:4, 1:6])
        if step == 2:
            assert close(late[2], whole[:, :, LENGTH + 1, :3])


def test_what_later_keys_hold_is_worked_out_or_else_the_chunks_are_as_they_were(one):
    def added(m: Any) -> Any:
        pattern = attn(m).pattern
        return pattern + mx.arange(pattern.shape[-1])

    with one.generate(PROMPT, max_tokens=3) as t:
        more, less = added(one).save(), (attn(one).pattern + 1.0).save()
        row = added(one)[:, :, 3].save()
        first = (attn(one).pattern[..., 6] + 1.0).save()
        chained = attn(one).pattern[:, :, 3][..., 6].save()
        entropy = -(attn(one).pattern * mx.log(attn(one).pattern + 1e-9)).sum(axis=-1)
        entropy = entropy.save()
    assert [chunk.shape for chunk in more[0]] == [(1, 4, 6, 6), (1, 4, 1, 7)]
    assert more[1].shape == (1, 4, 1, 8) and row[0].shape == (1, 4, 6)
    whole = traced(one, PROMPT, lambda m: attn(m).pattern)
    assert close(less[0], whole + 1.0) and close(first[0], whole[..., 6] + 1.0)
    assert chained[0].tolist() == [[0.0] * 4]
    assert len(t.tokens) == 3 and close(entropy[0], -(whole * mx.log(whole + 1e-9)).sum(axis=-1))
    for read in (
        lambda: added(one)[..., 6],
        lambda: added(one)[:, :, 3][..., 6],
        lambda: attn(one).pattern[..., 6:7].sum(axis=-1),
    ):
        with pytest.raises(PartOfTextError):
            with one.generate(PROMPT, max_tokens=3):
                read().save()
