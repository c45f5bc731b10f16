"""Nested values where an array is meant: `o * 2`, `-o`, `float(o)` of a tuple of arrays.

In: the class of what stands for a nested value.  Out: the class, with every operator of arrays
refusing, unless the value's own class has it.  Never: guesses which of the arrays is meant.
"""

from __future__ import annotations

import operator
from types import FunctionType
from typing import Any, TypeVar

from mlxgraph.errors.tracebacks import at_the_edge
from mlxgraph.record.handle import open_recording
from mlxgraph.record.operators import SIGNS

C = TypeVar("C", bound=type)
_ONE = {"neg": operator.neg, "abs": abs, "invert": operator.invert, "float": float, "int": int}
_TWO = {name: getattr(operator, f"__{name}__") for name in (*SIGNS, "lt", "le", "gt", "ge")}


def holds_arrays(kind: C) -> C:
    """A class of handles on nested values: `_result` of one is its value after the block."""
    for name, function in _ONE.items():
        _refuses(kind, f"__{name}__", function)
    for name, function in _TWO.items():
        _refuses(kind, f"__{name}__", function)
        if name in SIGNS:
            _refuses(kind, f"__r{name}__", lambda value, other, of=function: of(other, value))
    return kind


def _refuses(kind: type, name: str, function: Any) -> None:
    def method(self: Any, *others: Any) -> Any:
        if self._recording is None:
            return function(self._result, *others)
        open_recording(self)
        own = self._of_class(name)
        if isinstance(own, FunctionType):
            return own(self, *others)
        raise self._unknown(name, "be computed with")

    method.__name__ = name
    setattr(kind, name, at_the_edge(method))
