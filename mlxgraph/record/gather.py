"""`mg.gather` and `mg.part`: between a rank's part of a value and the whole of it.

A model that mlx-lm has sharded computes some heads and some neurons on each rank.  Each rank has
the next ones, in the order of the whole model.

In: proxies and arrays.  Out: the same, of all ranks, or of this one.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlxgraph.errors import InputError
from mlxgraph.errors.tracebacks import at_the_edge
from mlxgraph.mlx_facts.probes import is_followed
from mlxgraph.mlx_facts.processes import expected, joined, world
from mlxgraph.ranks import parts
from mlxgraph.ranks.held import is_spread
from mlxgraph.ranks.in_step import computed, in_step
from mlxgraph.ranks.said import digest
from mlxgraph.record.apply import apply
from mlxgraph.record.handle import is_handle

HEADS = 1  # the axis of heads, where a value has four


@at_the_edge
def gather(value: Any, axis: int | None = None) -> Any:
    """All heads, neurons or columns of a value of which each rank of a sharded model has a part.

    Args:
        value: a proxy, in a block; or an array.  Every rank gives its own, and all of them call.
        axis: along which the parts follow each other; left out, the axis of heads (1) of a value
            (batch, heads, length, ...), and the last axis of others.
    Returns: the whole value, the same on every rank, in the order of the whole model: a proxy, or
        an array, computed.  Where one process runs, and in a block on a model that is not sharded,
        `value` itself.
    Raises: InputError for an axis that it does not have; RankError.

    Example:
        >>> with model.trace("The capital of France is"):
        ...     heads = mg.gather(model.layers[3].self_attn.heads).save()
    """
    axis = _axis(value, axis)
    if _is_whole(value):
        return value
    if is_handle(value):
        return apply(all_of_it, value, axis)
    if is_followed(value):
        return all_of_it(value, axis)
    own = digest(tuple(value.shape), str(value.dtype), axis)
    found = in_step("mg.gather", lambda: all_of_it(value, axis), lambda: {"shape": own})
    computed([found])  # now, on every rank: who looks at it later looks alone
    return found


@at_the_edge
def part(value: Any, axis: int | None = None) -> Any:
    """This rank's part of a whole value: what `mg.gather` undoes.

    Args: value: a proxy or an array, the same on every rank; axis: as for `mg.gather`.
    Returns: a proxy, or an array.  Where one process runs, `value` itself.
    Raises: InputError for an axis that it does not have, or that is not to be divided evenly.

    Example:
        >>> with model.trace("The capital of France is"):
        ...     attention = model.layers[3].self_attn
        ...     whole = mg.gather(attention.heads)
        ...     whole[:, 5] = 0
        ...     attention.heads = mg.part(whole)
    """
    axis = _axis(value, axis)
    if _is_whole(value):
        return value
    size = world().size()
    if value.shape[axis] % size:
        raise InputError(
            f"axis {axis} of {tuple(value.shape)} has no {size} equal parts.\n"
            "  Write axis= for the one that the ranks share."
        )
    return apply(own_part, value, axis) if is_handle(value) else own_part(value, axis)


parts.register(gather, part)


def _is_whole(value: Any) -> bool:
    """Whether a rank has all of a value: where there is one rank, or no sharded model."""
    if expected() == 1:
        return True
    if not is_handle(value):
        return False
    return not is_spread(module for _, module in value._recording.root.named_modules())


def all_of_it(value: mx.array, axis: int) -> mx.array:
    return joined(value, axis, world())


def own_part(value: mx.array, axis: int) -> mx.array:
    group = world()
    return value.split(group.size(), axis)[group.rank()]


def _axis(value: Any, axis: int | None) -> int:
    count = getattr(value, "ndim", 0)
    if not count:
        raise InputError(f"{value!r:.60} is no array with parts.\n  Write mg.gather(attn.heads).")
    if axis is None:
        return HEADS if count == 4 else count - 1
    if not -count <= axis < count:
        raise InputError(f"axis {axis} of {tuple(value.shape)}: there are axes 0 to {count - 1}.")
    return axis % count
