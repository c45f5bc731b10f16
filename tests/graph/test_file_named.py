"""Functions known by name: values that compare, print, and are found in one table only."""

from __future__ import annotations

import math

import pytest

from mlxgraph.graph import named
from mlxgraph.graph.named import Named
from mlxgraph.graph.node import PARAM, Node
from tests.graph.fakes import FakeArray


def by(*arguments) -> Named:
    return Named("by", arguments, lambda x: (x, *arguments))


class Hole:
    """What a param looks like from here."""

    shape = ()
    dtype = "float32"

    def __init__(self, name: str):
        self._node = Node(PARAM, (name, None, None))


@pytest.mark.parametrize(
    "value",
    [1, 1.0, True, math.nan, -0.0, "a", None, [1, 2], (1, 2), slice(1, None), by(2), 1j],
    ids=repr,
)
def test_equal_arguments_make_equal_functions_and_others_do_not(value):
    assert by(value) == by(value) and hash(by(value)) == hash(by(value))
    others = [1, 1.0, True, 0.0, "b", [1.0, 2], (1, 3), slice(1, 2), by(2.0), by(), (1, 2)]
    different = [
        other for other in others if (type(other), repr(other)) != (type(value), repr(value))
    ]
    assert all(by(value) != by(other) for other in different)
    assert Named("to", (value,), print) != by(value)


def test_arrays_count_by_shape_and_dtype_and_holes_by_name():
    assert by(FakeArray((2,))) == by(FakeArray((2,), data=b"another "))
    assert by(FakeArray((2,))) != by(FakeArray((3,)))
    assert by(FakeArray((2,))) != by(FakeArray((2,), "bfloat16"))
    assert by(Hole("a")) == by(Hole("a")) != by(Hole("b"))


def test_a_named_function_is_called_and_cannot_be_changed():
    assert by(2)(1) == (1, 2)
    with pytest.raises(AttributeError, match="immutable"):
        by(2).name = "other"


def test_it_prints_as_it_was_written():
    assert repr(by(0.5, None, "end")) == "by(0.5, None, 'end')"
    assert repr(by(FakeArray((2, 3)), by(1), math.sqrt)) == "by(array(2, 3), by(1), sqrt)"
    assert by(1).__name__ == "by(1)"


def test_holes_and_arrays_inside_are_found():
    one, two = FakeArray((1,)), FakeArray((2,))
    whole = by(Hole("b"), by(Hole("a"), one), two, Hole("b"))
    assert whole.params == ("b", "a")
    assert list(whole.arrays()) == [one, two]
    assert by(1).params == () and not list(by(1).arrays())


def test_only_what_was_registered_has_a_form_on_disk(monkeypatch):
    assert named.spec(by(1)) is None and named.spec(print) is None
    monkeypatch.setitem(named._makers, "by", by)
    monkeypatch.setitem(named._plain, "show", print)
    assert named.spec(by(1)) == ("by", (1,)) and named.make("by", (1,)) == by(1)
    assert named.spec(print) == ("show", None) and named.make("show", None) is print
    for name, arguments in (("print", None), ("by", None), ("show", ()), ("builtins.print", ())):
        with pytest.raises(KeyError):
            named.make(name, arguments)
