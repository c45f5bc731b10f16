"""Frozen Python values: what a node's arguments are made of besides other nodes.

Interned nodes need hashable arguments that never compare equal by accident: `1`, `1.0` and
`True` are one dictionary key to Python, a slice is not hashable at all, and a list index means
something else than a tuple.  In: plain Python.  Out: small immutable stand-ins.
Never: imports mlx (dtypes travel by name) or looks inside a node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

DTYPES = frozenset(  # MLX's, under the names by which `mlx.core` has them
    """bool_ uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 bfloat16 float32 float64
    complex64""".split()
)
DEVICES = frozenset({"cpu", "gpu"})


def dtype_name(dtype: Any) -> str:
    """The name under which `mlx.core` has a dtype: `mlx.core.bool` -> `"bool_"`."""
    name = str(dtype).rpartition(".")[2]
    return "bool_" if name == "bool" else name


class _Frozen:
    """A value with one payload, compared by class and payload."""

    __slots__ = ("value", "_hash")
    value: Any

    def __init__(self, value: Any):
        self.value = value
        self._hash = hash((type(self), value))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.value == self.value  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value!r})"


class Literal(_Frozen):
    """A bool, float or complex: the numbers that equal some int without meaning the same."""

    __slots__ = ()

    def __init__(self, value: bool | float | complex):
        self.value = value
        self._hash = hash((type(value), repr(value)))

    def __eq__(self, other: object) -> bool:
        return (
            type(other) is Literal
            and type(other.value) is type(self.value)
            and repr(other.value) == repr(self.value)
        )

    __hash__ = _Frozen.__hash__


class Slice(_Frozen):
    """`start:stop:step`; each an int, None, or a node."""

    __slots__ = ()

    def __init__(self, start: Any, stop: Any, step: Any):
        super().__init__((start, stop, step))


FULL = Slice(None, None, None)  # `:`


class DType(_Frozen):
    """An array element type, by name."""

    __slots__ = ()


class Device(_Frozen):
    """Where an operation runs: the default stream of a device, by the device's name."""

    __slots__ = ()


class FrozenList(_Frozen):
    """A list, kept apart from a tuple; `value` is a tuple."""

    __slots__ = ()


class FrozenDict(_Frozen):
    """A dict with string keys; `value` is a tuple of pairs in their order."""

    __slots__ = ()


class Opaque(_Frozen):
    """A Python object that only identity tells apart (a function given to `mg.apply`)."""

    __slots__ = ()

    def __init__(self, value: Any):
        self.value = value
        self._hash = hash((Opaque, id(value)))

    def __eq__(self, other: object) -> bool:
        return type(other) is Opaque and other.value is self.value

    __hash__ = _Frozen.__hash__


def map_frozen(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """Rebuild a frozen argument with `leaf` applied to everything that is not a container."""
    kind = type(value)
    if kind is tuple:
        return tuple([map_frozen(item, leaf) for item in value])
    if kind is FrozenList:
        return FrozenList(tuple([map_frozen(item, leaf) for item in value.value]))
    if kind is FrozenDict:
        return FrozenDict(tuple([(key, map_frozen(item, leaf)) for key, item in value.value]))
    if kind is Slice:
        return Slice(*[map_frozen(item, leaf) for item in value.value])
    return leaf(value)


def frozen_leaves(value: Any) -> Iterator[Any]:
    """Everything in a frozen argument that is not a container, from left to right."""
    kind = type(value)
    if kind is tuple:
        for item in value:
            yield from frozen_leaves(item)
    elif kind is FrozenList or kind is Slice:
        for item in value.value:
            yield from frozen_leaves(item)
    elif kind is FrozenDict:
        for _, item in value.value:
            yield from frozen_leaves(item)
    else:
        yield value
