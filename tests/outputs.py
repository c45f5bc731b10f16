"""Kinds of objects that models return, and models that return them."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn


@dataclass
class Output:
    """As mlx-vlm's language models and every embedder return it."""

    loss: Any
    logits: mx.array
    hidden: Any = None

    @property
    def last(self) -> mx.array:
        return self.logits[:, -1]

    def to_tuple(self) -> tuple:
        return (self.logits, self.hidden)


@dataclass(frozen=True, slots=True)
class Frozen:
    loss: Any
    logits: mx.array
    hidden: Any


@dataclass
class Checked:
    """Its constructor does work of its own, and does not bear being called again."""

    loss: Any
    logits: mx.array
    hidden: Any

    def __post_init__(self) -> None:
        if not isinstance(self.hidden, list):
            raise TypeError("made a second time")
        self.hidden = tuple(self.hidden)


class Slots:
    __slots__ = ("loss", "logits", "hidden")

    def __init__(self, loss: Any, logits: mx.array, hidden: Any):
        self.loss, self.logits, self.hidden = loss, logits, hidden


class Plain:
    """An object of a plain class, with something that it works out once."""

    def __init__(self, loss: Any, logits: mx.array, hidden: Any):
        self.loss = loss
        self.logits = logits
        self.hidden = hidden

    @cached_property
    def last(self) -> mx.array:
        return self.logits[:, -1]


class Typed(NamedTuple):
    loss: Any
    logits: mx.array
    hidden: Any


Awkward = namedtuple("Awkward", "loss logits hidden keys", defaults=(None,))


class Entries(OrderedDict):
    """Entries that are attributes too, as in Hugging Face's `ModelOutput`."""

    def __init__(self, loss: Any, logits: mx.array, hidden: Any):
        super().__init__(loss=loss, logits=logits, hidden=hidden)
        self.__dict__.update(self)


def namespace(loss: Any, logits: mx.array, hidden: Any) -> SimpleNamespace:
    return SimpleNamespace(loss=loss, logits=logits, hidden=hidden)


KINDS = {
    "dataclass": Output,
    "frozen dataclass with slots": Frozen,
    "dataclass that checks itself": Checked,
    "slots": Slots,
    "plain object": Plain,
    "NamedTuple": Typed,
    "namedtuple with awkward names": Awkward,
    "namespace": namespace,
    "dict with attributes": Entries,
}


class Inner(nn.Module):
    """An object out of an array."""

    def __init__(self, kind: Any, width: int):
        super().__init__()
        self.proj = nn.Linear(width, width)
        object.__setattr__(self, "kind", kind)

    def __call__(self, x: mx.array) -> Any:
        y = self.proj(x)
        return self.kind(None, y, [x, mx.tanh(y)])


class Through(nn.Module):
    """An object in, an object out."""

    def __init__(self, kind: Any, width: int):
        super().__init__()
        self.head = nn.Linear(width, width)
        object.__setattr__(self, "kind", kind)

    def __call__(self, value: Any) -> Any:
        assert type(value) is type(self.kind(None, 0, []))
        return self.kind(None, self.head(value.logits) + value.hidden[1], list(value.hidden))


class Objects(nn.Module):
    """Objects between the modules and at the end."""

    def __init__(self, kind: Any = Output, width: int = 6):
        super().__init__()
        self.inner = Inner(kind, width)
        self.through = Through(kind, width)

    def __call__(self, x: mx.array) -> Any:
        return self.through(self.inner(x))


class Relay(nn.Module):
    """A different kind of object from each module to the next, and at the end."""

    def __init__(self, kinds: list[Any], width: int = 6):
        super().__init__()
        self.first = Inner(kinds[0], width)
        self.rest = [Passing(kind, width) for kind in kinds[1:]]

    def __call__(self, x: mx.array) -> Any:
        value = self.first(x)
        for module in self.rest:
            value = module(value)
        return value


class Passing(nn.Module):
    """Any object in, one of its own kind out; the logits are changed in place on the way."""

    def __init__(self, kind: Any, width: int):
        super().__init__()
        self.head = nn.Linear(width, width)
        object.__setattr__(self, "kind", kind)

    def __call__(self, value: Any) -> Any:
        first, second = value.hidden
        logits = value.logits
        logits += 1
        return self.kind(None, self.head(logits), [mx.tanh(second), first])


class Assistant(nn.Module):
    """A language model that returns an object, as those of vision-language packages do."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.language_model = inner

    @property
    def layers(self) -> Any:
        return self.language_model.layers

    def __call__(self, tokens: mx.array, cache: Any = None) -> Output:
        return Output(None, self.language_model(tokens, cache=cache))
