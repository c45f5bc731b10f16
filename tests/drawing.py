"""Drawing one of several, as often as programs and expressions do: a strategy is made once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

from hypothesis import strategies as st

_among = lru_cache(maxsize=4096)(st.sampled_from)


@cache
def _orders(count: int) -> st.SearchStrategy[list[int]]:
    return st.permutations(range(count))


def one_of(draw: Any, items: Sequence[Any]) -> Any:
    """One of some items, as `st.sampled_from`."""
    return draw(_among(tuple(items)))


def order_of(draw: Any, count: int) -> tuple[int, ...]:
    """The numbers up to `count` in any order, as `st.permutations`."""
    return tuple(draw(_orders(count)))
