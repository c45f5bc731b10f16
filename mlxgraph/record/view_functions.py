"""MLX's shape functions on a handle: each is a view that writes through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlxgraph.graph import ops
from mlxgraph.record import views
from mlxgraph.record.handle import open_recording
from mlxgraph.record.views import View


def _reshape(handle: Any, *shape: Any) -> View:
    dims = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    return views.reshaped(ops.MX_RESHAPE, (tuple(int(d) for d in dims),))


def _flatten(handle: Any, start_axis: int = 0, end_axis: int = -1) -> View:
    return views.reshaped(ops.MX_FLATTEN, (start_axis, end_axis))


def _unflatten(handle: Any, axis: int, shape: Any) -> View:
    return views.reshaped(ops.MX_UNFLATTEN, (axis, tuple(int(d) for d in shape)))


def _axes(axis: Any) -> Any:
    return tuple(axis) if isinstance(axis, list) else axis


def _squeeze(handle: Any, axis: Any = None) -> View:
    return views.reshaped(ops.MX_SQUEEZE, (_axes(axis),))


def _expand_dims(handle: Any, axis: Any) -> View:
    return views.reshaped(ops.MX_EXPAND_DIMS, (_axes(axis),))


def _transpose(handle: Any, *axes: Any) -> View:
    if len(axes) == 1 and isinstance(axes[0], (tuple, list)):
        axes = tuple(axes[0])
    if not axes or axes == (None,):
        axes = tuple(reversed(range(handle.ndim)))
    return views.transposed(tuple(axis % handle.ndim for axis in axes))


def _function_transpose(handle: Any, axes: Any = None) -> View:
    return _transpose(handle) if axes is None else _transpose(handle, tuple(axes))


def _swapaxes(handle: Any, axis1: int, axis2: int) -> View:
    return views.swapped(axis1, axis2)


def _moveaxis(handle: Any, source: int, destination: int) -> View:
    return views.moved(source, destination)


def _matrix_transpose(handle: Any) -> View:
    return views.swapped(-1, -2)


VIEW_FUNCTIONS: dict[str, Callable[..., View]] = {
    ops.MX_RESHAPE: _reshape,
    ops.MX_FLATTEN: _flatten,
    ops.MX_UNFLATTEN: _unflatten,
    ops.MX_SQUEEZE: _squeeze,
    ops.MX_EXPAND_DIMS: _expand_dims,
    ops.MX_TRANSPOSE: _transpose,
    ops.MX_PERMUTE_DIMS: _transpose,
    ops.MX_SWAPAXES: _swapaxes,
    ops.MX_MOVEAXIS: _moveaxis,
    ops.MX_MATRIX_TRANSPOSE: _matrix_transpose,
}
_KEYWORDS = {ops.MX_TRANSPOSE: {"axes"}, ops.MX_PERMUTE_DIMS: {"axes"}, ops.MX_RESHAPE: {"shape"}}


def view_call(op: str, handle: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """One of MLX's shape functions on a proxy: a view that writes through."""
    recording = open_recording(handle)
    kwargs.pop("stream", None)  # a view computes nothing that a stream would be chosen for
    if op == ops.MX_SPLIT:
        return _split(recording, handle, *args, **kwargs)
    for name in _KEYWORDS.get(op, ()):
        if name in kwargs:
            args = (*args, kwargs.pop(name))
    return recording.view(handle, VIEW_FUNCTIONS[op](handle, *args, **kwargs))


def _split(recording: Any, handle: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    axis %= handle.ndim
    size = handle.shape[axis]
    if isinstance(indices_or_sections, int):
        count = indices_or_sections
        if size % count:  # let MLX say it
            recording.call(ops.MX_SPLIT, (handle, count, axis), {})
        bounds = [size // count * i for i in range(count + 1)]
    else:
        bounds = [0, *(min(int(i), size) for i in indices_or_sections), size]
    how = indices_or_sections
    frozen = how if isinstance(how, int) else tuple(int(i) for i in how)
    return [
        recording.view(handle, views.piece((frozen, axis), k, start, stop, axis, handle.ndim))
        for k, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False))
    ]
