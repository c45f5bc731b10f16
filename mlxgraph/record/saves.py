"""The saves of one recording: handles that keep a value as it is at their line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mlxgraph.graph.node import Node
from mlxgraph.record.handle import result_of
from mlxgraph.record.save_names import default_name
from mlxgraph.record.saved_values import SavedValues
from mlxgraph.record.write_through import copy_of


class _Save(NamedTuple):
    name: str | None
    kept: Any  # the handle that keeps the value
    listed: bool = True


class Saves:
    """What was saved, in order; each becomes an array when the run is over."""

    def __init__(self) -> None:
        self._all: list[_Save] = []
        self._asked: list[tuple[Any, Any]] = []  # the handle that was saved, and what keeps it

    def __len__(self) -> int:
        return len(self._all)

    def add(self, recording: Any, handle: Any, name: str | None, listed: bool) -> Any:
        """Keep a handle's value as it is now.  Returns: the handle that keeps it."""
        kept = copy_of(recording, handle)
        self._all.append(_Save(name, kept, listed))
        self._asked.append((handle, kept))
        return kept

    def keeps(self, value: Any) -> bool:
        """Whether a value is a handle that was saved, and will be an array."""
        return any(save.kept is value for save in self._all) or any(
            handle is value for handle, _ in self._asked
        )

    def take_in(self, name: str, handle: Any) -> None:
        """A save that a graph brings along."""
        self._all.append(_Save(name, handle))

    def named(self) -> list[tuple[str, Node]]:
        """Each save's name, made unique, and the node it keeps.

        The first save of a name has it; the others are numbered, past the names that are taken.
        """
        names = [given or default_name(kept) for given, kept, _ in self._all]
        counts = dict.fromkeys(names, 0)
        taken = set(names)
        found = []
        for name, (_, kept, _) in zip(names, self._all, strict=True):
            counts[name] += 1
            unique = name
            while counts[name] > 1 and unique in taken:
                unique = f"{name}#{counts[name]}"
                counts[name] += unique in taken
            taken.add(unique)
            found.append((unique, kept._node))
        return found

    def finish(self, names: Sequence[str], results: Sequence[Any]) -> dict[str, Any]:
        """Give every handle its value: from now on it is an array like any other.

        A handle that was saved in passing (`h.save()` on a line of its own) is filled as well.
        Returns: the listed values by name.
        """
        results_of = {id(s.kept): result for s, result in zip(self._all, results, strict=True)}
        for handle, kept in self._asked:
            if id(handle) not in results_of and handle._node is kept._node:
                handle._fill(results_of[id(kept)])
                results_of[id(handle)] = None
        for save, result in zip(self._all, results, strict=True):
            save.kept._fill(result)
        self._asked.clear()
        return SavedValues(
            (name, result_of(save.kept))
            for name, save in zip(names, self._all, strict=True)
            if save.listed
        )
