"""Named functions: functions of one array that are known by a name and arguments.

A closure prints as an address, equals nothing but itself and cannot be written down.  A `Named`
does what the closure does, and is also a value: `scale(0.5) == scale(0.5)`, and a graph that
holds it can be saved, for its name stands in a closed table.

    register("scale", scale)         at import, by whoever defines the functions
    Named("scale", (0.5,), closure)  what `scale(0.5)` returns

Arrays among the arguments count by shape and dtype, as lifted arrays do everywhere in a graph.
Never: imports what it names.  The table holds what was put in, and nothing else is ever looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mlxgraph.errors.tracebacks import at_the_edge
from mlxgraph.graph.node import PARAM, Node

Function = Callable[[Any], Any]

# Filled at import by the rooms above: interventions register their makers, `record.param` params.
_makers: dict[str, Callable[..., Function]] = {}
_plain: dict[str, Function] = {}
_examples: list[tuple[Callable[..., Any], str]] = []
_holes: list[Callable[..., Any]] = []  # one


def register(name: str, maker: Callable[..., Function]) -> None:
    """Let `maker(*arguments)` be what a saved function of this name is made by."""
    _makers[name] = maker


def register_plain(name: str, function: Function) -> None:
    """Let this very function, which takes no arguments, be known by a name."""
    _plain[name] = function


def register_hole(maker: Callable[..., Any]) -> None:
    """Let `maker(name, shape, dtype name)` be what a saved param among arguments is made by."""
    _holes[:] = [maker]


def register_example(function: Callable[..., Any], example: str) -> None:
    """Let a function that makes functions be known as one, with an example of how it is called."""
    _examples.append((function, example))


def example_of(function: Any) -> str:
    """How a function is to be called to give one of an array; nothing for any other."""
    return next((text for maker, text in _examples if maker is function), "")


def hole(name: str, shape: tuple[int, ...] | None, dtype: str | None) -> Any:
    """A param, to be used as an argument."""
    return _holes[0](name, shape, dtype)


def spec(function: Any) -> tuple[str, tuple | None] | None:
    """The name and arguments of a known function (None for one that takes none), or None."""
    if isinstance(function, Named):
        return (function.name, function.arguments) if function.name in _makers else None
    for name, known in _plain.items():
        if known is function:
            return name, None
    return None


def make(name: str, arguments: tuple | None) -> Function:
    """The function that `spec` describes.

    Raises: KeyError for a name that nobody registered, and whatever the maker says of arguments.
    """
    return _plain[name] if arguments is None else _makers[name](*arguments)


class Named:
    """A function of one array, as a value.

    Args:
        name: under which its maker is registered.
        arguments: what the maker was given: numbers, texts, None, arrays, params, functions.
        function: what it does.
    """

    __slots__ = ("name", "arguments", "function", "_key", "__weakref__")
    name: str
    arguments: tuple
    function: Function
    _key: tuple

    def __init__(self, name: str, arguments: tuple, function: Function):
        put = object.__setattr__
        put(self, "name", name)
        put(self, "arguments", tuple(arguments))
        put(self, "function", function)
        put(self, "_key", (name, tuple(_compared(value) for value in arguments)))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            f"a Named function is immutable; make another instead of setting {name!r}"
        )

    @at_the_edge
    def __call__(self, x: Any) -> Any:
        return self.function(x)

    def __reduce__(self) -> Any:
        if self.name in _makers:  # made again by whoever reads it, as from a file
            return make, (self.name, self.arguments)
        return Named, (self.name, self.arguments, self.function)

    def __eq__(self, other: object) -> bool:
        return type(other) is Named and other._key == self._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def __name__(self) -> str:
        return repr(self)

    @property
    def params(self) -> tuple[str, ...]:
        """The names of the holes among the arguments, in order of appearance."""
        names: list[str] = []
        for value in self.arguments:
            hole = param_node(value)
            names += [hole.args[0]] if hole else getattr(value, "params", ())
        return tuple(dict.fromkeys(names))

    def bound(self, values: Mapping[str, Any]) -> Function:
        """The function with holes among its arguments filled in."""

        def fill(value: Any) -> Any:
            hole = param_node(value)
            if hole is not None:
                return values.get(hole.args[0], value)
            return value.bound(values) if isinstance(value, Named) else value

        return make(self.name, tuple(fill(value) for value in self.arguments))

    def arrays(self) -> Iterator[Any]:
        """The arrays among the arguments, those of inner functions included."""
        for value in self.arguments:
            if isinstance(value, Named):
                yield from value.arrays()
            elif is_array(value):
                yield value

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(_shown(value) for value in self.arguments)})"


def param_node(value: Any) -> Node | None:
    """The node of a param that was given where a number or an array is expected."""
    node = getattr(value, "_node", None)
    return node if type(node) is Node and node.op == PARAM else None


def is_array(value: Any) -> bool:
    """Whether an argument is an array: it has a shape and a dtype, and is no hole."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and param_node(value) is None


def _compared(value: Any) -> Any:
    if isinstance(value, (bool, int, float, complex)):
        return type(value), repr(value)
    hole = param_node(value)
    if hole is not None:
        return hole
    if is_array(value):
        return "array", tuple(value.shape), str(value.dtype)
    if isinstance(value, (list, tuple)):
        return type(value), tuple(_compared(item) for item in value)
    if isinstance(value, slice):
        return slice, tuple(_compared(item) for item in (value.start, value.stop, value.step))
    return value


def _shown(value: Any) -> str:
    if is_array(value):
        return f"array{tuple(value.shape)}"
    return getattr(value, "__qualname__", None) or repr(value)
