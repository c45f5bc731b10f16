"""MLX's modules while a block is open: some of their names give what records.

A module that is looked up by attribute (`mx.mean`) wears another class while a block is open, and
the names of that class come before its own.  Nothing in the module is changed: what somebody else
puts there, before or meanwhile, is theirs, and is found.  In the modules of `mlx.nn` whose
functions call each other by their bare names (`relu` in `ReLU.__call__`) the names themselves are
exchanged.
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


def recording_class(module: ModuleType, ours: Mapping[str, Any]) -> type[ModuleType]:
    """The class that a module wears while a block is open."""
    names = {name: _Name(name, vars(module)[name], value) for name, value in ours.items()}
    return type("module", (ModuleType,), {"__slots__": (), **names})


class Exchanged:
    """A module in which names are exchanged, but for those that somebody else has put there."""

    def __init__(self, module: ModuleType, ours: Mapping[str, Any]):
        self.names = vars(module)
        self._ours = dict(ours)
        self._own = {name: self.names[name] for name in ours}
        self.pair: tuple[dict[str, Any], dict[str, Any]] = (self._own, self._ours)

    def respect_others(self, is_open: bool) -> None:
        """Leave alone what somebody else has exchanged, and see it when it was put back.

        Args: is_open: whether ours are there now.
        """
        now = self.pair[is_open]
        if len(now) < len(self._own) or not now.items() <= self.names.items():
            ask, own, ours = self.names.get, self._own, self._ours
            mine = [n for n in own if (value := ask(n)) is own[n] or value is ours[n]]
            self.pair = {n: own[n] for n in mine}, {n: ours[n] for n in mine}
