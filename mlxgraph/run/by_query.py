"""An attention's scores and pattern, a block of queries at a time.

In: an attention, what is wanted of its square (`run.query_blocks`), a run's values.
Out: each wanted value, put together from blocks, lazily.

One block begins when the one before it is done, so that MLX, which decides when it computes what,
holds the numbers of few blocks at once.  What adds up in half precision is added up in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.evaluate.evaluate import evaluate, thaw
from mlxgraph.graph import ops
from mlxgraph.graph.inside import SCORES
from mlxgraph.graph.node import Node, site_of
from mlxgraph.mlx_facts.arrays import in_a_buffer_of_its_own
from mlxgraph.run.attention import Inner
from mlxgraph.run.query_blocks import ADDS, Blocks, Carried, Wanted
from mlxgraph.run.query_index import Pick

Known = Callable[[Node], Any]
_HALF = (mx.float16, mx.bfloat16)
_JOINED: dict[str, Callable[[mx.array, mx.array], mx.array]] = {
    ops.MX_SUM: mx.add,
    ops.MX_MEAN: mx.add,
    ops.MX_MAX: mx.maximum,
    ops.MX_MIN: mx.minimum,
    ops.MX_ALL: mx.logical_and,
    ops.MX_ANY: mx.logical_or,
}


class Rows(NamedTuple):
    """Some queries: a range of them, or numbers with what they are known by."""

    key: Any
    numbers: mx.array | None = None

    @property
    def index(self) -> Any:
        """What takes them of an axis."""
        if self.numbers is not None:
            return self.numbers
        return slice(self.key.start, self.key.stop, self.key.step)

    def of_these(self, some: Rows) -> Rows:
        """Some of these queries."""
        if self.numbers is not None:
            return Rows((self.key, some.key), self.numbers[some.index])
        if some.numbers is None:
            return Rows(self.key[some.index])
        numbers = some.numbers + len(self.key) * (some.numbers < 0)
        return Rows((self.key, some.key), self.key.start + self.key.step * numbers)


def in_blocks(
    blocks: Blocks, inner: Inner, known: Known, done: list[mx.array]
) -> Iterable[tuple[Node, Any]]:
    """Every wanted value, by its node.

    Args: known: gives the value of a node that does not come of the square; done: what is to be
        computed before the first block; what the last one gives stands there afterwards.
    """
    alike: dict[Any, list[Wanted]] = {}
    for one in blocks.wanted:
        alike.setdefault((one.chosen, one.queries), []).append(one)
    for (_, count), group in alike.items():
        sums: list[Any] = [None] * len(group)
        for start in range(0, count, blocks.rows):
            rows = Rows(range(start, min(start + blocks.rows, count)))
            block = _Block(blocks, inner, known, tuple(done))
            parts = [block.part(one, rows) for one in group]
            sums = [_joined(*each) for each in zip(group, sums, parts, strict=True)]
            done[:] = [kept[-1] if isinstance(kept, list) else kept for kept in sums]
        for one, kept in zip(group, sums, strict=True):
            at = blocks.carried[one.of]
            yield one.node, _whole(kept, at.axis, block.half.get(one.node))


def _joined(one: Wanted, kept: Any, part: mx.array) -> Any:
    """What is kept of the blocks so far."""
    if one.pick is not None:
        return part
    if one.node is one.of:
        return [*(kept or ()), part]
    return part if kept is None else _JOINED[one.node.op](kept, part)


def _whole(kept: Any, axis: int, half: mx.Dtype | None) -> mx.array:
    whole = mx.concatenate(kept, axis=axis) if isinstance(kept, list) else kept
    return whole if half is None else whole.astype(half)


class _Block:
    """The values of some queries, each computed once.

    Args: after: what is to be done before.
    Attributes: half: the dtypes of sums that are added up in float32.
    """

    def __init__(self, blocks: Blocks, inner: Inner, known: Known, after: Sequence[mx.array]):
        self._blocks, self._inner, self._known, self._after = blocks, inner, known, after
        self._made: dict[tuple[Node, Any], Any] = {}
        self._scores: dict[Any, Any] = {}
        self.half: dict[Node, mx.Dtype] = {}

    def part(self, one: Wanted, rows: Rows) -> mx.array:
        """What one block adds to a wanted value."""
        if one.pick is not None:
            value = self.value(one.of, self._chosen(one.pick, one.of, Rows(range(1))))
            return in_a_buffer_of_its_own(value[thaw(one.pick.rest, self._known)])
        value = self.value(one.of, rows)
        if one.node is one.of:  # a part of the block is not to keep the whole of it
            return in_a_buffer_of_its_own(value)
        if one.node.op in ADDS and value.dtype in _HALF:
            self.half[one.node] = value.dtype
            value = value.astype(mx.float32)
        part = evaluate(one.node, self._lookup({one.of: value}))
        return part * (len(rows.key) / one.queries) if one.node.op == ops.MX_MEAN else part

    def value(self, node: Node, rows: Rows) -> mx.array:
        """A value at some of its queries."""
        key = node, rows.key
        if key not in self._made:
            self._made[key] = self._value(node, rows)
        return self._made[key]

    def _value(self, node: Node, rows: Rows) -> mx.array:
        at = self._blocks.carried[node]
        if node.op == ops.SITE:
            return self._seed(node, rows)
        if at.pick is not None:
            base = node.args[0]
            value = self.value(base, self._chosen(at.pick, base, rows))
            return value[self._rest(at.pick, rows)]
        given = {}
        for child in node.inputs:
            if child in self._blocks.carried:
                given[child] = self.value(child, rows)
            elif node.op in ops.ELEMENTWISE:
                given[child] = _rows_of(self._known(child), at, rows)
        if node.op in ops.RESHAPES:
            count = given[node.args[0]].shape[self._blocks.carried[node.args[0]].axis]
            shape = (*at.shape[: at.axis], count, *at.shape[at.axis + 1 :])
            return given[node.args[0]].reshape(shape)
        return evaluate(node, self._lookup(given))

    def _seed(self, node: Node, rows: Rows) -> mx.array:
        if rows.key not in self._scores:
            inner = self._inner.at(rows.index).after(self._after)
            self._scores[rows.key] = inner, inner.scores()
        inner, scores = self._scores[rows.key]
        return scores if site_of(node).path.endswith(SCORES) else inner.pattern(scores)

    def _chosen(self, pick: Pick, base: Node, rows: Rows) -> Rows:
        """Rows of what an index chooses, as rows of what it is chosen from."""
        if isinstance(pick.choice, range):
            return Rows(pick.choice).of_these(rows)
        numbers = self._numbers(pick.choice)
        count = self._blocks.carried[base].queries
        return Rows(pick.choice, mx.where(numbers < 0, numbers + count, numbers)).of_these(rows)

    def _rest(self, pick: Pick, rows: Rows) -> Any:
        index = list(thaw(pick.rest, self._known))
        if pick.beside is not None:
            beside = self._numbers(pick.beside)[rows.index]
            index[pick.at : pick.at + 2] = mx.arange(beside.size), beside
        return tuple(index)

    def _numbers(self, choice: Any) -> mx.array:
        numbers = mx.array(thaw(choice, self._known))
        return numbers.astype(mx.int32) if numbers.dtype in _UNSIGNED else numbers

    def _lookup(self, given: dict[Node, Any]) -> Known:
        return lambda node: given[node] if node in given else self._known(node)


_UNSIGNED = (mx.uint8, mx.uint16, mx.uint32)


def _rows_of(value: Any, at: Carried, rows: Rows) -> Any:
    """The rows of a value that goes with every query; others are the same for all of them."""
    right = at.from_right
    if getattr(value, "ndim", 0) < right or value.shape[-right] != at.queries:
        return value
    return value[(..., rows.index, *[slice(None)] * (right - 1))]
