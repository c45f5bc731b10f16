"""Kinds of objects that models return.  No mlx: an array is whatever is given for one."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any, NamedTuple


@dataclass
class Output:
    """As mlx-vlm's language models and every embedder return it."""

    loss: Any
    logits: Any
    hidden: Any = None

    @property
    def last(self) -> Any:
        return self.logits[:, -1]

    def to_tuple(self) -> tuple:
        return (self.logits, self.hidden)


@dataclass(frozen=True, slots=True)
class Frozen:
    loss: Any
    logits: Any
    hidden: Any


@dataclass
class Checked:
    """Its constructor does work of its own, and does not bear being called again."""

    loss: Any
    logits: Any
    hidden: Any

    def __post_init__(self) -> None:
        if not isinstance(self.hidden, list):
            raise TypeError("made a second time")
        self.hidden = tuple(self.hidden)


class Slots:
    __slots__ = ("loss", "logits", "hidden")

    def __init__(self, loss: Any, logits: Any, hidden: Any):
        self.loss, self.logits, self.hidden = loss, logits, hidden


class Plain:
    """An object of a plain class, with something that it works out once."""

    def __init__(self, loss: Any, logits: Any, hidden: Any):
        self.loss = loss
        self.logits = logits
        self.hidden = hidden

    @cached_property
    def last(self) -> Any:
        return self.logits[:, -1]


class Typed(NamedTuple):
    loss: Any
    logits: Any
    hidden: Any


Awkward = namedtuple("Awkward", "loss logits hidden keys", defaults=(None,))


class Entries(OrderedDict):
    """Entries that are attributes too, as in Hugging Face's `ModelOutput`."""

    def __init__(self, loss: Any, logits: Any, hidden: Any):
        super().__init__(loss=loss, logits=logits, hidden=hidden)
        self.__dict__.update(self)


@dataclass
class Doing:
    """A declared value that can be called, and changes itself when it is told to."""

    loss: Any
    logits: Any
    hidden: Any

    def detach(self) -> Any:
        self.logits = self.logits + 0
        return self

    def __call__(self) -> Any:
        return self.logits


class Sequenced:
    """A plain object that is also read as a sequence, built by a method of its own."""

    def __init__(self, loss: Any, logits: Any, hidden: Any):
        self.loss = loss
        self._set(logits, hidden)

    def _set(self, logits: Any, hidden: Any) -> None:
        self._logits, self.hidden = logits, hidden

    @property
    def logits(self) -> Any:
        return self._logits

    @logits.setter
    def logits(self, value: Any) -> None:
        self._logits = value

    def __getitem__(self, key: int) -> Any:
        return (self.logits, self.hidden)[key]

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        return iter((self.logits, self.hidden))

    def __add__(self, other: Any) -> Any:
        return Sequenced(self.loss, self.logits + other.logits, self.hidden)


def namespace(loss: Any, logits: Any, hidden: Any) -> SimpleNamespace:
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
    "dataclass that does things": Doing,
    "plain object read as a sequence": Sequenced,
}
