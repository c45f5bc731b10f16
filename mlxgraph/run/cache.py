"""What was worked out about a model and is kept: bounded, what was used longest ago goes first."""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A bounded mapping that forgets what was used longest ago.

    Without a lock, which an interrupt could leave closed: each step is one call of a dict's.
    """

    def __init__(self, most: int):
        self.most = most
        self._entries: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """The entry, now the one used last."""
        entries = self._entries
        value = entries.get(key)
        if value is not None and len(entries) * 2 > self.most:  # else nothing is forgotten soon
            entries[key] = entries.pop(key, value)
        return value

    def put(self, key: K, value: V) -> V:
        """Enter a value, and forget the oldest beyond the bound."""
        self._entries.pop(key, None)
        self._entries[key] = value
        while len(self._entries) > self.most:
            for oldest in list(self._entries)[: -self.most]:
                self._entries.pop(oldest, None)
        return value

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)
