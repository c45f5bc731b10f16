"""MLX's processes: who started this one, how they speak to each other, what a model holds of them.

The beliefs:

- `mlx.launch` says in the environment how many processes there are, before any of them speaks.
- A collective on a stream of its own, in a thread of its own, goes on while other threads compute.
  What a thread has not computed yet no other thread can compute: arrays change hands computed.
- A process that is there long before the others is told so, and can ask for the group again.
- Where a process ends, those that wait for it are told (`RuntimeError`), or end too.
- A collective that nobody evaluates says nothing to anybody: placeholders pass through models that
  hold some, as through any other.
- An array of any dtype can be looked at as bytes, and made of them again.
- A module that computes with others keeps their group as a plain attribute.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.core.distributed import Group as Group
from mlx.nn.layers.distributed import (
    AllToShardedLinear,
    QuantizedAllToShardedLinear,
    QuantizedShardedToAllLinear,
    ShardedToAllLinear,
)

_ALL_GATHER, _EVAL = mx.distributed.all_gather, mx.eval
_INIT = mx.distributed.init
_CONCATENATE, _ZEROS = mx.concatenate, mx.zeros
_ARRAY = mx.array
_SIZES = ("MLX_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # as a number
_LISTS = ("MLX_HOSTFILE", "MLX_IBV_DEVICES")  # a file, with an entry for each process


def expected(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes were started together, by what the launcher says; 1 by itself."""
    most = 1
    for name in _SIZES:
        if environment.get(name, "").isdigit():
            most = max(most, int(environment[name]))
    for name in _LISTS if "MLX_RANK" in environment else ():
        try:
            with open(environment[name]) as file:
                most = max(most, len(json.load(file)))
        except (KeyError, OSError, ValueError, TypeError):
            continue  # that is for MLX to say, which is asked next
    return most


def world() -> Group:
    """The group of all processes: the one that was opened first, or one that is opened now.

    Raises: RuntimeError where this MLX cannot.
    """
    return _INIT(strict=True)


def versions() -> str:
    """The versions of what this process computes with."""
    own = getattr(sys.modules.get("mlxgraph"), "__version__", "unknown")
    return f"mlxgraph {own}, mlx {mx.__version__}"


class Line:
    """Speaks to the other processes.  For one thread, which makes it."""

    def __init__(self, group: Group):
        self._group, self.size = group, group.size()
        device = mx.gpu if "NCCL_HOST_IP" in os.environ else mx.cpu  # NCCL speaks from a GPU alone
        self._stream = mx.new_stream(device)

    def gathered(self, own: mx.array) -> mx.array:
        """What each process gives here, a row each: (processes, length).  Computed.

        Args: own: (length,), as long in each process.
        Raises: RuntimeError where another has ended.
        """
        found = _ALL_GATHER(own[None], group=self._group, stream=self._stream)
        _EVAL(found)
        return found


def joined(value: mx.array, axis: int, group: Group) -> mx.array:
    """Each process's value, one after another along an axis; lazy."""
    parts = _ALL_GATHER(value[None], group=group)
    return _CONCATENATE([parts[rank] for rank in range(group.size())], axis)


def says_not_there(error: BaseException) -> bool:
    """Whether an error says that another process does not listen yet: MLX asks for half a minute,
    and a process that loads a model first takes longer.  It may be asked again."""
    return isinstance(error, RuntimeError) and "connect" in str(error)


def says_lost(error: BaseException) -> bool:
    """Whether an error says that another process has ended."""
    return isinstance(error, RuntimeError) and "peer" in str(error)


def as_bytes(value: mx.array) -> mx.array:
    """The bytes of an array, uint8 (length,)."""
    flat = value.reshape(-1)
    return flat.astype(mx.uint8) if flat.dtype == mx.bool_ else flat.view(mx.uint8)


def of_bytes(data: mx.array, dtype: mx.Dtype, shape: Iterable[int]) -> mx.array:
    """The array of which these are the bytes."""
    flat = data.astype(dtype) if dtype == mx.bool_ else data.view(dtype)
    return flat.reshape(tuple(shape))


def together(parts: list[mx.array], length: int) -> mx.array:
    """Bytes one after another, and zeros up to a length.  Computed."""
    missing = length - sum(part.size for part in parts)
    found = _CONCATENATE([*parts, _ZEROS(missing, dtype=mx.uint8)])
    _EVAL(found)
    return found


def bytes_of(data: bytes) -> mx.array:
    """Bytes as an array, uint8 (length,)."""
    return _ARRAY(memoryview(data)) if data else _ZEROS(0, dtype=mx.uint8)


def groups_in(module: nn.Module) -> list[Group]:
    """The groups of several processes that a module itself computes with."""
    return [one for one in vars(module).values() if isinstance(one, Group) and one.size() > 1]


def splits(module: Any) -> bool:
    """Whether a module gives each process a part of what it computes from the whole."""
    return isinstance(module, (AllToShardedLinear, QuantizedAllToShardedLinear))


def unites(module: Any) -> bool:
    """Whether a module makes the whole of parts."""
    return isinstance(module, (ShardedToAllLinear, QuantizedShardedToAllLinear))


def stages_of(module: Any) -> int:
    """Over how many processes mlx-lm has spread the layers of a module, one stage each; 1 if it
    holds all of them."""
    size = vars(module).get("pipeline_size", 1) if isinstance(module, nn.Module) else 1
    return size if isinstance(size, int) else 1


def layers_held(module: Any) -> range:
    """Which layers mlx-lm has left on this process, of a module that it has spread."""
    return range(module.start_idx, module.end_idx)
