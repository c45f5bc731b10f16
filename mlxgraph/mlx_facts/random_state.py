"""MLX's random state, kept and put back.

The state of this thread is one key.  MLX lets it be read but not assigned; `seed` sets it from an
integer whose two halves are the key, so any key can be restored that way.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlxgraph.mlx_facts.arrays import fill
from mlxgraph.mlx_facts.originals import ARRAY, normal
from mlxgraph.mlx_facts.probes import says_followed, says_holds_nothing

_seed = mx.random.seed
_split = mx.random.split
_uniform = mx.random.uniform


def current() -> mx.array:
    """The state's one entry is the key of the next draw (not evaluated)."""
    return mx.random.state[0]


def same(key: mx.array) -> bool:
    """Every draw puts a new array in the state, also inside a trace; until then it is the same."""
    return mx.random.state[0] is key


def moved(key: mx.array) -> bool:
    """Whether the next draw is another than the one that followed `key`; a state that was put back
    is another array with the same numbers.  One that a transformation follows counts as moved."""
    if same(key):
        return False
    try:
        return bool(key.tolist() != current().tolist())
    except (ValueError, RuntimeError):
        return True


def restore(key: mx.array) -> None:
    """Make the next draws those that followed `key`: seeding with an integer of 64 bits makes its
    halves the key.

    A key that `mx.compile` follows has no halves yet.  Every draw puts an array of its own in the
    state, and that one can be made to hold what the key holds.
    """
    if same(key):
        return
    try:
        high, low = key.tolist()
    except ValueError as error:
        if not says_followed(error):
            raise
        normal(())
        fill(mx.random.state[0], key)
    else:
        _seed((high << 32) | low)


def put(key: mx.array) -> None:
    """Make the next draws those that follow `key`, lazily, inside a trace as well: the array that
    is the state can be filled.  It is one that nobody else holds after a draw."""
    _uniform(shape=())
    fill(current(), key)


def settle() -> None:
    """Compute the state.  A draw leaves there a split of the state before it, which is not computed
    until somebody looks at a later draw: of a thousand draws that nobody looks at, as of weights
    which are then read from a file, stay a thousand splits, 2 KB each, for as long as the thread.

    A state that a transformation follows, or that one left as it broke, is left alone.
    """
    try:
        mx.eval(mx.random.state)
    except (ValueError, RuntimeError) as error:
        if not (says_followed(error) or says_holds_nothing(error)):
            raise


def after(key: mx.array, draws: int) -> mx.array:
    """The state after some draws: each splits it, and goes on with the first half."""
    for _ in range(draws):
        key = _split(key)[0]
    return key


def fork(key: mx.array) -> mx.array:
    """A state whose draws have nothing to do with those that follow `key`."""
    return _split(key, 3)[2]


def draws_between(before: mx.array, now: mx.array, most: int = 64) -> int:
    """How many draws were made since the state was `before`; `most` where that cannot be told."""
    try:
        wanted = now.tolist()
        for count in range(most):
            if before.tolist() == wanted:
                return count
            before = after(before, 1)
    except (ValueError, RuntimeError):  # inside a transformation, where nothing can be looked at
        pass
    return most


def is_key(value: Any) -> bool:
    """A key is an array of two `uint32`."""
    return isinstance(value, ARRAY) and value.dtype == mx.uint32 and value.shape == (2,)


def as_captured() -> dict[str, Any]:
    """`mx.compile` must be given the state both ways, or every call draws the same numbers."""
    return {"inputs": mx.random.state, "outputs": mx.random.state}
