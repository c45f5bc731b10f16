"""What counts as a nested value, decided by type, and what keeps state and so is a leaf."""

from __future__ import annotations

import enum
import threading
from collections import defaultdict, namedtuple
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from mlxgraph.graph.nested import (
    entries,
    entry,
    hides_arrays,
    is_container,
    is_given_value,
    leaves,
    map_nested,
    replace_item,
    unflatten,
)
from mlxgraph.graph.stateful import changes_itself
from tests import outputs


class Array:
    """What an array looks like from here."""

    __slots__ = ()
    shape, dtype = (1,), "float32"


ONE, TWO, THREE = Array(), Array(), Array()


@dataclass
class Setter:
    """Sets an entry when it is told to."""

    keys: Any

    def update(self, keys: Any) -> None:
        self.keys = keys


class InPlace:
    def __init__(self) -> None:
        self.keys = ONE

    def update(self, start: int, keys: Any) -> Any:
        self.keys[..., start : start + 1, :] = keys
        return self.keys


class Deleting(InPlace):
    def trim(self) -> None:
        del self.keys

    update = None  # type: ignore[assignment]


class Appending(SimpleNamespace):
    def update(self, keys: Any) -> None:
        self.keys.append(keys)


class Properties:
    def __init__(self) -> None:
        self._state = ONE

    @property
    def state(self) -> Any:
        return self._state

    @state.setter
    def state(self, value: Any) -> None:
        for part in self._state:
            part.state = value


class OwnItems(dict):
    def update_and_fetch(self, key: str, value: Any) -> Any:
        self[key] = value
        return value


STATEFUL = [Setter, InPlace, Deleting, Appending, Properties, OwnItems]


@pytest.mark.parametrize("kind", STATEFUL)
def test_a_class_whose_methods_change_its_objects_keeps_state(kind):
    assert changes_itself(kind)


class Reading:
    """Its methods fill things of their own, and never the object."""

    def __init__(self, keys: Any) -> None:
        self.keys = keys
        self.made = []
        self.made.append(keys)

    def to_dict(self) -> dict:
        found = {}
        found["keys"] = self.keys
        found.update(more=self.made)
        other = SimpleNamespace()
        other.keys = self.keys
        return found

    @staticmethod
    def of(values: Any) -> Any:
        values.first = values.keys
        return values


@pytest.mark.parametrize(
    "kind",
    [
        Reading,
        *(k for k in outputs.KINDS.values() if isinstance(k, type) and k is not outputs.Doing),
    ],
)
def test_a_class_that_only_reads_keeps_none(kind):
    assert not changes_itself(kind)


@pytest.mark.parametrize("kind", outputs.KINDS.values(), ids=outputs.KINDS)
def test_an_object_is_taken_apart_and_put_together_again(kind):
    value = kind(None, ONE, [TWO, THREE])
    assert is_container(value) and leaves(value)[:4] == [None, ONE, TWO, THREE]
    twin = unflatten(value, [0, 1, 2, 3, 4][: len(leaves(value))])
    assert type(twin) is type(value) and (twin.loss, twin.logits) == (0, 1)
    assert list(twin.hidden) == [2, 3] and value.logits is ONE
    key = next(key for key, item in entries(value) if item is ONE)
    changed = replace_item(value, key, TWO)
    assert entry(changed, key) is TWO and changed.logits is TWO and value.logits is ONE


def test_subclasses_of_containers_keep_their_type_and_what_they_carry():
    class Items(list):
        pass

    class Pair(tuple):
        pass

    pair = Pair([ONE, TWO])
    pair.name = "x"
    twin = map_nested(pair, lambda _: 0)
    assert type(twin) is Pair and twin == (0, 0) and twin.name == "x" and pair[0] is ONE
    items = Items([ONE, TWO])
    items.name = "x"
    twin = map_nested(items, lambda _: 0)
    assert type(twin) is Items and twin == [0, 0] and twin.name == "x"
    counts = defaultdict(list, a=ONE)
    twin = map_nested(counts, lambda _: 0)
    assert type(twin) is defaultdict and twin == {"a": 0} and twin.default_factory is list


def test_what_is_no_value_is_a_leaf():
    class Callable:
        def __init__(self) -> None:
            self.a = ONE

        def __call__(self) -> None:
            pass

    class Color(enum.Enum):
        RED = 1

    class Holding:
        def __init__(self) -> None:
            self.lock = threading.Lock()

    whatever = [ONE, 1, "x", None, print, len, int, Color.RED, Holding(), Callable(), {1}]
    whatever += [partial(print, ONE), threading, range(3), InPlace(), Deleting()]
    whatever += [namedtuple, iter([]), (x for x in ()), slice(1), Ellipsis, ValueError("x")]
    assert not any(map(is_container, whatever))
    assert hides_arrays(Callable()) and hides_arrays(InPlace()) and not hides_arrays(Holding())
    assert is_container(Setter(ONE)) and not is_given_value(Setter(ONE))
    assert is_container(Appending()) and not is_given_value(Appending())
    assert is_container(SimpleNamespace()) and is_container(outputs.Output(None, None))


def test_a_plain_object_is_a_value_once_it_holds_arrays_and_no_value_among_inputs():
    class Plain:
        def __init__(self, inside: Any) -> None:
            self.inside = inside

    assert not is_container(Plain(3)) and not is_container(Plain([Plain("text")]))
    around = Plain(None)
    around.inside = around
    assert not is_container(around)
    nested = Plain({"a": [Plain(ONE)]})
    assert is_container(nested) and leaves(map_nested(nested, lambda _: None)) == [None]
    assert not is_given_value(nested) and is_given_value(outputs.Output(None, ONE))


def test_a_field_that_is_made_by_the_class_is_not_made_again():
    @dataclass(frozen=True)
    class Made:
        given: Any
        made: list = field(default_factory=list, init=False)

        def __post_init__(self) -> None:
            self.made.append(self.given)

    twin = map_nested(Made(ONE), lambda _: TWO)
    assert twin.given is TWO and twin.made == [TWO]
