"""Functions that change what they are given, and return that or something else: applied once.

The reference is the function itself, called on a copy of the site's plain value in a forward that
is hooked by hand.  What a function does is drawn: writes, augmented assignments, views that are
written into, looks at values and numpy in between, and what it returns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import event, given, note, settings
from hypothesis import strategies as st

import mlxgraph as mg
from tests import models
from tests.laws.interpreter import hooked_forward

X = mx.sin(mx.arange(60, dtype=mx.float32) * 1.3).reshape(2, 5, 6)
MODEL = models.made(models.InPlace)
SITE = ("layers.1", "output", 0)
NAME = "layers.1"

# -- what is drawn -------------------------------------------------------------------------------

PLACES = [
    ...,
    0,
    -1,
    (slice(None), 0),
    (slice(None), [0, -1]),
    (..., slice(None, None, 2)),
    (0, -1),
]


def write(h: Any, where: Any, by: float) -> Any:
    h[where] = by
    return h


def add(h: Any, where: Any, by: float) -> Any:
    h[where] += by
    return h


def add_to_all(h: Any, where: Any, by: float) -> Any:
    h += by
    return h


def multiply(h: Any, where: Any, by: float) -> Any:
    h *= by
    return h


def into_a_part(h: Any, where: Any, by: float) -> Any:
    h[where] = h[where] * by
    return h


def by_itself(h: Any, where: Any, by: float) -> Any:
    h -= h * by
    return h


def looks(h: Any, where: Any, by: float) -> Any:
    if float(h.sum()) > by:
        h += 1.0
    return h


def looks_with_numpy(h: Any, where: Any, by: float) -> Any:
    h += float(np.array(h).max())
    return h


def goes_another_way(h: Any, where: Any, by: float) -> Any:
    return h * 1.0


STEPS = [write, add, add_to_all, multiply, into_a_part, by_itself, looks, looks_with_numpy,
         goes_another_way]  # fmt: skip
LOOKS = {looks, looks_with_numpy}
RETURNS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "it": lambda given, before, h: h,
    "what it was given": lambda given, before, h: given,
    "what it was before": lambda given, before, h: before,
    "a copy": lambda given, before, h: mx.array(h),
    "another value": lambda given, before, h: h + before,
    "an array of another making": lambda given, before, h: mx.zeros(h.shape) + 0.5,
}


class InPlace(NamedTuple):
    """A user's function of one array, as the steps that it takes."""

    steps: tuple
    returns: str

    def __call__(self, h: Any) -> Any:
        given, before = h, h * 1.0
        for step, where, by in self.steps:
            h = step(h, where, by)
        return RETURNS[self.returns](given, before, h)

    @property
    def looks(self) -> bool:
        return any(step in LOOKS for step, _, _ in self.steps)


FUNCTIONS = st.builds(
    InPlace,
    st.lists(
        st.tuples(
            st.sampled_from(STEPS),
            st.sampled_from(PLACES),
            st.sampled_from([-1.5, 0.25, 2.0]),
        ),
        min_size=1,
        max_size=4,
    ).map(tuple),
    st.sampled_from(sorted(RETURNS)),
)

# -- the ways to give it to the library ----------------------------------------------------------


def by_edit(f: Any, **how: Any) -> dict[str, mx.array]:
    return MODEL.run(mg.edit(NAME, f) >> READ, X, **how).saves


def by_two_edits(f: Any, **how: Any) -> dict[str, mx.array]:
    return MODEL.run(mg.edit(NAME, f) >> mg.edit(NAME, f) >> READ, X, **how).saves


def by_edit_at_positions(f: Any, **how: Any) -> dict[str, mx.array]:
    return MODEL.run(mg.edit(NAME, f, positions=slice(1, 4)) >> READ, X, **how).saves


def by_an_edited_model(f: Any, **how: Any) -> dict[str, mx.array]:
    return MODEL.edit(mg.edit(NAME, f)).run(READ, X, **how).saves


def in_a_block(record: Callable[[Any, Any], None], compile: Any) -> dict[str, mx.array]:
    with MODEL.trace(X, compile=compile):
        handle = MODEL.layers[1]
        record(handle, handle.output)
        found = {"h": handle.output.save(), "output": MODEL.output.save()}
    return found


def by_apply(f: Any, compile: Any) -> dict[str, mx.array]:
    return in_a_block(lambda m, h: setattr(m, "output", mg.apply(f, h)), compile)


def by_apply_on_a_part(f: Any, compile: Any) -> dict[str, mx.array]:
    return in_a_block(lambda m, h: h.__setitem__(PART, mg.apply(f, h[PART])), compile)


def by_apply_unused(f: Any, compile: Any) -> dict[str, mx.array]:
    """Its result goes nowhere: what it was given is as it was."""
    return in_a_block(lambda m, h: mg.apply(f, h).save(), compile)


def by_interventions(f: Any, compile: Any) -> dict[str, mx.array]:
    with MODEL.trace(X, interventions={NAME: f}, compile=compile):
        found = {"h": MODEL.layers[1].output.save(), "output": MODEL.output.save()}
    return found


READ = mg.read(NAME, name="h") >> mg.read("", name="output")
PART = (slice(None), slice(1, 4))


def at_the_part(f: Any) -> Any:
    def whole(value: mx.array) -> mx.array:
        value[PART] = f(value[PART])
        return value

    return whole


WAYS = {
    by_edit: lambda f: f,
    by_an_edited_model: lambda f: f,
    by_two_edits: lambda f: lambda value: f(mx.array(f(value))),
    by_edit_at_positions: at_the_part,
    by_apply: lambda f: f,
    by_apply_on_a_part: at_the_part,
    by_apply_unused: lambda f: lambda value: value,
    by_interventions: lambda f: f,
}

# -- the law -------------------------------------------------------------------------------------


def reference(f: Any) -> dict[str, mx.array]:
    """The value at the site, and the output, where the site holds what `f` gives."""
    kept = {}

    def visit(found: list) -> list:
        values = []
        for site, value in found:
            if site == SITE:
                value = mx.array(f(mx.array(value)))
                kept["h"] = mx.array(value)
            values.append(value)
        return values

    kept["output"] = hooked_forward(MODEL.module, (X,), visit)
    mx.eval(kept)
    return kept


def agree(way: Any, f: InPlace, compile: Any, meaning: Any = None) -> None:
    wanted = reference((meaning or WAYS[way])(f))
    for _ in range(2):  # and once more: nothing is left in the function, or in a constant
        found = way(f, compile=compile)
        for name, value in wanted.items():
            assert models.same(found[name], value, 1e-4), f"{name}, {way.__name__}: {f}"


def law(examples: int, *compiles: Any) -> Counter:
    seen: Counter = Counter()
    plain = reference(lambda value: value)["output"]

    @settings(max_examples=examples)
    @given(data=st.data())
    def run(data):
        way, f = data.draw(st.sampled_from(list(WAYS))), data.draw(FUNCTIONS)
        compile = data.draw(st.sampled_from(compiles))
        # an edited model takes a census of its own, by `mx.compile` where there is any
        falls_back = f.looks or way is by_an_edited_model
        compile = "auto" if falls_back and compile is True else compile
        note(f"{way.__name__}: {f}")
        agree(way, f, compile)
        once, twice = reference(f)["output"], reference(lambda value: f(f(value)))["output"]
        kind = "looks" if f.looks else "is recorded"
        event(f"{way.__name__}, {kind}")
        changes = not models.same(once, plain, 1e-3)
        seen.update([way, kind, ("once is not twice", not models.same(once, twice, 1e-3))])
        seen["changes something"] += changes

    run()
    return seen


@pytest.fixture
def untransformed():
    """`mx.compile` gives functions back as they are: what is left is how a pass is called."""
    for way in WAYS:  # the census is taken by `mx.compile`
        way(InPlace(((add, ..., 1.0),), "it"), compile=False)
    mx.disable_compile()
    yield
    mx.enable_compile()


def test_a_function_that_works_in_place_is_applied_exactly_once(untransformed):
    seen = law(80, False, False, True, "auto")
    assert all(seen[way] for way in WAYS) and seen["looks"] > 5 and seen["is recorded"] > 5
    assert seen["once is not twice", True] > 20 and seen["changes something"] > 30


@pytest.mark.slow
@pytest.mark.parametrize("compile", [False, True])
def test_thousands_of_functions_that_work_in_place_are_applied_once(compile):
    seen = law(100 if compile else 2000, compile)
    assert all(seen[way] for way in WAYS)
    assert seen["once is not twice", True] > 20


@pytest.mark.parametrize("way", [by_edit, by_apply, by_interventions], ids=lambda way: way.__name__)
@pytest.mark.parametrize("step", [add_to_all, looks_with_numpy])
def test_a_function_that_is_applied_twice_is_noticed(way, step):
    f = InPlace(((step, ..., 1.0),), "it")
    agree(way, f, False)
    with pytest.raises(AssertionError):
        agree(way, f, False, lambda f: lambda value: f(f(value)))
