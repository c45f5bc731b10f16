"""What kind of thing a name in one of MLX's modules is: told by the type of one that is known."""

from __future__ import annotations

from types import FunctionType
from typing import Any

import mlx.core as mx

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
