"""A matrix put back as a module stores it: in its dtype, or quantised with its own bits and groups.

In: a module that `matrices.is_stored` knows, a matrix of floats.  Out: its new entries.
Never: writes to the module.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlxgraph.mlx_facts.modules import is_embedding

AFFINE = "affine"


def can_store(module: Any) -> bool:
    """Whether another matrix can be stored in the module's own way: one that quantises at each
    call, or has one more scale for all of its matrix, is left alone."""
    if module.get("global_scale") is not None:
        return False
    return module.get("scales") is not None or not hasattr(module, "bits")


def stored(module: Any, matrix: mx.array) -> dict[str, mx.array]:
    """A matrix (..., out, in) as entries of a module: rounded as mlx-lm's own conversion does,
    first to the dtype that is computed in, then to the few bits of each group."""
    if module.get("scales") is None:
        return {"weight": matrix.astype(module["weight"].dtype)}
    mode = getattr(module, "mode", AFFINE)
    if mode == AFFINE:
        matrix = matrix.astype(module["scales"].dtype)
    how = {"group_size": module.group_size, "bits": module.bits, "mode": mode}
    weight, scales, *biases = mx.quantize(matrix, **how)
    return {"weight": weight, "scales": scales, **({"biases": biases[0]} if biases else {})}


def stored_scaled(module: Any, scale: Any) -> dict[str, mx.array] | None:
    """The entries of a module whose outputs are multiplied by a number, or by (out,) of them,
    where its few bits can stay: a group of affine codes is scaled by its scale and its bias.

    Returns: None where they cannot.
    """
    if module.get("scales") is None or getattr(module, "mode", AFFINE) != AFFINE:
        return None
    one = not isinstance(scale, mx.array) or scale.size == 1
    if not one and is_embedding(module):  # whose outputs lie along the groups
        return None
    factor = scale if not isinstance(scale, mx.array) else scale.reshape(() if one else (-1, 1))
    found = {}
    for name in ("scales", "biases"):
        array = module[name]
        found[name] = (array.astype(mx.float32) * factor).astype(array.dtype)
    return found
