"""Proxies: what the user holds inside a block.  Everything done to one is recorded.

A `Proxy` is an `mx.array` over a placeholder, so its shape and dtype are real and `isinstance`
holds.  When the block ends a saved one becomes a `Saved`: a plain array with the result in it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import mlx.core as mx

from mlxgraph.errors import GradientError, MLXGraphError, ShapeError, UnknownSiteError
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import at_the_edge, trim, with_edges
from mlxgraph.graph import ops
from mlxgraph.graph.nested import is_container
from mlxgraph.graph.node import Node
from mlxgraph.graph.site_name import PORTS
from mlxgraph.graph.values import dtype_name
from mlxgraph.mlx_facts.arrays import fill, same_data, wear
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record import views
from mlxgraph.record.bounds import check_bounds
from mlxgraph.record.conform import check_number
from mlxgraph.record.freeze import freeze
from mlxgraph.record.handle import (
    HANDLES,
    SLOTS,
    birth,
    describe,
    fate,
    open_recording,
    refuse_pickle,
    save,
)
from mlxgraph.record.nested_proxy import NestedProxy, nested_proxy
from mlxgraph.record.no_array import holds_arrays
from mlxgraph.record.operators import from_numpy, methods, operators
from mlxgraph.record.view_functions import view_call
from mlxgraph.record.views import View


def wrap(recording: Any, node: Node, value: Any, origin: Any = None) -> Any:
    """A handle on a node, or the value itself where it holds no array.

    Args: value: the node's placeholder; origin: how the handle was reached (`write_through`).
    """
    if isinstance(value, ARRAY):
        handle: Any = Proxy(value)
    elif is_container(value):
        handle = nested_proxy(value)
    else:
        return value
    handle._recording = recording
    handle._node = node
    handle._origin = origin
    return handle


_CHOICE = "h.any() or h.all() in an `if`, or mx.where(h, a, b) for a choice of each"


def is_plain(value: Any) -> bool:
    """Whether a value holds no array, and so has no handle."""
    return not isinstance(value, ARRAY) and not is_container(value)


_STAYING = frozenset({int, slice, type(None), type(Ellipsis)})


def _stays(index: Any) -> bool:
    """Whether an index cannot be changed in place between two uses."""
    return _STAYING.issuperset(map(type, index if type(index) is tuple else (index,)))


def is_written(handle: Any, index: Any, value: Any) -> bool:
    """Whether `handle[index] = value` is the third step of `handle[index] += v`, of the very index:
    the second step has written through already."""
    origin = value._origin
    return (
        getattr(origin, "index", None) is index
        and index is not None
        and origin.base is handle
        and origin.written is not None
        and origin.written is handle._node
        and handle._recording.open
    )


def _itself(array: mx.array) -> mx.array:
    return array


class Saved(mx.array):
    """A saved value after its block: an `mx.array`, still lazy, with nothing attached."""

    __slots__ = SLOTS

    @property
    def value(self) -> mx.array:
        """The array itself."""
        return self

    def save(self, name: str | None = None) -> mx.array:
        """The block is over and the value is kept: nothing more to do."""
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _itself, (same_data(self),)  # comes back as a plain array


@partial(with_edges, but=("__getitem__", "__setitem__"))
class Proxy(Saved):
    """A recorded array.  `shape`, `dtype`, `len` and iteration are known; nothing is computed.

    `float()`, `int()`, `bool()`, `.item()`, `.tolist()` and `np.array()` run what has been
    recorded so far and give the real value.
    """

    # A subclass of `Saved`, so that Python asks a proxy first in `saved - proxy`, as it does in
    # `array - proxy`; without slots of its own, so that its class can be exchanged for `Saved`.
    __slots__ = ()
    __array_ufunc__ = at_the_edge(from_numpy)
    _describe = describe
    _birth = birth
    save = save
    __hash__ = object.__hash__

    def _fill(self, result: mx.array) -> None:
        if result.shape != self.shape:  # it would be broadcast
            raise ShapeError(
                f"{self._describe()} was {self.shape} when it was recorded, and this run gave"
                f" {result.shape}",
                self._birth(),
            )
        fill(self, result)
        self._result = None
        self._recording = self._origin = None
        wear(self, Saved)

    @at_the_edge
    def __getattr__(self, name: str) -> Any:
        if name in PORTS:  # `attn.pattern.output`
            advice = f"It is the value already: leave .{name} out."
            raise UnknownSiteError(name, (), self._describe(), kind="part", advice=advice, near=[])
        text = f"{type(self).__name__!r} object has no attribute {name!r}"
        raise AttributeError(text, name=name, obj=self)

    @property
    def value(self) -> Any:
        """The proxy itself inside the block; the array after it."""
        open_recording(self)
        return self

    # -- looking -----------------------------------------------------------------------------

    def _look(self) -> mx.array:
        return open_recording(self).look(self._node)

    def _number(self, use: str, instead: str) -> Any:
        """The one number there is.  Args: instead: what to write where there are several."""
        if self.size != 1:
            open_recording(self)
            raise ShapeError(
                f"{self._describe()} is {self.shape}, and `{use}` needs one number, as"
                " length-1 arrays alone have",
                str(here()),
                f"Write {instead}.",
            )
        return self._look().item()

    def item(self) -> Any:
        """The real value of a scalar, from a run of what was recorded so far."""
        return self._number("h.item()", "h.tolist(), or take one: h[0, -1].max().item()")

    def tolist(self) -> Any:
        """The real values, as nested lists."""
        return self._look().tolist()

    def __float__(self) -> float:
        return float(self._number("float(h)", "h.mean(), h.max(), or an index for one of them"))

    def __int__(self) -> int:
        return int(self._number("int(h)", "h.argmax(), or an index for one of them"))

    def __index__(self) -> int:
        return operator.index(self._number("h as an index", "an index for one of them"))

    def __complex__(self) -> complex:
        return complex(self._number("complex(h)", "an index for one of them"))

    def __bool__(self) -> bool:
        return bool(self._number("bool(h)", _CHOICE))

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self._look().__array__(*args, **kwargs)

    def __format__(self, spec: str) -> str:
        return (
            format(self._number("format(h)", "an index for one of them"), spec)
            if spec
            else str(self)
        )

    def __repr__(self) -> str:
        return f"<Proxy {self._describe()}: {self.shape} {dtype_name(self.dtype)}{fate(self)}>"

    __str__ = __repr__

    def __copy__(self) -> Any:
        return self._copied()

    def __deepcopy__(self, memo: Any) -> Any:
        return self._copied()

    def _copied(self) -> Any:
        """`mx.array(h)`: the same value, no longer tied to its site."""
        recording = open_recording(self)
        return wrap(recording, self._node, ARRAY(self))

    __reduce_ex__ = refuse_pickle

    # -- gradients ------------------------------------------------------------------------

    def backward(self) -> nullcontext[None]:
        """Take this scalar as the loss: from here on `h.grad` is its gradient at `h`.

        It may also be written as a block, `with loss.backward():`.
        """
        open_recording(self).loss = self
        return nullcontext()

    @property
    def grad(self) -> Any:
        """The gradient of the loss (the last `loss.backward()`) here, of this value's shape."""
        recording = open_recording(self)
        if recording.loss is None:
            raise GradientError(
                f"{self._describe()} has no gradient yet.\n"
                "  Write `loss.backward()` above, or `t.grad(loss, h)`."
            )
        return recording.gradient(recording.loss, self)

    # -- parts ---------------------------------------------------------------------------------

    def _index(self, index: Any, recording: Any) -> View:
        check_bounds(index, self.shape)
        return views.index(freeze(index, recording))

    def __getitem__(self, index: Any) -> Any:
        try:  # an edge, written out: this is called for every part
            recording = open_recording(self)
            part = recording.view(self, self._index(index, recording))
            if type(part) is Proxy and part._origin is not None and _stays(index):
                part._origin.index = index  # `h[i] += v` comes back with it
            return part
        except MLXGraphError as error:
            trim(error)
            raise

    def __setitem__(self, index: Any, value: Any) -> None:
        try:
            if type(value) is Proxy and is_written(self, index, value):
                return
            recording = open_recording(self)
            recording.write_part(self, self._index(index, recording), value)
        except MLXGraphError as error:
            trim(error)
            raise

    def __iter__(self) -> Iterator[Any]:
        open_recording(self)
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(self.shape[0]))

    @property
    def T(self) -> Any:
        """The transpose: all axes reversed, as a view."""
        return view_call(ops.MX_TRANSPOSE, self, (), {})

    @property
    def mT(self) -> Any:
        """The last two axes swapped, as a view."""
        return view_call(ops.MX_SWAPAXES, self, (-1, -2), {})

    @property
    def real(self) -> Any:
        """The real part."""
        return open_recording(self).call(ops.MX_REAL, (self,), {})

    @property
    def imag(self) -> Any:
        """The imaginary part."""
        return open_recording(self).call(ops.MX_IMAG, (self,), {})

    @property
    def at(self) -> At:
        """`h.at[index].add(value)`: a changed copy, as MLX's own."""
        return At(self)


class At:
    """`h.at[index]`: updates that return a new value and leave the handle alone."""

    def __init__(self, array: Proxy, index: Any = None):
        self._array = array
        self._where = index

    def __getitem__(self, index: Any) -> At:
        check_bounds(index, self._array.shape)
        return At(self._array, index)

    def _do(self, name: str, value: Any) -> Any:
        recording = open_recording(self._array)
        where = freeze(self._where, recording)
        check_number(f"at.{name}", value, self._array)
        return recording.result(f"at.{name}", (self._array._node, where, recording.operand(value)))


def _at_method(name: str) -> Callable[[At, Any], Any]:
    def method(self: At, value: Any) -> Any:
        return self._do(name, value)

    method.__name__ = name
    method.__doc__ = f"The array with `value` {name}ed at the index, repeats counted each time."
    return method


for _name in ("add", "subtract", "multiply", "divide", "maximum", "minimum"):
    setattr(At, _name, _at_method(_name))


for _name, _operator in {**operators(), **methods()}.items():
    setattr(Proxy, _name, _operator)
Proxy.__hash__ = object.__hash__  # type: ignore[method-assign, assignment]
HANDLES.add(Proxy)
holds_arrays(NestedProxy)
