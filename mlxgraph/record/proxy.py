"""Proxies: what the user holds inside a block.  Everything done to one is recorded.

`Proxy` is an `mx.array` over a placeholder, so its shape and dtype are real and `isinstance`
holds; `Nest` stands for a tuple, list or dict of arrays.  When the block ends a saved `Proxy`
becomes a `Saved`: a plain array with the result in it.

A handle knows its recording, its node, and how it was reached: `_base` and `_step` for a view of
another handle, `_cell` for the whole value of a site.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx

from mlxgraph.errors import BoundsError, NotSavedError, UnboundParamError
from mlxgraph.graph.nest import is_container, map_nested
from mlxgraph.graph.node import Node
from mlxgraph.graph.text import brief
from mlxgraph.record import views
from mlxgraph.record.freeze import freeze
from mlxgraph.record.where import here

_SLOTS = ("_recording", "_node", "_base", "_step", "_cell", "_epoch", "_synced", "_result")
Step = views.Step


def wrap(
    recording: Any,
    node: Node,
    value: Any,
    base: Any = None,
    step: Step | None = None,
    cell: Any = None,
) -> Any:
    """A handle on a node, or the value itself where it holds no array."""
    if isinstance(value, mx.array):
        handle: Any = Proxy(value)
    elif is_container(value):
        handle = Nest()
    else:
        return value
    handle._recording = recording
    handle._node = node
    handle._base = base
    handle._step = step
    handle._cell = cell
    handle._epoch = cell.epoch if cell is not None else 0
    handle._synced = None
    return handle


def _open_recording(handle: Any) -> Any:
    recording = handle._recording
    if not recording.open:
        refuse(handle)
    return recording


def refuse(handle: Any) -> None:
    """Say why a handle cannot be used after its block."""
    if handle._recording.unbound:
        raise UnboundParamError(handle._recording.unbound)
    raise NotSavedError(handle._describe(), handle._birth())


def _describe(handle: Any) -> str:
    if handle._cell is not None and handle._base is None:
        return str(handle._cell.site)
    return brief(handle._node, handle._recording.constants)


def _birth(handle: Any) -> str:
    return str(handle._recording.places.get(handle._node, "an unknown line"))


def _set_item(handle: Any, step: Step, value: Any) -> None:
    recording = _open_recording(handle)
    in_place = (
        getattr(type(value), "_is_handle", False)
        and value._base is handle
        and value._step == step
        and value._synced is not None
        and value._synced is handle._node
    )
    if not in_place:  # `h[i] += v` has written through already and now assigns the view
        recording.update(handle, step, value)


def _save(handle: Any, name: str | None = None) -> Any:
    """Keep the value as it is at this line; after the block the result is an `mx.array`.

    Args: name: how `trace.saved_values` lists it; a site's own name if left out.
    """
    return _open_recording(handle).save(handle, name)


class Saved(mx.array):
    """A saved value after its block: an `mx.array`, still lazy, with nothing attached."""

    __slots__ = _SLOTS

    @property
    def value(self) -> mx.array:
        """The array itself."""
        return self

    def save(self, name: str | None = None) -> mx.array:
        """The block is over and the value is kept: nothing more to do."""
        return self

    def __reduce__(self) -> Any:
        return mx.array(self).__reduce__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return mx.array(self).__reduce_ex__(protocol)


class Proxy(mx.array):
    """A recorded array.  `shape`, `dtype`, `len` and iteration are known; nothing is computed.

    `float()`, `int()`, `bool()`, `.item()`, `.tolist()` and `np.array()` run what has been
    recorded so far and give the real value.
    """

    __slots__ = _SLOTS
    __array_ufunc__ = None  # numpy leaves `ndarray + proxy` to us
    _is_handle = True
    _describe = _describe
    _birth = _birth
    save = _save
    __hash__ = object.__hash__

    def _fill(self, result: mx.array) -> None:
        mx.array.__setitem__(self, ..., result)
        self._result = None
        self._recording = self._base = self._step = self._cell = self._synced = None
        self.__class__ = Saved

    @property
    def value(self) -> Any:
        """The proxy itself inside the block; the array after it."""
        _open_recording(self)
        return self

    # -- looking -----------------------------------------------------------------------------

    def _look(self) -> mx.array:
        return _open_recording(self).look(self._node)

    def item(self) -> Any:
        """The real value of a scalar, from a run of what was recorded so far."""
        return self._look().item()

    def tolist(self) -> Any:
        """The real values, as nested lists."""
        return self._look().tolist()

    def __float__(self) -> float:
        return float(self._look().item())

    def __int__(self) -> int:
        return int(self._look().item())

    def __index__(self) -> int:
        return operator.index(self._look().item())

    def __complex__(self) -> complex:
        return complex(self._look().item())

    def __bool__(self) -> bool:
        return bool(self._look().item())

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self._look().__array__(*args, **kwargs)

    def __format__(self, spec: str) -> str:
        return format(self._look().item(), spec) if spec else str(self)

    def __repr__(self) -> str:
        dtype = str(self.dtype).rpartition(".")[2]
        return f"<Proxy {self._describe()}: {self.shape} {dtype}>"

    __str__ = __repr__

    def __copy__(self) -> Any:
        return self._copied()

    def __deepcopy__(self, memo: Any) -> Any:
        return self._copied()

    def _copied(self) -> Any:
        """`mx.array(h)`: the same value, no longer tied to its site."""
        recording = _open_recording(self)
        return wrap(recording, self._node, mx.array(self))

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise NotSavedError(self._describe(), self._birth())

    # -- parts ---------------------------------------------------------------------------------

    def _index(self, index: Any) -> Step:
        recording = _open_recording(self)
        check_bounds(index, self.shape)
        return views.index(freeze(index, recording))

    def __getitem__(self, index: Any) -> Any:
        step = self._index(index)
        return self._recording.view(self, step)

    def __setitem__(self, index: Any, value: Any) -> None:
        _set_item(self, self._index(index), value)

    def __iter__(self) -> Iterator[Any]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(self.shape[0]))

    @property
    def T(self) -> Any:
        """The transpose: all axes reversed, as a view."""
        return view_call("mx.transpose", self, (), {})

    @property
    def mT(self) -> Any:
        """The last two axes swapped, as a view."""
        return view_call("mx.swapaxes", self, (-1, -2), {})

    @property
    def real(self) -> Any:
        """The real part."""
        return _open_recording(self).call("mx.real", (self,), {})

    @property
    def imag(self) -> Any:
        """The imaginary part."""
        return _open_recording(self).call("mx.imag", (self,), {})

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
        recording = _open_recording(self._array)
        where = freeze(self._where, recording)
        return recording.result(f"at.{name}", (self._array._node, where, recording.operand(value)))


def _at_method(name: str) -> Callable[[At, Any], Any]:
    def method(self: At, value: Any) -> Any:
        return self._do(name, value)

    method.__name__ = name
    method.__doc__ = f"The array with `value` {name}ed at the index, repeats counted each time."
    return method


for _name in ("add", "subtract", "multiply", "divide", "maximum", "minimum"):
    setattr(At, _name, _at_method(_name))


class Nest:
    """A recorded tuple, list or dict of arrays: index into it, iterate over it, save it whole."""

    __slots__ = _SLOTS
    _is_handle = True
    _describe = _describe
    _birth = _birth
    save = _save

    def _fill(self, result: Any) -> None:
        self._recording = self._base = self._step = self._cell = self._synced = None
        self._result = result

    @property
    def _template(self) -> Any:
        if self._recording is None:
            return self._result
        return self._recording.info(self._node).value

    def _value_template(self) -> Any:
        return self._template

    @property
    def value(self) -> Any:
        """The nested value of arrays, once the block is over."""
        if self._recording is None:
            return self._result
        raise NotSavedError(self._describe(), self._birth())

    def __getitem__(self, key: Any) -> Any:
        if self._recording is None:
            return self._result[key]
        recording = _open_recording(self)
        template = self._template
        if isinstance(key, slice):
            return tuple(self[i] for i in range(*key.indices(len(template))))
        return recording.view(self, views.item(self._key(key)))

    def _key(self, key: Any) -> Any:
        template = self._template
        if isinstance(template, dict):
            if key not in template:
                raise KeyError(f"{self._describe()} has no entry {key!r}; it has {list(template)}")
            return key
        if not -len(template) <= key < len(template):
            raise BoundsError(key, 0, len(template), (len(template),), str(here()))
        return key % len(template)

    def __setitem__(self, key: Any, value: Any) -> None:
        _open_recording(self)
        _set_item(self, views.item(self._key(key)), value)

    def __len__(self) -> int:
        return len(self._template)

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self._template, dict):
            return iter(self._template)
        return (self[i] for i in range(len(self._template)))

    def __contains__(self, key: Any) -> bool:
        return key in self._template

    def is_dict(self) -> bool:
        """Whether entries go by key."""
        return isinstance(self._template, dict)

    def keys(self) -> Any:
        """The keys, where the value is a dict."""
        return self._template.keys()

    def values(self) -> list[Any]:
        """The entries, where the value is a dict."""
        return [self[key] for key in self.keys()]

    def items(self) -> list[tuple[Any, Any]]:
        """Keys and entries, where the value is a dict."""
        return [(key, self[key]) for key in self.keys()]

    def __repr__(self) -> str:
        if self._recording is None:
            return repr(self._result)
        shapes = map_nested(self._template, lambda v: getattr(v, "shape", v))
        return f"<Nest {self._describe()}: {shapes}>"


HANDLES: set[type] = {Proxy, Nest}


# -- bounds ---------------------------------------------------------------------------------------


def check_bounds(index: Any, shape: tuple[int, ...]) -> None:
    """Static indices are checked here: MLX reads rubbish and ignores writes out of bounds."""
    if type(index) is int:
        if not shape or not -shape[0] <= index < shape[0]:
            raise BoundsError(index, 0, shape[0] if shape else 0, shape, str(here()))
        return
    if type(index) is not tuple:
        if type(index) is list:
            _check_list(index, 0, shape)
        return
    taken = sum(1 for part in index if part is not None and part is not Ellipsis)
    axis = 0
    for part in index:
        if part is None:
            continue
        if part is Ellipsis:
            axis = len(shape) - (taken - axis)
            continue
        if axis >= len(shape):
            raise BoundsError(axis, axis, 0, shape, str(here()))
        if type(part) is int and not -shape[axis] <= part < shape[axis]:
            raise BoundsError(part, axis, shape[axis], shape, str(here()))
        if type(part) is list:
            _check_list(part, axis, shape)
        axis += 1


def _check_list(part: list, axis: int, shape: tuple[int, ...]) -> None:
    for number in part:
        if type(number) is int and not -shape[axis] <= number < shape[axis]:
            raise BoundsError(number, axis, shape[axis], shape, str(here()))
        if type(number) is list:
            _check_list(number, axis, shape)


# -- views by name --------------------------------------------------------------------------------


def _reshape(handle: Proxy, *shape: Any) -> Step:
    dims = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    return views.reshaped("mx.reshape", (tuple(int(d) for d in dims),))


def _flatten(handle: Proxy, start_axis: int = 0, end_axis: int = -1) -> Step:
    return views.reshaped("mx.flatten", (start_axis, end_axis))


def _unflatten(handle: Proxy, axis: int, shape: Any) -> Step:
    return views.reshaped("mx.unflatten", (axis, tuple(int(d) for d in shape)))


def _axes(axis: Any) -> Any:
    return tuple(axis) if isinstance(axis, list) else axis


def _squeeze(handle: Proxy, axis: Any = None) -> Step:
    return views.reshaped("mx.squeeze", (_axes(axis),))


def _expand_dims(handle: Proxy, axis: Any) -> Step:
    return views.reshaped("mx.expand_dims", (_axes(axis),))


def _transpose(handle: Proxy, *axes: Any) -> Step:
    if len(axes) == 1 and isinstance(axes[0], (tuple, list)):
        axes = tuple(axes[0])
    if not axes or axes == (None,):
        axes = tuple(reversed(range(handle.ndim)))
    return views.transposed(tuple(axis % handle.ndim for axis in axes))


def _function_transpose(handle: Proxy, axes: Any = None) -> Step:
    return _transpose(handle) if axes is None else _transpose(handle, tuple(axes))


def _swapaxes(handle: Proxy, axis1: int, axis2: int) -> Step:
    return views.swapped(axis1, axis2)


def _moveaxis(handle: Proxy, source: int, destination: int) -> Step:
    return views.moved(source, destination)


def _matrix_transpose(handle: Proxy) -> Step:
    return views.swapped(-1, -2)


STEPS: dict[str, Callable[..., Step]] = {
    "mx.reshape": _reshape,
    "mx.flatten": _flatten,
    "mx.unflatten": _unflatten,
    "mx.squeeze": _squeeze,
    "mx.expand_dims": _expand_dims,
    "mx.transpose": _transpose,
    "mx.permute_dims": _transpose,
    "mx.swapaxes": _swapaxes,
    "mx.moveaxis": _moveaxis,
    "mx.matrix_transpose": _matrix_transpose,
}
VIEWS = frozenset({*STEPS, "mx.split"})
_KEYWORDS = {"mx.transpose": {"axes"}, "mx.permute_dims": {"axes"}, "mx.reshape": {"shape"}}


def view_call(op: str, handle: Proxy, args: tuple, kwargs: dict[str, Any]) -> Any:
    """One of MLX's shape functions on a proxy: a view that writes through."""
    recording = _open_recording(handle)
    if kwargs.pop("stream", None) is not None:
        return recording.call(op, (handle, *args), kwargs)
    if op == "mx.split":
        return _split(recording, handle, *args, **kwargs)
    for name in _KEYWORDS.get(op, ()):
        if name in kwargs:
            args = (*args, kwargs.pop(name))
    return recording.view(handle, STEPS[op](handle, *args, **kwargs))


def _split(recording: Any, handle: Proxy, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    axis %= handle.ndim
    size = handle.shape[axis]
    if isinstance(indices_or_sections, int):
        count = indices_or_sections
        if size % count:  # let MLX say it
            recording.call("mx.split", (handle, count, axis), {})
        bounds = [size // count * i for i in range(count + 1)]
    else:
        bounds = [0, *(min(int(i), size) for i in indices_or_sections), size]
    how = indices_or_sections
    frozen = how if isinstance(how, int) else tuple(int(i) for i in how)
    return [
        recording.view(handle, views.piece((frozen, axis), k, start, stop, axis, handle.ndim))
        for k, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False))
    ]


# -- operators and methods --------------------------------------------------------------------------

BINARY = {
    "add": "mx.add",
    "sub": "mx.subtract",
    "mul": "mx.multiply",
    "truediv": "mx.divide",
    "div": "mx.divide",
    "floordiv": "mx.floor_divide",
    "mod": "mx.remainder",
    "matmul": "mx.matmul",
    "and": "array.and",
    "or": "array.or",
    "xor": "array.xor",
    "lshift": "mx.left_shift",
    "rshift": "mx.right_shift",
}
COMPARE = {
    "lt": "mx.less",
    "le": "mx.less_equal",
    "gt": "mx.greater",
    "ge": "mx.greater_equal",
    "eq": "mx.equal",
    "ne": "mx.not_equal",
}
UNARY = {"neg": "mx.negative", "abs": "mx.abs", "invert": "array.invert"}


def _binary(op: str) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        recording = _open_recording(self)
        return recording.result(op, (self._node, recording.operand(other)))

    return method


def _reflected(op: str) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        recording = _open_recording(self)
        return recording.result(op, (recording.operand(other), self._node))

    return method


def _in_place(op: str) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        recording = _open_recording(self)
        recording.write(self, recording.result(op, (self._node, recording.operand(other))))
        return self

    return method


def _unary(op: str) -> Callable[[Any], Any]:
    def method(self: Any) -> Any:
        return _open_recording(self).result(op, (self._node,))

    return method


def _power(self: Any, other: Any) -> Any:
    """The exponent stays a constant: MLX treats small whole powers apart."""
    return _open_recording(self).call("mx.power", (self, other), {})


def _reflected_power(self: Any, other: Any) -> Any:
    recording = _open_recording(self)
    return recording.result("mx.power", (recording.operand(other), self._node))


def _in_place_power(self: Any, other: Any) -> Any:
    recording = _open_recording(self)
    recording.write(self, recording.call("mx.power", (self, other), {}))
    return self


for _name, _op in BINARY.items():
    setattr(Proxy, f"__{_name}__", _binary(_op))
    setattr(Proxy, f"__r{_name}__", _reflected(_op))
    setattr(Proxy, f"__i{_name}__", _in_place(_op))
for _name, _op in COMPARE.items():
    setattr(Proxy, f"__{_name}__", _binary(_op))
for _name, _op in UNARY.items():
    setattr(Proxy, f"__{_name}__", _unary(_op))
Proxy.__pow__ = _power  # type: ignore[method-assign]
Proxy.__rpow__ = _reflected_power  # type: ignore[method-assign]
Proxy.__ipow__ = _in_place_power  # type: ignore[method-assign]
Proxy.__hash__ = object.__hash__  # type: ignore[method-assign]

METHODS = (
    "abs all any argmax argmin astype conj cos cummax cummin cumprod cumsum diag diagonal exp log "
    "log10 log1p log2 logcumsumexp logsumexp max mean min prod reciprocal round rsqrt sin sqrt "
    "square std sum var view"
).split()
VIEW_METHODS = "flatten moveaxis reshape split squeeze swapaxes transpose".split()


def _method(op: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _open_recording(self).call(op, (self, *args), kwargs)

    return method


def _view_method(op: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return view_call(op, self, args, kwargs)

    return method


for _name in METHODS:
    setattr(Proxy, _name, _method(f"mx.{_name}"))
for _name in VIEW_METHODS:
    setattr(Proxy, _name, _view_method(f"mx.{_name}"))
