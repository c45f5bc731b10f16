"""State that moves on where it stands: numpy's arrays, byte buffers, generators of random numbers,
iterators.  MLX knows nothing of them; a forward may change them all the same.

In: such an object.  Out: a copy in the state it is in, or what that state was and a way back to it.
Never: moves the object itself.
"""

from __future__ import annotations

import random
import warnings
from array import array
from collections import deque
from collections.abc import Callable
from operator import is_
from types import GeneratorType
from typing import Any

import numpy as np

from mlxgraph.errors import StateError
from mlxgraph.mlx_facts.arrays import fill, same_data
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.probes import is_computed
from mlxgraph.run.places import SlotsOf

LARGEST_BUFFER = 1 << 24  # bytes of a numpy array that are copied for every forward
LARGEST_WATCHED = 1 << 12
BUFFERS = (bytearray, array, np.ndarray)
DRAWING = (random.Random, np.random.Generator, np.random.RandomState)
CONTAINERS = (dict, list, deque, set, SlotsOf)
CHANGEABLE = (*CONTAINERS, *BUFFERS, *DRAWING)
_SYSTEM = random.SystemRandom  # without a state


def is_iterator(kind: type) -> bool:
    """Whether values of a type are Python's own iterators, which a `next` moves on."""
    own = kind.__module__ in ("builtins", "itertools")
    return own and hasattr(kind, "__next__")


def is_small(value: Any) -> bool:
    """Whether a value is a buffer whose content can be looked at before every run."""
    if isinstance(value, np.ndarray):
        return value.nbytes <= LARGEST_WATCHED
    return isinstance(value, BUFFERS) and len(value) <= LARGEST_WATCHED


def content(value: Any) -> bytes:
    """What a buffer holds now."""
    return bytes(value) if isinstance(value, bytearray) else value.tobytes()


def copied(value: Any, of: Callable[[Any], Any]) -> Any:
    """A copy that moves on its own.  Args: of: gives what an iterator's copy is to go over."""
    if isinstance(value, np.ndarray):
        large = value.nbytes > LARGEST_BUFFER or not value.flags.writeable
        return value if large else np.array(value, subok=True)
    if isinstance(value, BUFFERS):
        return value[:]
    if isinstance(value, DRAWING):
        return _drawing_as(value)
    return _iterator(value, of)


def _drawing_as(value: Any) -> Any:
    if isinstance(value, _SYSTEM):
        return value
    if isinstance(value, np.random.Generator):
        bits = type(value.bit_generator)()
        bits.state = value.bit_generator.state
        return np.random.Generator(bits)
    twin = type(value)()
    put_back(twin, state_of(value))
    return twin


def _iterator(value: Any, of: Callable[[Any], Any]) -> Any:
    if isinstance(value, GeneratorType):
        return Unmovable(value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            make, args, *rest = value.__reduce__()
    except TypeError:
        return Unmovable(value)
    args = [_iterator(arg, of) if is_iterator(type(arg)) else of(arg) for arg in args]
    if any(isinstance(arg, Unmovable) for arg in args):
        return Unmovable(value)
    twin = make(*args)
    if rest and rest[0] is not None:
        twin.__setstate__(rest[0])
    return twin


class Unmovable:
    """What stands for a generator in a forward: asked for its next value, it says why not."""

    __slots__ = ("_what",)

    def __init__(self, value: Any):
        self._what = type(value).__name__

    def __iter__(self) -> Unmovable:
        return self

    def __next__(self) -> Any:
        raise StateError(self._what)

    def send(self, value: Any) -> Any:
        raise StateError(self._what)


# -- what is shared, and put back -----------------------------------------------------------------


def items_of(container: Any) -> list[Any]:
    """What a container holds, without keys."""
    if isinstance(container, (dict, SlotsOf)):
        return [item for _, item in state_of(container)]
    return list(container)


def state_of(value: Any) -> Any:
    """What an object holds now, for `put_back`."""
    if isinstance(value, ARRAY):
        return same_data(value), is_computed(value)
    if isinstance(value, SlotsOf):
        return value.items()
    if isinstance(value, dict):
        return list(dict.items(value))
    if isinstance(value, (list, deque, set)):
        return list(value)
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.random.RandomState):
        return value.get_state()
    if isinstance(value, random.Random):
        return None if isinstance(value, _SYSTEM) else value.getstate()
    return copied(value, lambda item: item)


def put_back(value: Any, state: Any) -> None:
    """Make an object hold what it held when `state_of` was asked."""
    if isinstance(value, ARRAY):
        before, lazy = state
        if lazy or is_computed(value):
            fill(value, before)
    elif isinstance(value, SlotsOf):
        _put_slots(value, state)
    elif isinstance(value, CONTAINERS):
        _put_items(value, state)
    elif isinstance(value, np.random.Generator):
        value.bit_generator.state = state
    elif isinstance(value, np.random.RandomState):
        value.set_state(state)
    elif isinstance(value, random.Random):
        if state is not None:
            value.setstate(state)
    elif isinstance(value, np.ndarray):
        if state is not value:
            value[...] = state
    else:
        value[:] = state


def _put_items(value: Any, state: list[Any]) -> None:
    if isinstance(value, dict):
        now = list(dict.items(value))
        if not _same([x for pair in now for x in pair], [x for pair in state for x in pair]):
            dict.clear(value)
            dict.update(value, state)
    elif not _same(list(value), state):
        value.clear()
        (value.update if isinstance(value, set) else value.extend)(state)


def _same(now: list[Any], before: list[Any]) -> bool:
    return len(now) == len(before) and all(map(is_, now, before))


def _put_slots(value: SlotsOf, state: list[tuple[Any, Any]]) -> None:
    before = dict(state)
    for slot, _ in value.items():
        if slot not in before:
            slot.__delete__(value.of)
    for slot, item in state:
        slot.__set__(value.of, item)
