"""Attention that a model writes out by hand: found where that is certain.

    scores = queries @ keys.swapaxes(-1, -2)
    pattern = mx.softmax(scores, axis=-1)
    heads = pattern @ values

Certain is: a softmax over the last axis in a module's own forward, whose result itself (or a cast
of it) is the left side of a later matrix product, and one product before it that gives the
softmax's shape.  What lies between (masks, soft caps) is the model's: scores are what the softmax
is given, queries and keys what the product is given.

In: what one forward's operations are given and give.  Out: which of them are an attention's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.graph.inside import HEADS, KEYS, PATTERN, QUERIES, SCORES, VALUES, parted
from mlxgraph.mlx_facts.arrays import wear
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.run.attention import KERNELS, Answers, shown

MATMUL, SOFTMAX = "matmul", "softmax"


class Written(NamedTuple):
    """One attention: the numbers of its product, its softmax and its second product among the
    operations of that name of its module."""

    scores: int
    softmax: int
    heads: int

    def step(self, name: str, number: int) -> Callable[..., Any] | None:
        """What an operation is in it."""
        if name == SOFTMAX:
            return _pattern if number == self.softmax else None
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


class _Marked(ARRAY):  # type: ignore[misc, valid-type]
    """What a softmax gave, or a cast of it: each softmax has a class of its own."""

    __slots__ = ()

    def astype(self, *args: Any, **kwargs: Any) -> Any:
        """A cast is still the same pattern."""
        array = ARRAY.astype(self, *args, **kwargs)
        wear(array, type(self))
        return array


class _Step(NamedTuple):
    name: str
    number: int
    shapes: tuple[tuple[int, ...], ...]  # of what it is given
    gives: tuple[int, ...]
    pattern: Any = None  # the class of what a softmax gives, or a product takes on the left


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
        name = (parted(path) or ("", ""))[1].partition(".")[2]
        if name in KERNELS:
            self._running[-1].append(_Step(name, number, (), ()))
        if name not in (MATMUL, SOFTMAX) or not isinstance(result, ARRAY):
            return
        if not all(isinstance(value, ARRAY) for value in args[: 1 + (name == MATMUL)]):
            return
        if name == SOFTMAX:
            axis = kwargs.get("axis", args[1] if len(args) > 1 else None)
            if axis not in (-1, [-1], (-1,), result.ndim - 1):
                return
            wear(result, type("_Marked", (_Marked,), {"__slots__": ()}))
        elif len(args) != 2 or kwargs:
            return
        arrays = args[:2] if name == MATMUL else args[:1]
        shapes = tuple(tuple(array.shape) for array in arrays)
        pattern = type(result if name == SOFTMAX else args[0])
        self._running[-1].append(_Step(name, number, shapes, tuple(result.shape), pattern))

    def end(self, path: str) -> None:
        """The forward of a module is over."""
        steps = self._running.pop()
        softmaxes = [k for k, step in enumerate(steps) if step.name == SOFTMAX]
        if not softmaxes or any(step.name in KERNELS for step in steps):
            return
        after = 0
        for at in softmaxes:
            shape = steps[at].gives
            heads = [s for s in steps[at + 1 :] if s.pattern is steps[at].pattern]
            before = [s for s in steps[after:at] if s.name == MATMUL and s.gives == shape]
            if not heads:
                continue
            reason = _doubt(steps[at], heads, before)
            if reason:
                self.unknown[path] = reason
                return
            found = Written(before[0].number, steps[at].number, heads[0].number)
            self.found.setdefault(path, []).append(found)
            after = at + 1


def _doubt(softmax: _Step, heads: list[_Step], before: list[_Step]) -> str:
    """Why a softmax and the products around it are no attention for sure."""
    seems = "it writes out what seems to be an attention, and "
    if len(heads) > 1:
        return seems + f"{len(heads)} matrix products take the softmax's result."
    if len(before) != 1:
        count = len(before) or "no"
        return seems + f"{count} matrix products before the softmax have its shape, not one."
    shapes = (*before[0].shapes, softmax.gives, *heads[0].shapes)
    if len({len(shape) for shape in shapes}) > 1 or len(softmax.gives) not in (4, 5):
        return seems + "its heads have no axis of their own, or not everywhere."
    return ""
