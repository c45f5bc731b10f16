"""Functions that run as they are: whether they mean there what they mean when they are recorded.

A view of a recorded value writes through, and one of an array of MLX does not.  So `v = h[0]` and
`v += 1` change `h` where the function is recorded, and do not where it runs on arrays.  A function
is tried both ways, its looks answered with zeros, and refused where the results differ.

In: a function, a handle, and what makes the argument.  Out: nothing, or an InterventionError.
Never: leaves anything in the recording.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple
from weakref import WeakSet

import mlx.core as mx
import numpy as np

from mlxgraph.errors import InterventionError
from mlxgraph.evaluate.known import known_values
from mlxgraph.graph.deferred import function_name
from mlxgraph.graph.nested import map_nested
from mlxgraph.graph.node import Node
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.originals import ARRAY, zeros
from mlxgraph.record.handle import describe, is_handle
from mlxgraph.record.proxy import wrap
from mlxgraph.record.stack import paused

_same: WeakSet[Any] = WeakSet()  # functions that were found to mean the same


def check_views(fn: Callable[[Any], Any], handle: Any) -> None:
    """Raise InterventionError where a function depends on views that write through."""
    if type(fn) is not FunctionType or fn in _same:
        return
    through, apart = (_result(fn, handle, detached) for detached in (False, True))
    if through is not None and apart is not None and not _are_same(through, apart, handle):
        name = function_name(fn)
        raise InterventionError(
            f"the function {name} on {describe(handle)} looks at values, so it runs on arrays of"
            " MLX as it is; and it writes into a part of its argument (`v = h[0]`, `v += 1`),"
            " which is an array of its own there and changes nothing else.\n"
            "  Write where the part is taken from: `h[0] += 1`."
        )
    _same.add(fn)


class _Result(NamedTuple):
    node: Node
    constants: list[Any]


def _result(fn: Callable[[Any], Any], handle: Any, detached: bool) -> _Result | None:
    """What a function gives; None where it fails, or gives what is not recorded."""
    recording, key, mark = handle._recording, random_state.current(), handle._recording.mark()
    kept = recording._look, recording._draws
    recording._look, recording.detached = _zeros_of, detached
    try:
        value = fn(wrap(recording, handle._node, recording.infos[handle._node].value))
        return _Result(value._node, [*recording.constants]) if is_handle(value) else None
    except Exception:  # the run says what is wrong with it
        return None
    finally:
        recording._look, recording._draws = kept
        recording.detached = False
        recording.rewind(mark)
        random_state.restore(key)


def _are_same(one: _Result, other: _Result, handle: Any) -> bool:
    """Whether two results are equal for some argument; True where that cannot be told."""
    if one.node == other.node:
        return True
    argument = handle._recording.infos[handle._node].value
    numbers = np.arange(argument.size).reshape(argument.shape) % 7 + 1
    sample = {handle._node: ARRAY(numbers).astype(argument.dtype)}
    key = random_state.current()
    found = []
    try:
        with paused():
            for node, constants in (one, other):
                values = known_values([node], constants, {}, sample)
                found.append(np.array(values[node].astype(mx.float32)))
                random_state.restore(key)
    except Exception:  # of other sites, or of what a transformation follows
        return True
    finally:
        random_state.restore(key)
    return np.allclose(found[0], found[1], equal_nan=True)


def _zeros_of(recording: Any, node: Node) -> Any:
    return map_nested(
        recording.info(node).value, lambda v: zeros(v.shape, v.dtype) if isinstance(v, ARRAY) else v
    )
