"""Modules some of whose names give other functions for a while.

A module that is looked up by attribute (`mx.mean`) wears another class meanwhile, and the names of
that class come before its own.  Nothing in the module is changed: what somebody else puts there,
before or meanwhile, is theirs, and is found.  In modules whose functions call each other by their
bare names (`relu` in `ReLU.__call__`) the names themselves are exchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any


class _Name:
    """One name: ours, where the module holds MLX's own, and whatever it holds where it does not."""

    __slots__ = ("_name", "_own", "_ours")

    def __init__(self, name: str, own: Any, ours: Any):
        self._name, self._own, self._ours = name, own, ours

    def __get__(self, module: Any, owner: Any = None) -> Any:
        try:
            held = module.__dict__[self._name]
        except KeyError:
            raise AttributeError(self._name) from None
        return self._ours if held is self._own else held

    def __set__(self, module: Any, value: Any) -> None:
        module.__dict__[self._name] = self._own if value is self._ours else value

    def __delete__(self, module: Any) -> None:
        del module.__dict__[self._name]


def class_with(
    module: ModuleType, own: Mapping[str, Any], ours: Mapping[str, Any]
) -> type[ModuleType]:
    """The class that a module wears while these names give ours in place of its own."""
    names = {name: _Name(name, own[name], value) for name, value in ours.items()}
    return type("module", (ModuleType,), {"__slots__": (), **names})


class Exchanged:
    """A dict, a module's names say, with entries exchanged: all but what somebody else put there.

    Args: own: what the names hold in state 0; ours: in the states from 1 on.
    Attributes: tables: what is to be put in the module in each state.
    """

    def __init__(self, names: dict[Any, Any], own: Mapping[Any, Any], *ours: Mapping[Any, Any]):
        self.names = names
        self._states = [dict(names) for names in (own, *ours)]
        self.tables = self._states

    def respect_others(self, state: int) -> bool:
        """Leave alone what somebody else has exchanged, and see it when it was put back.

        Args: state: the one whose names are there now.  Returns: whether that changes anything.
        """
        now, states = self.tables[state], self._states
        if len(now) == len(states[0]) and now.items() <= self.names.items():
            return False
        ask = self.names.get
        mine = [n for n in states[0] if any([ask(n) is table[n] for table in states])]
        self.tables = [{n: table[n] for n in mine} for table in states]
        return True
