"""Stand-ins: what makes a forward answer through patched call functions without touching a model.

Python looks `__call__` up on the class, so a hooked module must wear a private subclass.  No
module of the user's ever does: for one Python trace the tree is rebuilt from shallow copies that
share every weight, the hooked copies wear the subclass, and the copies are dropped afterwards.
So there is nothing to restore, whatever ends the forward, and two threads cannot meet.

In: a ModuleTree, the hooked paths, optionally other arrays in place of the weights.
Out: a root module to call.  Never: writes to the user's modules.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from types import CellType, FunctionType, MethodType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxgraph.graph.nested import is_container, leaves, map_entries, map_nested
from mlxgraph.mlx_facts.modules import NO_GRAD, attach, enter, twin_of, wear
from mlxgraph.run.tree import ModuleTree

Hook = Callable[[str, Callable[..., Any], tuple, dict[str, Any]], Any]
_HOOK = "_mlxgraph_hook"


@lru_cache(maxsize=1024)
def _hooked(cls: type) -> type:
    """The private subclass of a module class whose calls go through the hook."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        path, hook = self.__dict__[_HOOK]
        return hook(path, partial(cls.__call__, self), args, kwargs)  # type: ignore[operator]

    return type(
        cls.__name__,
        (cls,),
        {
            "__call__": __call__,
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
        },
    )


class StandIn:
    """One copy of a tree, for one forward."""

    def __init__(
        self,
        tree: ModuleTree,
        hooked: Iterable[str],
        hook: Hook,
        weights: Sequence[mx.array] | None = None,
    ):
        self._copies: dict[int, Any] = {}
        # By place: two weights may be one array object today, and part tomorrow.
        self._weights: dict[tuple[int, Any], mx.array] = {}
        if weights is not None:
            self._weights = {
                (id(owner), key): given
                for (owner, key), given in zip(tree.weight_places(), weights, strict=True)
            }
        self.root = self._copy(tree.root)
        for module in tree.added.values():
            self._copy(module)
        self.modules = {path: self._copies[id(module)] for path, module in tree.modules.items()}
        self._rebind()
        for path in hooked:
            module = self.modules[path]
            attach(module, _HOOK, (path, hook))
            wear(module, _hooked(type(module)))  # type: ignore[arg-type]

    def _copy(self, module: nn.Module) -> Any:
        known = self._copies.get(id(module))
        if known is not None:
            return known
        twin = self._copies[id(module)] = twin_of(module)
        for key, value in module.items():
            enter(twin, key, self._copy_value(module, key, value))
        return twin

    def _copy_value(self, owner: Any, key: Any, value: Any) -> Any:
        if isinstance(value, mx.array):
            return self._weights.get((id(owner), key), value)
        if isinstance(value, nn.Module):
            return self._copy(value)
        if is_container(value):
            return map_entries(value, lambda inner, item: self._copy_value(value, inner, item))
        return value

    def _rebind(self) -> None:
        """Whatever refers back into the tree from outside of it, refers to the copies."""
        for module in self.modules.values():
            for name, value in module.__dict__.items():
                if name != NO_GRAD:
                    twin = self._rebound(value)
                    if twin is not value:
                        module.__dict__[name] = twin
            for key, value in module.items():
                if is_container(value) and any(map(_is_function, leaves(value))):
                    enter(module, key, map_nested(value, self._rebound))

    def _rebound(self, value: Any) -> Any:
        if isinstance(value, MethodType):
            owner = self._copies.get(id(value.__self__))
            return value if owner is None else MethodType(value.__func__, owner)
        if isinstance(value, FunctionType):
            return self._rebound_function(value)
        if isinstance(value, partial):
            return partial(
                self._rebound(value.func),
                *[self._rebound(item) for item in value.args],
                **{key: self._rebound(item) for key, item in value.keywords.items()},
            )
        if isinstance(value, nn.Module):
            return self._copies.get(id(value), value)
        inner = getattr(value, "__dict__", None)
        if inner and not isinstance(value, type) and not callable(value):
            changed = {
                key: self._copies[id(item)]
                for key, item in inner.items()
                if isinstance(item, nn.Module) and id(item) in self._copies
            }
            if changed:
                value = copy.copy(value)
                value.__dict__.update(changed)
        return value

    def _rebound_function(self, function: FunctionType) -> Any:
        """A function that holds modules of the tree, in its closure or its defaults."""
        cells = [self._of_cell(cell) for cell in function.__closure__ or ()]
        defaults = [self._held(value) for value in function.__defaults__ or ()]
        held = [*(cell.cell_contents for cell in function.__closure__ or () if _is_full(cell)),
                *(function.__defaults__ or ())]  # fmt: skip
        if not any(self._held(value) is not value for value in held):
            return function
        twin = FunctionType(
            function.__code__, function.__globals__, function.__name__,
            tuple(defaults) or None, tuple(cells) or None,
        )  # fmt: skip
        twin.__kwdefaults__ = function.__kwdefaults__
        return twin

    def _held(self, value: Any) -> Any:
        return self._copies.get(id(value), value) if isinstance(value, nn.Module) else value

    def _of_cell(self, cell: CellType) -> CellType:
        return CellType(self._held(cell.cell_contents)) if _is_full(cell) else cell


def _is_full(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that was never assigned
        return False


def _is_function(value: Any) -> bool:
    return isinstance(value, (MethodType, FunctionType, partial))
