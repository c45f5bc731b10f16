"""The module tree of a model: every module by its dotted path, and every array it holds.

In: an `nn.Module`.  Out: paths as `named_modules` gives them (a module reached by several paths
goes by the first), and a flat list of where each parameter lives, so that the live weights of
any moment can be handed to a compiled run.
Never: changes a module.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from gc import get_referents
from operator import attrgetter, call, getitem, is_
from typing import Any
from weakref import ref

import mlx.core as mx
import mlx.nn as nn

from mlxgraph.mlx_facts.compiling import function_of
from mlxgraph.mlx_facts.functions import is_compiled
from mlxgraph.mlx_facts.modules import is_embedding
from mlxgraph.ranks.held import is_spread, stage
from mlxgraph.run.beyond import Beyond
from mlxgraph.run.moving import BUFFERS, content, is_small
from mlxgraph.run.own_compile import may_call_compile, may_compile
from mlxgraph.run.places import SlotsOf
from mlxgraph.run.twins import PROXIES, Twins, aim_of, is_plain_data

_KIND = attrgetter("shape", "dtype")


class ModuleTree:
    """A snapshot of a model's structure, and a cheap test whether it still holds."""

    def __init__(self, root: nn.Module, added: dict[str, nn.Module] | None = None):
        self.root = root
        self.added = dict(added or {})
        self.modules: dict[str, nn.Module] = {}
        self.paths: dict[int, str] = {}
        self.aliases: dict[str, str] = {}
        self.second_places: list[tuple[Any, Any, str]] = []
        self.containers: dict[str, Any] = {}
        self.weight_names: list[str] = []
        self.streams: dict[Any, Any] = {}  # see run.stream
        self._owners: list[Any] = []
        self._keys: list[Any] = []
        self._holders: list[Any] = []
        self._children: list[tuple[Any, Any, Any]] = []
        self._add(root, "")
        for name, module in self.added.items():
            self._add(module, name)
        self._add_hidden()
        self._seen = list(map(ref, self.weights()))  # weak: nothing here keeps weights alive
        self._kinds = list(map(_KIND, self.weights()))
        self._attributes = [vars(module) for module in self.modules.values()]
        self._sized = [*self._holders, *self._attributes]
        self._lengths = list(map(len, self._sized))
        self._types = list(map(type, self._holders))
        self._child_owners = [owner for owner, _, _ in self._children]
        self._child_keys = [key for _, key, _ in self._children]
        self._child_values = [value for _, _, value in self._children]
        self._plain = get_referents(*self._attributes)  # their values, one after the other

    def _add(self, module: nn.Module, path: str) -> None:
        if id(module) in self.paths:
            self.aliases[path] = self.paths[id(module)]
            self._alias(module, path)
            return
        self.modules[path] = module
        self.paths[id(module)] = path
        self._holders.append(module)
        for key, value in module.items():
            self._enter(module, key, value, f"{path}.{key}" if path else str(key))

    def _enter(self, owner: Any, key: Any, value: Any, path: str) -> None:
        if isinstance(value, mx.array):
            self.weight_names.append(path)
            self._owners.append(owner)
            self._keys.append(key)
        elif isinstance(value, nn.Module):
            self._children.append((owner, key, value))
            if id(_uncompiled(value)) in self.paths:
                self.second_places.append((owner, key, path))
            self._add(_uncompiled(value), path)
        elif isinstance(value, (list, tuple, dict)):
            self._children.append((owner, key, value))
            self._holders.append(value)
            self.containers[path] = value
            if not is_plain_data(value.values() if isinstance(value, dict) else value):
                for inner, item in _entries(value):
                    self._enter(value, inner, item, f"{path}.{inner}")
        else:
            self._children.append((owner, key, value))  # a setting

    @cached_property
    def is_spread(self) -> bool:
        """Whether a forward needs other processes."""
        return is_spread(self.modules.values())

    @cached_property
    def stage(self) -> str:
        """What to say of layers that may be on another rank; "" where none is."""
        return stage(self.modules.values()) if self.is_spread else ""

    @cached_property
    def shared(self) -> frozenset[str]:
        """Every path of the modules that have several."""
        return frozenset((*self.aliases, *self.aliases.values()))

    @cached_property
    def reach(self) -> float:
        """How long a text may be before rotary positions depend on the longest of its batch: those
        that scale with it ask, in their call, for the length that they were trained for."""
        name = "max_position_embeddings"
        asking = [
            module
            for module in self.modules.values()
            if not module.children()
            and name in getattr(getattr(type(module).__call__, "__code__", None), "co_names", ())
        ]
        kept = [getattr(module, name, None) for module in asking]
        return min((n for n in kept if isinstance(n, int)), default=float("inf"))

    @cached_property
    def embeddings(self) -> dict[str, Any]:
        """The embeddings by path: what is no number of a row must not get to them."""
        return {path: module for path, module in self.modules.items() if is_embedding(module)}

    def _add_hidden(self) -> None:
        """What modules hold beside the tree, in helper objects and functions: its arrays are inputs
        of a pass too, and what else is in it counts as the modules' own attributes do."""
        found = Twins()
        for module in (self.root, *self.added.values()):
            found.of(module)
        self.may_compile = any(map(may_compile, found.kinds)) or any(
            map(may_call_compile, found.functions)
        )
        self.beyond = beyond = Beyond(found.kinds, found.functions, found.caches)
        named = {(id(owner), key) for owner, key in self.weight_places()}
        for owner, key in found.places:
            if (id(owner), key) not in named:
                self._owners.append(owner)
                self._keys.append(key)
        held = set(map(id, self._holders))
        for holder in found.holders:
            if id(holder) not in held:
                self._holders.append(holder)
                self._children += [
                    (holder, key, item)
                    for key, item in _entries(holder)
                    if not isinstance(item, mx.array)
                ]
        self._holders += beyond.holders
        self._children += beyond.settings
        self._constants = beyond.constants
        self._constants_seen = [ref(owner[key]) for owner, key in beyond.constants]
        moving = [*found.moved, *beyond.moving]
        self._moving = [type(value) for value in moving if not isinstance(value, BUFFERS)]
        self._buffers = [value for value in moving if is_small(value)]
        self._contents = list(map(content, self._buffers))

    def _alias(self, module: Any, path: str) -> None:
        """Paths below a shared module's second path mean the same modules as below its first."""
        for key, value in _entries(module):
            below = f"{path}.{key}" if path else str(key)
            if isinstance(value, nn.Module):
                if below not in self.aliases:
                    self.aliases[below] = self.paths[id(_uncompiled(value))]
                    self._alias(_uncompiled(value), below)
            elif isinstance(value, (list, tuple, dict)):
                self._alias(value, below)

    def holds(self) -> bool:
        """Whether the tree is still made of the same modules with the same plain attributes.

        The values of weights may have changed: those are inputs of a run.
        """
        children = map(getitem, self._child_owners, self._child_keys)
        plain = get_referents(*self._attributes)
        try:
            return (
                list(map(len, self._sized)) == self._lengths
                and list(map(type, self._holders)) == self._types
                and self._same_kinds()
                and all(map(is_, children, self._child_values))
                and all(map(is_, plain, self._plain))
                and (not (self._constants or self._buffers) or self._same_constants())
            )
        except (KeyError, IndexError, AttributeError, TypeError):
            return False  # something is gone, or is another kind of thing

    def _same_constants(self) -> bool:
        """Whether what stands beside the weights and holds numbers is what it was."""
        now = [owner[key] for owner, key in self._constants]
        return all(map(is_, now, map(call, self._constants_seen))) and (
            list(map(content, self._buffers)) == self._contents
        )

    def untraceable(self) -> str:
        """Why no forward may be compiled, as far as that is seen from outside; or nothing."""
        if self._moving:
            return f"the model holds a {self._moving[0].__name__}, which moves on by itself"
        return self.beyond.reason()

    def _same_kinds(self) -> bool:
        """Whether every weight has the shape and dtype it had: most often it is the same array."""
        now = self.weights()
        if all(map(is_, now, map(call, self._seen))):
            return True
        self._seen = list(map(ref, now))
        return list(map(_KIND, now)) == self._kinds

    @property
    def seen(self) -> list[Any]:
        """The weights when they were last looked at, weakly: for `are_weights` later on."""
        return self._seen

    def seen_now(self) -> list[Any]:
        """The weights as they are, weakly: for `are_weights`."""
        return list(map(ref, self.weights()))

    def are_weights(self, seen: list[Any]) -> bool:
        """Whether the weights are still the very arrays that were seen then."""
        try:
            return all(map(is_, self.weights(), map(call, seen)))
        except (KeyError, IndexError, AttributeError):
            return False

    def weights(self) -> list[mx.array]:
        """The arrays as they are now: those of `weight_names` in their order, and then those that
        modules hold beside the tree."""
        return list(map(getitem, self._owners, self._keys))

    def weight_places(self) -> Iterator[tuple[Any, Any]]:
        """Where each weight lives: its container and its key there."""
        return zip(self._owners, self._keys, strict=True)


def _uncompiled(module: Any) -> Any:
    """The module itself, where what `mx.compile` made of it, or a weak proxy, passes for it."""
    if type(module) in PROXIES:
        return aim_of(module)
    return function_of(module) if is_compiled(module) else module


def _entries(container: Any) -> list[tuple[Any, Any]]:
    if isinstance(container, (dict, SlotsOf)):
        return list(container.items())
    return list(enumerate(container))
