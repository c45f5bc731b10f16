"""What rows of scores say as distributions over tokens: the best ones, how sure, and how given ones
stand among all.

In: scores of the whole vocabulary.  Out: a few numbers for each row, in float32.
Never: holds more than a few rows of anything as wide as the vocabulary beside the scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from mlxgraph.analysis.unembed import top_tokens

AT_A_TIME = 1 << 16  # scores, or one row: all that is held beside them is a few times as much
_TOGETHER = 128  # numbers in the first step of a sum
_LOWEST = -1e3  # of a logarithm: its exponential is 0 long before


class Distributions(NamedTuple):
    """Rows of scores in a few numbers.  T is how many tokens were asked for.

    Attributes:
        ids, scores: the best tokens and their logits, best first, (rows, top_k).
        probabilities: of the best tokens among the whole vocabulary, (rows, top_k).
        entropy: in nats, (rows,).
        asked_scores, asked_probabilities: of the tokens that were asked for, (rows, T).
        asked_ranks: 1 and the number of tokens with a higher score, (rows, T).
    """

    ids: mx.array
    scores: mx.array
    probabilities: mx.array
    entropy: mx.array
    asked_scores: mx.array
    asked_probabilities: mx.array
    asked_ranks: mx.array

    def in_shape(self, *shape: int) -> Distributions:
        """The same with the axis of rows made several."""
        return Distributions(*(part.reshape(*shape, *part.shape[1:]) for part in self))


def distributions(scores: mx.array, top_k: int, asked: Sequence[int] = ()) -> Distributions:
    """Evaluated, some rows at a time.

    Args:
        scores: shape (rows, vocabulary).
        asked: token ids whose rank and probability are wanted, too.
    """
    rows = max(1, AT_A_TIME // scores.shape[-1])
    pieces = []
    for start in range(0, scores.shape[0], rows):
        pieces.append(_of_rows(scores[start : start + rows], top_k, asked))
        mx.eval(pieces[-1])  # before the next piece's exponentials, or all are held at once
    return joined(pieces)


def joined(pieces: Sequence[Distributions]) -> Distributions:
    """One after the other, along the rows."""
    if len(pieces) == 1:
        return pieces[0]
    whole = Distributions(*(mx.concatenate(list(part)) for part in zip(*pieces, strict=True)))
    mx.eval(whole)
    return whole


def _of_rows(scores: mx.array, top_k: int, asked: Sequence[int]) -> Distributions:
    ids, best = top_tokens(scores, top_k)
    logits, best = scores.astype(mx.float32), best.astype(mx.float32)
    below = mx.maximum(logits - best[:, :1], _LOWEST)  # where a score is -inf, 0 times it is 0
    weights = mx.power(math.e, below)  # as exact as exp, in a third of its time on a CPU
    total = _summed(weights)
    mean = _summed(weights * below) / total
    entropy = mx.maximum(mx.log(total) - mean, 0.0)[:, 0]
    chosen = logits[:, mx.array(list(asked), dtype=mx.int32)]
    return Distributions(
        ids,
        best,
        mx.exp(best - best[:, :1]) / total,
        entropy,
        chosen,
        mx.exp(chosen - best[:, :1]) / total,
        _ranks(logits, chosen),
    )


def _summed(rows: mx.array) -> mx.array:
    """Row sums, (rows, 1), in two steps: one long sum in float32 can lose four digits."""
    count, size = rows.shape
    even = size - size % _TOGETHER
    parts = mx.sum(rows[:, :even].reshape(count, even // _TOGETHER, _TOGETHER), axis=-1)
    rest = mx.sum(rows[:, even:], axis=-1, keepdims=True)
    return mx.sum(parts, axis=-1, keepdims=True) + rest


def _ranks(logits: mx.array, chosen: mx.array) -> mx.array:
    """Where each chosen score stands in its row.  What is no number has no rank."""
    if not chosen.shape[-1]:
        return chosen
    higher = [mx.sum(logits > chosen[:, k, None], axis=-1) for k in range(chosen.shape[-1])]
    ranks = 1 + mx.stack(higher, axis=-1).astype(mx.float32)
    return mx.where(mx.any(mx.isnan(logits), axis=-1, keepdims=True), mx.array(math.nan), ranks)
