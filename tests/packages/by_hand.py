"""What a model does without mlxgraph: its modules watched and pushed by patched classes.

Beside it, how a nested value is taken apart: by paths of attributes and items.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

Path = tuple[tuple[str, Any], ...]  # of steps ("attribute", name) and ("item", key)


def leaves(value: Any, path: Path = ()) -> dict[Path, mx.array]:
    """The arrays in a value of arrays, by their paths."""
    if isinstance(value, mx.array):
        return {path: value}
    if dataclasses.is_dataclass(value) or isinstance(value, SimpleNamespace):
        steps = [("attribute", name) for name in vars(value)]
    elif isinstance(value, dict):
        steps = [("item", key) for key in value]
    elif isinstance(value, (tuple, list)):
        steps = [("item", number) for number in range(len(value))]
    else:
        return {}
    found = {}
    for step in steps:
        found |= leaves(at(value, (step,)), (*path, step))
    return found


def numbers(arrays: dict[Path, mx.array]) -> list[Path]:
    """The paths of those with axes and with numbers that are no whole numbers."""
    kinds = {path: array.dtype for path, array in arrays.items() if array.ndim}
    return [path for path, dtype in kinds.items() if mx.issubdtype(dtype, mx.floating)]


def at(value: Any, path: Path) -> Any:
    """What lies at a path; works on proxies and on handles of sites too."""
    for kind, key in path:
        value = getattr(value, key) if kind == "attribute" else value[key]
    return value


def put(value: Any, path: Path, new: Any) -> None:
    """`value.logits = new`, `value[0] = new`"""
    *outer, (kind, key) = path
    holder = at(value, tuple(outer))
    if kind == "attribute":
        setattr(holder, key, new)
    else:
        holder[key] = new


def replaced(value: Any, path: Path, change: Callable[[Any], Any]) -> Any:
    """A value like it with another array at a path; the value itself is left alone."""
    if not path:
        return change(value)
    (kind, key), *rest = path
    part = replaced(at(value, path[:1]), tuple(rest), change)
    if kind == "attribute":
        return dataclasses.replace(value, **{key: part})
    if isinstance(value, dict):
        return value | {key: part}
    return type(value)(part if number == key else item for number, item in enumerate(value))


@contextlib.contextmanager
def answering(root: nn.Module, answer: Callable[[nn.Module, Any], Any]) -> Iterator[None]:
    """A block in which each module returns `answer(module, value)`, wherever it is called.

    A class whose `__call__` calls its base's is asked once.
    """
    kinds = {type(part): type(part).__call__ for part in root.modules()}
    inside: set[int] = set()

    def patched(original: Any) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if id(self) in inside:
                return original(self, *args, **kwargs)
            inside.add(id(self))
            try:
                value = original(self, *args, **kwargs)
            finally:
                inside.discard(id(self))
            return answer(self, value)

        return call

    inherited = {kind for kind in kinds if "__call__" not in vars(kind)}
    for kind, original in kinds.items():
        kind.__call__ = patched(original)
    try:
        yield
    finally:
        for kind, original in kinds.items():
            if kind in inherited:
                del kind.__call__
            else:
                kind.__call__ = original


def watched(root: nn.Module, inputs: tuple) -> tuple[Any, dict[int, dict[Path, mx.array]]]:
    """The output of a forward, and what each module gave at its first call, by its `id`."""
    seen: dict[int, dict[Path, mx.array]] = {}

    def note(part: nn.Module, value: Any) -> Any:
        if id(part) not in seen:  # copies: a forward may change an array in place later
            seen[id(part)] = {path: mx.array(array) for path, array in leaves(value).items()}
        return value

    with answering(root, note):
        return root(*inputs), seen


def pushed(root: nn.Module, inputs: tuple, target: nn.Module, path: Path) -> Any:
    """The output where one array of what a module first gives is `push`ed."""
    calls: list[nn.Module] = []

    def change(part: nn.Module, value: Any) -> Any:
        if part is not target or calls:
            return value
        calls.append(part)
        return replaced(value, path, push)

    with answering(root, change):
        return root(*inputs)


def push(array: Any) -> Any:
    """Another number added to each channel."""
    return array + mx.linspace(-1.0, 2.0, array.shape[-1]).astype(array.dtype)
