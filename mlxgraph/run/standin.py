"""Stand-ins: what makes a forward answer through patched call functions without touching a model.

Python looks `__call__` up on the class, so a hooked module must wear a private subclass.  No
module of the user's ever does: for one Python trace the tree is rebuilt from copies that share
every weight (`run.twins`), the hooked copies wear the subclass, and the copies are dropped
afterwards.  So there is nothing to restore, whatever ends the forward, and two threads cannot meet.

In: a ModuleTree, the hooked paths, optionally other arrays in place of the weights.
Out: a root module to call.  Never: writes to the user's modules.
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from types import FunctionType
from typing import Any

import mlx.core as mx

from mlxgraph.errors import ModelChangedError
from mlxgraph.mlx_facts.modules import attach, wear
from mlxgraph.run.beyond import Silent
from mlxgraph.run.tree import ModuleTree
from mlxgraph.run.twins import Twins

Hook = Callable[[str, Callable[..., Any], tuple, dict[str, Any]], Any]
_HOOK = "_mlxgraph_hook"


@lru_cache(maxsize=1024)
def _hooked(cls: type) -> type:
    """The private subclass of a module class whose calls go through the hook."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        path, hook = self.__dict__[_HOOK]
        original = as_itself or cls.__call__  # type: ignore[operator]
        return hook(path, partial(original, self), args, kwargs)

    as_itself = _as_itself(cls) if _asks_for_its_type(cls) else None
    return subclass_of(cls, {"__call__": __call__})


def subclass_of(cls: type, members: dict[str, Any]) -> type:
    """A class that passes for another, but for some methods; the other does not hear of it."""
    members |= {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
    }
    bases = (cls,) if issubclass(cls, Silent) else (Silent, cls)
    kind = type(cls)
    if kind in (type, ABCMeta):
        return kind(cls.__name__, bases, members)
    return type.__new__(kind, cls.__name__, bases, members)


def _asks_for_its_type(cls: type) -> bool:
    """Whether a class says `super(type(self), self)`: a subclass would lead it in circles."""
    functions = [m for base in cls.__mro__ for m in vars(base).values() if type(m) is FunctionType]
    names = [set(function.__code__.co_names) for function in functions]
    return any("super" in found and found & {"type", "__class__"} for found in names)


def _as_itself(cls: type) -> Callable[..., Any]:
    """The call of a class, during which the module is of this class and of no subclass."""

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        worn = type(self)
        wear(self, cls)
        try:
            return cls.__call__(self, *args, **kwargs)  # type: ignore[operator]
        finally:
            wear(self, worn)

    return run


class StandIn:
    """One copy of a tree, for one forward."""

    def __init__(
        self,
        tree: ModuleTree,
        hooked: Iterable[str],
        hook: Hook,
        weights: Sequence[mx.array] | None = None,
    ):
        given = () if weights is None else zip(tree.weight_places(), weights, strict=True)
        twins = Twins(given)
        self.root = twins.of(tree.root)
        for module in tree.added.values():
            twins.of(module)
        self.modules = {}
        for path, module in tree.modules.items():
            try:
                self.modules[path] = twins.known(module)
            except KeyError:
                raise ModelChangedError(path) from None
        self.twin = twins.known
        self._held = twins.held
        for path in hooked:
            module = self.modules[path]
            attach(module, _HOOK, (path, hook))
            wear(module, _hooked(type(module)))  # type: ignore[arg-type]
