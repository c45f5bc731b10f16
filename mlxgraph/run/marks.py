"""Marks: what a softmax is given and what it gives, followed from one operation to the next.

Arrays of a watched forward wear a class that says which matrix products they follow from, entry by
entry, or which softmax they are the result of.  An operation that mixes entries gives an array
without marks; one that changes a softmax's result in place takes the mark away.  In another shape
scores are followed too: back in their product's they are in its order.

In: arrays of one forward.  Out: their marks.  Never: computes anything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from mlxgraph.graph import ops
from mlxgraph.mlx_facts.arrays import wear
from mlxgraph.mlx_facts.originals import ARRAY

Marks = frozenset[Any]
NONE: Marks = frozenset()
_ALSO = frozenset(
    {"clip", "nan_to_num"}
)  # entry by entry too; what the table claims is for two arrays


class _Followed(ARRAY):  # type: ignore[misc, valid-type]
    """An array of which it is known what it comes from.  Attributes: marks: matrix products."""

    __slots__ = ()
    marks: Marks = NONE


class _Scores(_Followed):
    """What follows entry by entry from matrix products."""

    __slots__ = ()

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(index, value)
        if isinstance(value, ARRAY) and value.ndim:  # a part may be of another product now
            wear(self, _Followed)


class _Pattern(_Followed):
    """What a softmax gave, or a cast of it: each softmax has a class of its own."""

    __slots__ = ()

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(index, value)
        wear(self, _Followed)

    def astype(self, *args: Any, **kwargs: Any) -> Any:
        """A cast is still the same pattern."""
        array = super().astype(*args, **kwargs)
        wear(array, type(self))
        return array


def is_entry_by_entry(name: str) -> bool:
    """Whether a function of `mx` gives, for every entry, what follows from that entry alone."""
    return f"mx.{name}" in ops.ELEMENTWISE or name in _ALSO


def is_a_reshape(name: str) -> bool:
    """Whether a function of `mx` gives the same entries in the same order."""
    return f"mx.{name}" in ops.RESHAPES


def marks_of(*values: Any, shape: tuple[int, ...] | None = None) -> Marks:
    """The products that arrays follow from.  Args: shape: what arrays are to be of."""
    found = [v for v in values if isinstance(v, _Scores)]
    if shape is not None and any(tuple(array.shape) != shape for array in found):
        return NONE
    return NONE.union(*[array.marks for array in found])


def mark_scores(array: Any, marks: Marks) -> None:
    """Have an array follow from products."""
    if marks:
        wear(array, _scores_from(marks))


def mark_pattern(array: Any) -> type:
    """Have an array be a softmax's result.  Returns: the mark."""
    kind = type("_Pattern", (_Pattern,), {"__slots__": ()})
    wear(array, kind)
    return kind


def pattern_of(array: Any) -> type | None:
    """The mark of the softmax that an array is the result of."""
    return type(array) if isinstance(array, _Pattern) else None


@lru_cache(maxsize=1024)
def _scores_from(marks: Marks) -> type:
    return type("_Scores", (_Scores,), {"__slots__": (), "marks": marks})


def _following(method: str) -> Callable[..., Any]:
    """An operator or a method of arrays that works entry by entry."""
    own = getattr(ARRAY, method)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        marks = marks_of(self, *args, *kwargs.values(), shape=tuple(self.shape))
        result = own(self, *args, **kwargs)
        if isinstance(result, ARRAY) and result.shape == self.shape:
            mark_scores(result, marks)
        return result

    return call


def _reshaping(method: str) -> Callable[..., Any]:
    """A method that gives the same entries in the same order."""
    own = getattr(ARRAY, method)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = own(self, *args, **kwargs)
        mark_scores(result, self.marks)
        return result

    return call


def _spoiling(method: str) -> Callable[..., Any]:
    """An operator that changes an array in place."""
    own = getattr(ARRAY, method)

    def call(self: Any, other: Any) -> Any:
        result = own(self, other)
        wear(self, _Followed)
        return result

    return call


def _names(form: str) -> list[str]:
    rows = [row for row in ops.OPERATIONS.values() if row.elementwise]
    return [form.format(name) for row in rows for name in row.operators]


_METHODS = [ops.short(r.name) for r in ops.OPERATIONS.values() if r.elementwise and r.method]
for _name in [*_names("__{}__"), *_names("__r{}__"), *_names("__i{}__"), *_METHODS, "astype"]:
    if hasattr(ARRAY, _name):
        setattr(_Scores, _name, _following(_name))
for _name in [ops.short(name) for name in ops.RESHAPES]:
    if hasattr(ARRAY, _name):
        setattr(_Scores, _name, _reshaping(_name))
for _name in _names("__i{}__"):
    if hasattr(ARRAY, _name):
        setattr(_Pattern, _name, _spoiling(_name))
