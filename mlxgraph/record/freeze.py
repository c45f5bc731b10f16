"""User values -> frozen arguments.  Proxies become nodes; arrays from outside become inputs."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxgraph.errors import ForeignProxyError, NotSavedError
from mlxgraph.errors.source_line import here
from mlxgraph.graph import ops
from mlxgraph.graph.nested import is_container, leaves, map_nested
from mlxgraph.graph.values import (
    FULL,
    Device,
    DType,
    FrozenDict,
    FrozenList,
    Literal,
    Opaque,
    Slice,
    dtype_name,
)
from mlxgraph.mlx_facts.devices import device_name
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record.handle import HANDLES

_PLAIN = {int, str, type(None), type(Ellipsis)}


def freeze(value: Any, recording: Any) -> Any:
    """One argument of a recorded operation as a hashable value."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind in HANDLES:
        return node_of(value, recording)
    if kind is ARRAY:
        return recording.lift(value)
    if kind is tuple:
        return tuple([freeze(item, recording) for item in value])
    if kind is slice:
        if value.start is value.stop is value.step is None:
            return FULL
        return Slice(
            freeze(value.start, recording),
            freeze(value.stop, recording),
            freeze(value.step, recording),
        )
    if kind is bool or kind is float or kind is complex:
        return Literal(value)
    if kind is list:
        return FrozenList(tuple([freeze(item, recording) for item in value]))
    if kind is mx.Dtype:
        return DType(dtype_name(value))
    device = device_name(value)
    if device is not None:
        return Device(device)
    if isinstance(value, np.ndarray):
        return recording.lift(ARRAY(value))
    if isinstance(value, np.generic):
        return freeze(value.item(), recording)
    if isinstance(value, nn.Module):
        return Opaque(value)
    if kind is not dict and is_container(value):
        return _frozen_object(value, recording)
    if isinstance(value, dict):
        return FrozenDict(tuple([(k, freeze(v, recording)) for k, v in value.items()]))
    if isinstance(value, ARRAY):
        return recording.lift(value)
    if isinstance(value, (bool, int, str)):  # subclasses, enumerations
        return freeze(
            {bool: bool, int: int, str: str}[
                next(base for base in (bool, int, str) if isinstance(value, base))
            ](value),
            recording,
        )
    return Opaque(value)


def _frozen_object(value: Any, recording: Any) -> Any:
    """A container of a class of its own: the same type around what it holds."""
    held = leaves(value)
    if not any(isinstance(item, ARRAY) or type(item) in HANDLES for item in held):
        return Opaque(value)
    template = Opaque(map_nested(value, lambda _: None))
    parts = [freeze(item, recording) for item in held]
    return recording.build(ops.UNFLATTEN_LIKE, (template, *parts))


def node_of(handle: Any, recording: Any) -> Any:
    """The node that a proxy stands for now, if it may be used in `recording`."""
    owner = handle._recording
    if owner is not recording or not owner.open:
        if not owner.open:
            raise NotSavedError(handle._describe(), handle._birth())
        raise ForeignProxyError(handle._describe(), str(here()))
    return handle._node
