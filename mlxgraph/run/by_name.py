"""Which of its names a shared module is called by.

A module that a model holds under several names is one module, and how often it is called says
nothing of the names.  For the census every name but the first holds an *other name* of the module:
an object of its class that passes everything on to it, and notes that it was this name that was
called.  No run of a graph sees one.

In: a tree and a stand-in of it.  Out: the path that a call was made by.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import mlx.nn as nn

from mlxgraph.mlx_facts.modules import attach, enter
from mlxgraph.run.standin import StandIn, subclass_of
from mlxgraph.run.tree import ModuleTree

_NOTE = "_mlxgraph_name"


class ByName:
    """The names that are being called, outermost first."""

    def __init__(self) -> None:
        self._calling: list[tuple[str, str]] = []

    def of(self, path: str) -> str:
        """The path that the call of a module is made by: its own, or another name's."""
        for first, name in reversed(self._calling):
            if path == first or path.startswith(first + "."):
                path = name + path[len(first) :]
        return path

    def watch(self, tree: ModuleTree, standin: StandIn) -> None:
        """Put other names in place of the shared modules, where a stand-in's model holds them."""
        for owner, key, name in tree.second_places:
            first = tree.aliases[name]
            holder = standin.twin(owner)
            if isinstance(holder, (dict, list)):
                put: Any = enter if isinstance(holder, dict) else list.__setitem__
                put(holder, key, self._other_name(standin.modules[first], first, name))

    def _other_name(self, module: nn.Module, first: str, name: str) -> Any:
        kind: Any = _other_name_of(type(module))  # type: ignore[arg-type]
        other = dict.__new__(kind)
        attach(other, _NOTE, (self, module, first, name))
        return other

    def call(self, module: Any, first: str, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Call a module by another name than its first."""
        self._calling.append((first, name))
        try:
            return module(*args, **kwargs)
        finally:
            self._calling.pop()


@lru_cache(maxsize=1024)
def _other_name_of(cls: type) -> type:
    """The private subclass of a module class whose objects are other names of a module."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        names, module, first, name = _note(self)
        return names.call(module, first, name, args, kwargs)

    members = {method: _passed_on(method) for method in _PASSED_ON}
    return subclass_of(cls, members | {"__call__": __call__, "__getattribute__": _attribute})


_PASSED_ON = (
    *("__setattr__", "__delattr__", "__getitem__", "__setitem__"),
    *("__contains__", "__iter__", "__len__", "__repr__"),
)


def _note(name: Any) -> tuple[ByName, nn.Module, str, str]:
    return object.__getattribute__(name, "__dict__")[_NOTE]


def _attribute(self: Any, name: str) -> Any:
    return getattr(_note(self)[1], name)


def _passed_on(method: str) -> Any:
    return lambda self, *args: getattr(_note(self)[1], method)(*args)
