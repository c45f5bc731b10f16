"""Attention that a model writes out by hand: found where that is certain.

    scores = queries @ keys.swapaxes(-1, -2)
    pattern = mx.softmax(scores, axis=-1)
    heads = pattern @ values

Certain is: a softmax over the last axis in a module's own forward, of what follows entry by entry
from one matrix product of that forward (masks, soft caps), and whose result itself, or a cast of
it, is the left side of one later product.  Scores are what the softmax is given, queries and keys
what the product is given.

In: what one forward's operations are given and give.  Out: which of them are an attention's.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.graph import ops
from mlxgraph.graph.inside import HEADS, KEYS, PATTERN, QUERIES, SCORES, VALUES, parted
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.run.attention import KERNELS, Answers, shown
from mlxgraph.run.marks import (
    is_a_reshape,
    is_entry_by_entry,
    mark_pattern,
    mark_scores,
    marks_of,
    pattern_of,
)

MATMUL = "matmul"
SOFTMAX = {"softmax": None, ops.NN_SOFTMAX: -1}  # and the axis of each where none is given
STEPS = frozenset({MATMUL, *SOFTMAX})
OTHER_PRODUCTS = frozenset(
    """addmm block_masked_mm einsum gather_mm gather_qmm inner kron outer quantized_matmul
    segmented_mm tensordot vecdot""".split()
)


class Written(NamedTuple):
    """One attention: the numbers of its product, its softmax (with its name) and its second product
    among the operations of that name of its module."""

    scores: int
    softmax: tuple[str, int]
    heads: int

    def step(self, name: str, number: int) -> Callable[..., Any] | None:
        """What an operation is in it."""
        if name in SOFTMAX:
            return _pattern if (name, number) == self.softmax else None
        return {self.scores: _scores, self.heads: _heads}.get(number)


def _scores(answers: Answers, real: Callable[..., Any], queries: Any, turned: Any) -> Any:
    queries = _answered(answers, QUERIES, queries)
    if answers.wants(KEYS):
        keys = turned.swapaxes(-1, -2)
        turned = _answered(answers, KEYS, keys).swapaxes(-1, -2)
    return real(queries, turned)


def _pattern(
    answers: Answers, real: Callable[..., Any], scores: Any, *args: Any, **kwargs: Any
) -> Any:
    scores = _answered(answers, SCORES, scores)
    return _answered(answers, PATTERN, real(scores, *args, **kwargs))


def _heads(answers: Answers, real: Callable[..., Any], pattern: Any, values: Any) -> Any:
    return _answered(answers, HEADS, real(pattern, _answered(answers, VALUES, values)))


def _answered(answers: Answers, name: str, value: mx.array) -> mx.array:
    """The value that goes on: shown with one axis of heads, whether or not they are grouped."""
    if not answers.wants(name):
        return value
    if value.ndim == 4:
        return shown(answers, name, value)
    flat = value.reshape(value.shape[0], -1, *value.shape[3:])
    return shown(answers, name, flat).reshape(value.shape)


# -- finding --------------------------------------------------------------------------------------


class _Step(NamedTuple):
    name: str
    number: int
    gives: tuple[int, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()  # of what it is given
    marks: frozenset[Any] = frozenset()  # the products that a softmax's scores follow from
    pattern: Any = None  # which one a softmax gives, or a product takes on the left


class Finder:
    """Looks for attentions among the operations of one forward, module by module.

    Attributes: found: the attentions of each module, in their order; unknown: why one that a module
        seems to write out is not certain.
    """

    def __init__(self) -> None:
        self.found: dict[str, list[Written]] = {}
        self.unknown: dict[str, str] = {}
        self.start()

    def start(self) -> None:
        """A forward begins, perhaps once more."""
        self.found.clear()
        self.unknown.clear()
        self._running: list[list[_Step]] = []

    def begin(self) -> None:
        """A module's own forward begins."""
        self._running.append([])

    def saw(self, path: str, number: int, args: tuple, kwargs: dict[str, Any], result: Any) -> None:
        """An operation of it was called."""
        module, tail = parted(path) or ("", "")
        name = tail.partition(".")[2]
        if name in KERNELS:
            self._running[-1].append(_Step(name, number))
        if not isinstance(result, ARRAY):
            return
        shape, given = tuple(result.shape), [value for value in args if isinstance(value, ARRAY)]
        if name == MATMUL and len(args) == len(given) == 2 and not kwargs:
            shapes = tuple(tuple(array.shape) for array in given)
            step = _Step(name, number, shape, shapes, pattern=pattern_of(given[0]))
            mark_scores(result, frozenset({(module, number)}))
        elif name in SOFTMAX and given and _is_over_the_last(name, args, kwargs, result.ndim):
            step = _Step(name, number, shape, (shape,), marks_of(given[0]), mark_pattern(result))
        elif name in OTHER_PRODUCTS:
            step = _Step(name, number, shape)
        else:
            if is_entry_by_entry(name):
                mark_scores(result, marks_of(*args, *kwargs.values(), shape=shape))
            elif is_a_reshape(name):
                mark_scores(result, marks_of(*args[:1]))
            return
        self._running[-1].append(step)

    def end(self, path: str) -> None:
        """The forward of a module is over."""
        steps = self._running.pop()
        softmaxes = [k for k, step in enumerate(steps) if step.name in SOFTMAX]
        if not softmaxes or any(step.name in KERNELS for step in steps):
            return
        after, doubt = 0, ""
        for at in softmaxes:
            softmax, own = steps[at], {(path, step.number): step for step in steps[:at]}
            heads = [
                s for s in steps[at + 1 :] if s.name == MATMUL and s.pattern is softmax.pattern
            ]
            before = [own.get(mark) for mark in softmax.marks]
            others = [s.name for s in steps[after:at] if _is_another(s, softmax)]
            if not heads and (len(softmax.gives) < 4 or not (before or others)):
                continue  # a router's, say
            doubt = _doubt(softmax, heads, before, others)
            if doubt:
                break
            scores = before[0]
            assert scores is not None
            found = Written(scores.number, (softmax.name, softmax.number), heads[0].number)
            self.found.setdefault(path, []).append(found)
            after = at + 1
        if doubt and path not in self.found:
            self.unknown[path] = doubt


def _is_over_the_last(name: str, args: tuple, kwargs: dict[str, Any], ndim: int) -> bool:
    axis = kwargs.get("axis", args[1] if len(args) > 1 else SOFTMAX[name])
    return axis in (-1, [-1], (-1,), ndim - 1)


def _is_another(step: _Step, softmax: _Step) -> bool:
    """Whether a product that is no `a @ b` may be one that scores are made of."""
    return step.name in OTHER_PRODUCTS and prod(step.gives) == prod(softmax.gives)


def _doubt(
    softmax: _Step, heads: list[_Step], before: list[_Step | None], others: list[str]
) -> str:
    """Why a softmax and the products around it are no attention for sure."""
    seems = "it writes out what seems to be an attention, and "
    if others:
        those = " and ".join(sorted({*others}))
        return seems + f"its scores may come from {those}, not from `a @ b` alone."
    if len(before) > 1:
        return seems + f"{len(before)} matrix products make up its scores, not one."
    if len(heads) > 1:
        return seems + f"{len(heads)} matrix products take the softmax's result."
    if not heads:
        return seems + "what its softmax gives is changed before it is multiplied."
    if not before or before[0] is None or before[0].gives != softmax.gives:
        return seems + (
            "what its softmax is given does not follow entry by entry from a matrix product of its"
            " own."
        )
    shapes = (*before[0].shapes, softmax.gives, *heads[0].shapes)
    if len({len(shape) for shape in shapes}) > 1 or len(softmax.gives) not in (4, 5):
        return seems + "its heads have no axis of their own, or not everywhere."
    return ""
