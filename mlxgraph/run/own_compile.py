"""Whether a model compiles parts of itself while it runs: read from the code of its classes.

In: classes.  Out: a bool.  Never: runs anything of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any


@lru_cache(maxsize=4096)
def may_compile(kind: type) -> bool:
    """Whether a method of a class, or a function that one calls by name, speaks of `compile`."""
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] in ("builtins", "mlx"):
            continue
        for member in vars(base).values():
            if any(map(may_call_compile, _functions(member))):
                return True
    return False


def may_call_compile(function: FunctionType) -> bool:
    """Whether a function, or one that it calls by name, speaks of `compile`."""
    return _speaks(function.__code__) or any(map(_speaks, _called(function)))


def _functions(member: Any) -> Iterator[FunctionType]:
    for value in (member, *(getattr(member, name, None) for name in ("__func__", "fget", "func"))):
        if type(value) is FunctionType:
            yield value


def _called(function: FunctionType) -> Iterator[CodeType]:
    """The code of the Python functions that a function may find by name."""
    for name in _names(function.__code__):
        value = function.__globals__.get(name)
        if type(value) is FunctionType:
            yield value.__code__


def _speaks(code: CodeType) -> bool:
    return "compile" in _names(code)


def _names(code: CodeType) -> set[str]:
    """The names that code uses, that of the functions written in it included."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _names(constant)
    return found
