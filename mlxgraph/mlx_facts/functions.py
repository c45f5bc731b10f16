"""What kind of thing a name in one of MLX's modules is: told by the type of one that is known."""

from __future__ import annotations

import sys
from types import CellType, FunctionType, ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxgraph.mlx_facts.originals import compile

_NATIVE = type(mx.mean)
COMPILED = type(compile(abs))


def is_native(value: Any) -> bool:
    """The functions of `mlx.core` and its submodules are all of one type."""
    return isinstance(value, _NATIVE)


def is_compiled(value: Any) -> bool:
    """What `mx.compile` makes is of one type; most activations of `mlx.nn` (`nn.gelu`) are made
    by it."""
    return type(value) is COMPILED


def is_of_nn(value: Any) -> bool:
    """The rest of `mlx.nn`'s functions are written in Python, in modules of mlx.  (A compiled
    function passes for an instance of `FunctionType`, but its type is another.)"""
    return type(value) is FunctionType and value.__module__.startswith("mlx.")


def cells_of(namespace: ModuleType) -> list[CellType]:
    """Half of the activation modules (`nn.ReLU`) are made by a decorator: their `__call__` holds
    the function in a closure, where no exchange of the module's names reaches it."""
    calls = [vars(k).get("__call__") for k in vars(namespace).values() if isinstance(k, type)]
    return [cell for call in calls for cell in getattr(call, "__closure__", None) or ()]


def holders() -> list[type]:
    """Modules of `mlx.nn` that are given a function when they are made (`nn.MaxPool2d` has
    `mx.max`), and call it as an attribute of theirs."""
    kinds = (nn.MaxPool2d, nn.TransformerEncoder, nn.TransformerDecoder)
    names = ("_Pool", "TransformerEncoderLayer", "TransformerDecoderLayer")
    spaces = [vars(sys.modules[kind.__module__]) for kind in kinds]
    return [space[name] for space, name in zip(spaces, names, strict=True) if name in space]
