"""The saves of one recording: handles that keep a value as it is at their line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any, NamedTuple
from weakref import ref

from mlxgraph.graph.node import Node, for_steps
from mlxgraph.record.handle import result_of
from mlxgraph.record.save_names import default_name
from mlxgraph.record.saved_values import SavedValues
from mlxgraph.record.step_values import fill_steps
from mlxgraph.record.write_through import copy_of


class _Save(NamedTuple):
    name: str | None
    kept: Any  # the handle that keeps the value
    listed: bool = True
    steps: tuple = ()  # of a generation, where it is for some alone: one in the other


class Saves:
    """What was saved, in order; each becomes an array when the run is over."""

    def __init__(self) -> None:
        self._all: list[_Save] = []
        # The handle that was saved, weakly (mostly nobody looks at it again), and what keeps it.
        self._asked: list[tuple[ref[Any], Any]] = []
        self.steps: tuple = ()  # those that saves are for from here on

    def __len__(self) -> int:
        return len(self._all)

    def add(self, recording: Any, handle: Any, name: str | None, listed: bool) -> Any:
        """Keep a handle's value as it is now.  Returns: the handle that keeps it."""
        kept = copy_of(recording, handle)
        self._all.append(_Save(name, kept, listed, self.steps))
        self._asked.append((ref(handle), kept))
        return kept

    def keeps(self, value: Any) -> bool:
        """Whether a value is a handle that was saved, and will be an array."""
        return any(save.kept is value for save in self._all) or any(
            handle() is value for handle, _ in self._asked
        )

    def forget(self) -> None:
        """Let go of the handles, whether or not they have values: they know the recording, which
        knows its saves."""
        self._all.clear()
        self._asked.clear()

    def take_in(self, name: str, handle: Any) -> None:
        """A save that a graph brings along."""
        self._all.append(_Save(name, handle))

    def named(self) -> list[tuple[str, Node]]:
        """Each save's name, made unique, and the node it keeps.

        The first save of a name has it; the others are numbered, past the names that are taken.
        """
        names = [save.name or default_name(save.kept) for save in self._all]
        counts = dict.fromkeys(names, 0)
        taken = set(names)
        found = []
        for name, (_, kept, _, steps) in zip(names, self._all, strict=True):
            counts[name] += 1
            unique = name
            while counts[name] > 1 and unique in taken:
                unique = f"{name}#{counts[name]}"
                counts[name] += unique in taken
            taken.add(unique)
            node = kept._node
            found.append((unique, reduce(for_steps, reversed(steps), node) if steps else node))
        return found

    def finish(self, names: Sequence[str], results: Sequence[Any]) -> dict[str, Any]:
        """Give every handle its value: from now on it is an array like any other.

        A handle that was saved in passing (`h.save()` on a line of its own) is filled as well.
        Returns: the listed values by name.
        """
        results_of = {id(s.kept): result for s, result in zip(self._all, results, strict=True)}
        for handle, kept in self._in_passing(results_of):
            handle._fill(results_of[id(kept)])
        for save, result in zip(self._all, results, strict=True):
            save.kept._fill(result)
        self._asked.clear()
        return self._by_name(names)

    def _in_passing(self, known: dict[int, Any]) -> Iterator[tuple[Any, Any]]:
        """The handles that were saved in passing, each once, and what keeps their values."""
        for reference, kept in self._asked:
            handle = reference()
            if handle is not None and id(handle) not in known and handle._node is kept._node:
                yield handle, kept
                known[id(handle)] = None

    def finish_steps(self, names: Sequence[str], results: Sequence[Any]) -> dict[str, Any]:
        """As `finish`, of a generation: every handle becomes one value a step.

        Args: results: for each save its values by the step's number.
        """
        results_of = {id(s.kept): result for s, result in zip(self._all, results, strict=True)}
        for handle, kept in self._in_passing(results_of):
            fill_steps(handle, results_of[id(kept)], "a value")
        for name, save, result in zip(names, self._all, results, strict=True):
            fill_steps(save.kept, result, name)
        self._asked.clear()
        return self._by_name(names)

    def _by_name(self, names: Sequence[str]) -> dict[str, Any]:
        return SavedValues(
            (name, result_of(save.kept))
            for name, save in zip(names, self._all, strict=True)
            if save.listed
        )
