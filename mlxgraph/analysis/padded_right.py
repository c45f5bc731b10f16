"""Batches of several lengths without a mask, where it was tried that the model needs none.

Rows that are padded on the left are masked in every layer, which costs a causal model a tenth to a
fifth of its forward.  Padded on the right they are plain rows of one length: what comes after a
token has no part in what a causal model computes for it, and nobody reads what it computes for the
padding.  Whether that holds is a matter of the model at hand and of the sites that are read, so it
is tried on them, with the weights and tokens of now, before the first such batch:

    other padding       leaves every site of a row, and of the row beside it, the same, bit by bit
    no padding at all   leaves them the same but for the order of sums

A model that looks both ways, one whose rows compete for places, or one that draws numbers at random
fails, and its rows stay masked (one whose rows compete now and then may pass: no try sees all).  So
do those of a model with edits: they count positions from a row's end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import MLXGraphError

LONGEST = 8  # tokens of the row that is tried
TAIL = 12  # and of its padding
TAILS = 3  # of one token again and again, beside a mixed one: as far from it as tokens come
SURE = {mx.float32: 1e-4}  # of the largest value: the same numbers but for the order of sums
NOISE = 0.02  # of it in half precision

Read = Callable[[Any], Mapping[str, mx.array]]  # sites of a batch, with rows and positions first


def right_padded(rows: Sequence[Sequence[int]]) -> mx.array:
    """Rows of token ids as rows of one length, each filled up with its own last token: an id that
    the model has, whose values are as finite as the row's."""
    padded = np.empty((len(rows), max(map(len, rows))), np.int32)
    for into, row in zip(padded, rows, strict=True):
        into[: len(row)] = row
        into[len(row) :] = row[-1]
    return mx.array(padded)


def needs_no_mask(model: Traceable, rows: Sequence[Sequence[int]], read: Read) -> bool:
    """Whether what comes after a row leaves the sites that are read as they are.

    Args: rows: a batch of several lengths, from which tokens are taken; read: runs the model on
        rows of one length, (batch, length), and gives sites as (batch, length, ...).
    """
    if model.without_edits() is not model:
        return False
    row = [int(token) for token in min(rows, key=len)[:LONGEST]]
    ids = sorted({0, 1}.union(*[map(int, some) for some in rows]))
    tails = [[ids[3 * k % len(ids)] for k in range(TAIL)]]
    tails += [[ids[k * len(ids) // TAILS]] * TAIL for k in range(TAILS)]
    beside = max(rows, key=len)
    other = [int(beside[k % len(beside)]) for k in range(len(row) + TAIL)]
    try:
        alone = read(mx.array([row]))
        one, *others = (read(mx.array([row + tail, other])) for tail in tails)
        return all(
            _are_same(one[name], two[name], alone[name][0], len(row))
            for two in others
            for name in alone
        )
    except (MLXGraphError, ValueError, TypeError, RuntimeError, AttributeError, IndexError):
        return False  # what is wrong is said where the batch itself is run


def _are_same(one: mx.array, two: mx.array, alone: mx.array, length: int) -> bool:
    if not (mx.array_equal(one[0, :length], two[0, :length]) and mx.array_equal(one[1], two[1])):
        return False
    sure = SURE.get(alone.dtype, NOISE)
    padded, alone = one[0, :length].astype(mx.float32), alone.astype(mx.float32)
    apart = mx.abs(padded - alone).max()
    return bool((apart <= sure * mx.maximum(mx.abs(alone).max(), 1e-6)).item())
