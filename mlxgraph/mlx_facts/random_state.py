"""MLX's random state, kept and put back.

The state of this thread is one key.  MLX lets it be read but not assigned; `seed` sets it from an
integer whose two halves are the key, so any key can be restored that way.
"""

from __future__ import annotations

import mlx.core as mx


def current() -> mx.array:
    """The key as it is now (not evaluated)."""
    return mx.random.state[0]


def same(key: mx.array) -> bool:
    """Whether nothing was drawn since `key` was taken."""
    return mx.random.state[0] is key


def restore(key: mx.array) -> None:
    """Make the next draws those that followed `key`."""
    if same(key):
        return
    high, low = key.tolist()
    mx.random.seed((high << 32) | low)
