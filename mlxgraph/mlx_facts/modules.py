"""`nn.Module` from inside: a dict of what it holds, plain attributes, and a class to wear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.nn as nn

NO_GRAD = "_no_grad"  # the one plain attribute that names entries and never holds a module


def twin_of(module: nn.Module) -> Any:
    """A module is a dict of its arrays and submodules beside plain attributes in `__dict__`: one
    made by `dict.__new__`, with the same attributes, is the same module without entries."""
    twin = dict.__new__(module.__class__)
    twin.__dict__.update(module.__dict__)
    return twin


def enter(module: nn.Module, key: Any, value: Any) -> None:
    """An entry written past `nn.Module.__setattr__` is what the module's own code reads."""
    dict.__setitem__(module, key, value)


def attach(module: nn.Module, name: str, value: Any) -> None:
    """An attribute set past `nn.Module.__setattr__` is plain, whatever it holds."""
    object.__setattr__(module, name, value)


def wear(module: nn.Module, kind: type) -> None:
    """The class of a module can be exchanged for a subclass of it."""
    module.__class__ = kind  # type: ignore[assignment]


def is_embedding(module: Any) -> bool:
    """MLX's two embeddings take the rows of `weight` by number: what is no row's number reads as
    zeros, or whatever lies there.  A subclass with a call of its own may do as it likes."""
    return type(module).__call__ in _EMBEDS


_EMBEDS = (nn.Embedding.__call__, nn.QuantizedEmbedding.__call__)


class Attribute(NamedTuple):
    """What a module has under a name, and where: an entry, a plain attribute, or nothing."""

    where: str
    value: Any = None

    def put_back(self, module: nn.Module, name: str) -> None:
        """Past `nn.Module.__setattr__`, as it was."""
        dict.pop(module, name, None)
        vars(module).pop(name, None)
        if self.where == "entry":
            enter(module, name, self.value)
        elif self.where:
            vars(module)[name] = self.value


def attribute_of(module: nn.Module, name: str) -> Attribute:
    """Arrays and containers are entries, all else is plain; a plain attribute is found first."""
    if name in vars(module):
        return Attribute("plain", vars(module)[name])
    return Attribute("entry", dict.get(module, name)) if name in module else Attribute("")


def exchange_setting(made: Callable[[Any], Any]) -> None:
    """What is set on `nn.Module` is what Python calls for every module's attributes."""
    nn.Module.__setattr__ = made(nn.Module.__setattr__)  # type: ignore[method-assign]
