"""Attention, as a model calls it: its values by name, and the kernel written out where they are
edited inside.

In: a call of `mx.fast.scaled_dot_product_attention`, or of mlx-lm's attention on a quantised cache.
Out: what it gives, with each of its values shown to whoever answers for it.

Written out are the steps that MLX takes itself where it has no kernel, in the same dtypes: queries
times scale, product, mask, sinks, a softmax in float32.  Grouped queries share their keys and
values.  Only an attention whose scores or pattern are written is computed so; where they are read
alone they are computed beside the kernel, and what the kernel gives goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import mlx.core as mx

from mlxgraph.graph.inside import ATTENTION as NAMES
from mlxgraph.graph.inside import HEADS, KEYS, PATTERN, QUERIES, SCORES, VALUES
from mlxgraph.mlx_facts.watching import ATTENTION, QUANTIZED_ATTENTION

KERNELS = frozenset({ATTENTION, QUANTIZED_ATTENTION})
_NAMES = {
    ATTENTION: ("q", "k", "v"),
    QUANTIZED_ATTENTION: ("queries", "q_keys", "q_values", "scale", "mask", "group_size", "bits"),
}


class Answers(Protocol):
    """Who answers for the values of one attention, by name."""

    def wants(self, name: str) -> bool:
        """Whether a value is read or written."""

    def writes(self, name: str) -> bool:
        """Whether what follows has to be computed from what is answered."""

    def value(self, name: str, value: mx.array) -> mx.array:
        """The value that goes on, for one that was computed."""

    def in_blocks(self, inner: Inner) -> bool:
        """Whether what is read of scores and pattern was computed without either."""


def attend(
    name: str, answers: Answers, real: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
) -> Any:
    """What an attention gives, its values answered for on the way."""
    given = {**dict(zip(_NAMES[name], args, strict=False)), **kwargs}
    queries, keys, values = (given.pop(part) for part in _NAMES[name][:3])
    if not any(map(answers.wants, NAMES)):
        return real(*args, **kwargs)
    queries = shown(answers, QUERIES, queries)
    edited = answers.writes(SCORES) or answers.writes(PATTERN)
    if name == ATTENTION:
        keys, values = dense = shown(answers, KEYS, keys), shown(answers, VALUES, values)
    else:  # what is written cannot be quantised again: the rest is computed from it as it is
        edited = edited or answers.writes(KEYS) or answers.writes(VALUES)
        bits = {"group_size": given.get("group_size", 64), "bits": given.get("bits", 8)}
        plain = mx.dequantize(*keys, **bits), mx.dequantize(*values, **bits)
        dense = shown(answers, KEYS, plain[0]), shown(answers, VALUES, plain[1])
    heads = None
    if edited or answers.wants(SCORES) or answers.wants(PATTERN):
        inner = Inner.of(queries, *dense, **given)
        if edited or not answers.in_blocks(inner):
            scores = shown(answers, SCORES, inner.scores())
            pattern = shown(answers, PATTERN, inner.pattern(scores))
            heads = inner.heads(pattern) if edited else None
    if heads is None:
        heads = real(queries, keys, values, **given)
    return shown(answers, HEADS, heads)


def shown(answers: Answers, name: str, value: mx.array) -> mx.array:
    """The value that goes on, for one that somebody may want."""
    return answers.value(name, value) if answers.wants(name) else value


class Inner(NamedTuple):
    """An attention between queries and heads: arrays (batch, heads, length, head dimension)."""

    queries: mx.array
    keys: mx.array
    values: mx.array
    scale: float
    mask: Any
    sinks: mx.array | None

    @classmethod
    def of(
        cls,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        *,
        scale: float,
        mask: Any = None,
        sinks: mx.array | None = None,
        **_: Any,
    ) -> Inner:
        """From what the kernel is given, in the one dtype that it computes in."""
        dtype = mx.result_type(queries, keys, values)
        arrays = [array.astype(dtype) for array in (queries, keys, values)]
        sinks = None if sinks is None else sinks.astype(dtype)
        return cls(arrays[0], arrays[1], arrays[2], scale, mask, sinks)

    @property
    def _groups(self) -> tuple[int, int, int]:
        """Batch, key-value heads, and the queries' heads that share each of them."""
        batch, heads = self.queries.shape[:2]
        return batch, self.keys.shape[1], heads // self.keys.shape[1]

    def at(self, rows: Any) -> Inner:
        """The same attention at some of its queries.  Args: rows: what takes them of their axis."""
        queries, mask = self.queries[:, :, rows], self.mask
        if isinstance(mask, str):  # "causal": the last queries are the last keys
            length, keys = self.queries.shape[2], self.keys.shape[2]
            mask = mx.arange(keys - length, keys)[rows][:, None] >= mx.arange(keys)
        elif mask is not None and mask.shape[-2] != 1:
            mask = mask[..., rows, :]
        return self._replace(queries=queries, mask=mask)

    def after(self, done: Sequence[mx.array]) -> Inner:
        """The same attention, computed once some arrays are."""
        queries = self.queries
        for one in done:
            first = one.reshape(-1)[:1].astype(queries.dtype)
            queries = mx.where(mx.array(False), first, queries)
        return self._replace(queries=queries)

    def scores(self) -> mx.array:
        """After scale and mask: (batch, heads, query, key)."""
        queries = self.queries * mx.array(self.scale, self.queries.dtype)
        grouped = queries.reshape(*self._groups, *queries.shape[2:])
        scores = grouped @ self.keys[:, :, None].swapaxes(-1, -2)
        if self.mask is not None:
            scores = self._masked(scores)
        return scores.reshape(*self.queries.shape[:3], self.keys.shape[2])

    def _masked(self, scores: mx.array) -> mx.array:
        mask: Any = self.mask
        if isinstance(mask, str):  # "causal": the last queries are the last keys
            length, keys = scores.shape[-2:]
            mask = mx.arange(keys - length, keys)[:, None] >= mx.arange(keys)
        if mask.ndim > 2:
            per_head = mask.shape[-3] != 1
            groups = self._groups[1:] if per_head else (1, 1)
            mask = mask.reshape(*mask.shape[:-3], *groups, *mask.shape[-2:])
        if mask.dtype != mx.bool_:
            return scores + mask.astype(scores.dtype)
        lowest = mx.array(mx.finfo(scores.dtype).min, scores.dtype)
        return mx.where(mask, scores, lowest)

    def pattern(self, scores: mx.array) -> mx.array:
        """The softmax of scores, of the same shape; with sinks a row sums to less than one."""
        if self.sinks is None:
            return mx.softmax(scores, axis=-1, precise=True)
        sinks = mx.broadcast_to(self.sinks[:, None, None], (*scores.shape[:-1], 1))
        whole = mx.concatenate([sinks, scores], axis=-1)
        return mx.softmax(whole, axis=-1, precise=True)[..., 1:]

    def heads(self, pattern: mx.array) -> mx.array:
        """Each head's output, (batch, heads, length, head dimension)."""
        grouped = pattern.reshape(*self._groups, *pattern.shape[2:])
        heads = grouped @ self.values[:, :, None]
        return heads.reshape(*pattern.shape[:3], self.values.shape[-1])
