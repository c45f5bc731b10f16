"""The matrix that a module multiplies by, as floats: dequantised, adapters added.

In: a module.  Out: `W` of shape (out, in), so that the module's output is `x @ W.T`, and its bias
if it has one; of experts and heads (number, out, in); None for a module that is no such map.
Floats are float32: every value stored in bfloat16, float16 or a few bits is one exactly.
Never: writes to the module, draws random numbers.
"""

from __future__ import annotations

import sys
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.arrays import same_data
from mlxgraph.mlx_facts.modules import enter, twin_of

# mlx-lm's own, by file: importing them takes seconds, and who holds one has done so.
_OF_MLX_LM = {
    "mlx_lm.models.switch_layers": ("SwitchLinear", "QuantizedSwitchLinear"),
    "mlx_lm.models.mla": ("MultiLinear", "QuantizedMultiLinear"),
}
_ADAPTERS = ("mlx_lm.tuner.lora", "mlx_lm.tuner.dora")
_OF_MLX = ("Linear", "QuantizedLinear", "Embedding", "QuantizedEmbedding", "QQLinear")
_CLOSE = {mx.float32: 1e-4, mx.float16: 1e-2, mx.bfloat16: 4e-2}  # of a linear map and its matrix


def matrix_of(module: nn.Module, rows: Any = None) -> mx.array | None:
    """The matrix of a module, lazy; or None.

    Args: rows: an index into its first axis, so that no others are computed.
    """
    if is_stored(module):
        return _floats(module, slice(None) if rows is None else rows)
    found = _fused(module) if is_adapter(module) else _by_trying(module)
    return found if found is None or rows is None else found[rows]


def part_of_matrix(module: nn.Module) -> mx.array:
    """What a rank holds of the matrix of a sharded linear module, as it is or quantised, lazy."""
    return _floats(module, slice(None))


def may_have_matrix(module: nn.Module) -> bool:
    """Whether a module holds something that could be a matrix, before any is made."""
    if is_stored(module) or is_adapter(module):
        return True
    return any(isinstance(value, mx.array) and value.ndim == 2 for value in module.values())


# -- matrices that are stored ------------------------------------------------------------------


def is_stored(module: nn.Module) -> bool:
    """Whether a module is one of those whose `weight` is the matrix, as it is or quantised.

    A subclass with a call of its own may do as it likes.
    """
    return type(module).__call__ in {kind.__call__ for kind in _kinds()}


def _kinds() -> list[Any]:
    found = [vars(nn).get(name) for name in _OF_MLX]
    for file, names in _OF_MLX_LM.items():
        if file in sys.modules:
            found += [getattr(sys.modules[file], name, None) for name in names]
    return [kind for kind in found if kind is not None]


def _floats(module: Any, rows: Any) -> mx.array:
    weight, scales, biases = module["weight"], module.get("scales"), module.get("biases")
    if scales is None and not hasattr(module, "bits"):
        return _widened(weight[rows] if rows != slice(None) else same_data(weight))
    how = {"group_size": module.group_size, "bits": module.bits, "mode": _mode(module)}
    if scales is None:  # quantised at each call, as a `QQLinear` that is trained
        weight, scales, *rest = mx.quantize(weight, **how)
        biases = rest[0] if rest else None
    weight, scales = weight[rows], scales[rows]
    if biases is not None:  # scales are floats too, and in the dtype that is computed in
        biases, scales = biases[rows].astype(mx.float32), scales.astype(mx.float32)
    shared = module.get("global_scale")
    if shared is None:
        return mx.dequantize(weight, scales, biases, dtype=mx.float32, **how)
    parts = [
        mx.dequantize(w, s, None, dtype=mx.float32, global_scale=g, **how)
        for w, s, g in zip(weight, scales, shared[rows], strict=True)
    ]
    return mx.stack(parts)


def _mode(module: Any) -> str:
    return getattr(module, "mode", "affine")


def _widened(array: mx.array) -> mx.array:
    return array if array.dtype in (mx.float32, mx.float64) else array.astype(mx.float32)


# -- adapters ----------------------------------------------------------------------------------


def is_adapter(module: nn.Module) -> bool:
    return type(module).__module__ in _ADAPTERS and hasattr(module, "fuse")


def _fused(module: Any) -> mx.array | None:
    """What mlx-lm's own `fuse` makes of an adapter on the floats of what it adapts."""
    name = "linear" if "linear" in module else "embedding"
    base = matrix_of(module[name]) if name in module else None
    if base is None:
        return None
    twin = twin_of(module)
    for key, value in module.items():
        is_float = isinstance(value, mx.array) and mx.issubdtype(value.dtype, mx.floating)
        enter(twin, key, _widened(value) if is_float else value)
    plain = nn.Module()
    plain.weight = base
    enter(twin, name, plain)
    before = random_state.current()
    try:
        return twin.fuse().weight  # type: ignore[no-any-return]
    finally:  # a new layer is made, and draws what is then replaced
        random_state.restore(before)


# -- any other module: a linear map is known by what it does to the axes -------------------------


def _by_trying(module: nn.Module) -> mx.array | None:
    """The matrix of a module that holds one in a way of its own, if it is a linear map.

    One with modules in it is not called: what these would keep of it, they would keep.
    """
    if not may_have_matrix(module) or len(module.modules()) > 1:
        return None
    before = random_state.current()
    try:
        for width in _widths(module):
            found = _of_width(module, width)
            if found is not None:
                return found
    finally:
        random_state.restore(before)
    return None


def _widths(module: nn.Module) -> list[int]:
    """How many features a module may take."""
    said = [getattr(module, name, None) for name in ("in_features", "input_dims")]
    shapes = [v.shape for v in module.values() if isinstance(v, mx.array) and v.ndim == 2]
    found = [*said, *(shape[-1] for shape in shapes), *(shape[0] for shape in shapes)]
    return list(dict.fromkeys(width for width in found if isinstance(width, int)))


def _of_width(module: nn.Module, width: int) -> mx.array | None:
    twin = twin_of(module)  # what it would keep of a call is dropped with it
    for key, value in module.items():
        enter(twin, key, value)
    floats = [v.dtype for v in module.values() if isinstance(v, mx.array)]
    dtype = next((d for d in floats if mx.issubdtype(d, mx.floating)), mx.float32)
    x = mx.cos(mx.arange(2 * width, dtype=mx.float32)).reshape(2, width)
    given = mx.concatenate([x, x[:1] + 3 * x[1:], mx.zeros((1, width))]).astype(dtype)
    try:
        answer = twin(given)
        if not isinstance(answer, mx.array) or answer.ndim != 2 or answer.shape[0] != 4:
            return None
        one, two, both, none = answer.astype(mx.float32)
        mixed = one + 3 * (two - none)
        if not _close(both, mixed, dtype):
            return None
        matrix = twin(mx.eye(width, dtype=dtype)).astype(mx.float32) - none
    except Exception:  # it takes something else, or so many features not
        return None
    same = _close(x @ matrix + none, answer[:2].astype(mx.float32), dtype)
    return matrix.T if same else None


def _close(a: mx.array, b: mx.array, dtype: Any) -> bool:
    apart, size = mx.abs(a - b).max(), mx.maximum(mx.abs(a).max(), mx.abs(b).max())
    return bool((apart <= _CLOSE.get(dtype, 1e-4) * size + 1e-12).item())
