"""Modules that a forward uses and that are no part of the model: globals, attributes of classes,
and what functions keep in a cache.

Their weights are no inputs of a compiled run, which would go on with those of the day that it was
compiled.  Read from the code of classes and functions.

In: classes and functions.  Out: what such a module is called.  Never: runs anything of theirs.
"""

from __future__ import annotations

import dis
import gc
from collections.abc import Iterable, Iterator
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

import mlx.nn as nn

_CACHED = type(lru_cache(abs))
_OTHERS = ("builtins", "mlx", "mlxgraph", "numpy", "transformers", "functools", "typing", "math")
MOST_FUNCTIONS = 1000
DEEPEST = 4


def beyond(kinds: Iterable[type], functions: Iterable[FunctionType]) -> str:
    """The name of a module that code of these reaches past the model's tree; nothing if none."""
    waiting: list[FunctionType] = list(functions)
    for kind in kinds:
        for base in kind.__mro__:
            if _is_others(base):
                continue
            for name, value in vars(base).items():
                if _holds_module(value):
                    return f"{base.__name__}.{name}"
                waiting += _functions(value)
    done: set[int] = set()
    while waiting and len(done) < MOST_FUNCTIONS:
        function = waiting.pop()
        if id(function) in done or _is_others(function):
            continue
        done.add(id(function))
        for name in _globals_of(function.__code__):
            value = function.__globals__.get(name)
            if _holds_module(value):
                return name
            waiting += _functions(value)
    return ""


def _is_others(value: Any) -> bool:
    return str(getattr(value, "__module__", None)).partition(".")[0] in _OTHERS


def _functions(value: Any) -> Iterator[FunctionType]:
    names = ("__func__", "fget", "func", "__wrapped__")
    for one in (value, *(getattr(value, name, None) for name in names if not _has_own(value))):
        if type(one) is FunctionType:
            yield one


def _has_own(value: Any) -> bool:
    """Whether asking for an attribute may run code of the user's."""
    return any("__getattr__" in vars(base) for base in type(value).__mro__)


def _holds_module(value: Any, depth: int = 0) -> bool:
    if isinstance(value, nn.Module):
        return True
    if depth > DEEPEST:
        return False
    kind = type(value)
    if kind in (list, tuple):
        return any(_holds_module(item, depth + 1) for item in value)
    if kind is dict:
        return any(_holds_module(item, depth + 1) for item in value.values())
    if kind is _CACHED and not _is_others(value):
        return any(_holds_module(result, depth + 1) for result in _kept_by(value))
    return False


def _kept_by(cached: Any) -> Iterator[Any]:
    """The results in a cache of `functools`, as the garbage collector is told of them."""
    tables = [one for one in gc.get_referents(cached) if type(one) is dict]
    for link in (link for table in tables for link in table.values()):
        yield link
        yield from gc.get_referents(link)


@lru_cache(maxsize=4096)
def _globals_of(code: CodeType) -> frozenset[str]:
    """The names that code looks up in its module, that of the functions written in it included."""
    found = {
        i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _globals_of(constant)
    return frozenset(found)
