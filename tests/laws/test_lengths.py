"""A graph on other lengths and batch sizes than it was recorded on: every static index of it.

The reference is numpy, on an array of that shape: what it takes gives what it gives, and what it
refuses raises our error.  Never anything else: MLX itself reads rubbish there, ignores the
write, or ends the process.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import assume, event, given, note, settings
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph.errors import BoundsError, OperationError
from tests import models

ROOT = Path(__file__).parents[2]
WIDTH = 6
SHAPES = [(batch, length) for batch in (1, 2, 3) for length in (1, 2, 3, 4, 5, 6, 9)]
SITES = ("layers.0", "layers.1", "")
WAYS = [dict(compile=False), dict(compile=False, optimize=False), dict(compile=True)]
MODEL = models.made(models.Chain)


def x_of(batch: int, length: int) -> mx.array:
    """Inputs of which no two entries are alike."""
    count = batch * length * WIDTH
    return mx.sin(mx.arange(count, dtype=mx.float32) + 1).reshape(batch, length, WIDTH)


def _values() -> dict[tuple, np.ndarray]:
    """What every site holds on every shape, before anything is done to it."""
    found = {}
    for shape in SHAPES:
        x, values = x_of(*shape), []
        for layer in MODEL.module.layers:
            y = layer(x)
            x = x + mx.tanh(y)
            values.append(y)
        for site, value in zip(SITES, (values[0], values[1], x), strict=True):
            found[site, shape] = np.array(value)
    return found


VALUES = _values()


class Use(NamedTuple):
    """One thing that is done to a site's value by static indices: in the library, and in numpy."""

    how: str
    index: Any
    then: Any = None  # a second index into what the first one gives, or an axis

    def record(self, h: Any) -> Any:
        """As a user writes it."""
        match self.how:
            case "read":
                return h[self.index]
            case "read twice":
                return h[self.index][self.then]
            case "of a transpose":
                return h.swapaxes(0, 1)[self.index]
            case "take":
                return mx.take(h, self.index, axis=self.then)
            case "take along":
                return mx.take_along_axis(h, self.index, axis=self.then)
            case "add at":
                return h.at[self.index].add(1.0)
            case "write":
                h[self.index] = 7.0
            case "write twice":
                h[self.index][self.then] = 7.0
        return h

    def naive(self, a: np.ndarray) -> np.ndarray:
        """What it means; IndexError where it leaves the array."""
        index, then = as_numpy(self.index), as_numpy(self.then)
        where = np.arange(a.size).reshape(a.shape)
        result = a.copy()
        match self.how:
            case "read":
                return a[index]
            case "read twice":
                return a[index][then]
            case "of a transpose":
                return a.swapaxes(0, 1)[index]
            case "take":
                return np.take(a, index, axis=then)
            case "take along":
                return np.take_along_axis(a, index, axis=then)
            case "add at":
                np.add.at(result, index, 1.0)
            case "write":
                result[index] = 7.0
            case "write twice":
                result.reshape(-1)[where[index][then]] = 7.0
        return result

    def known(self, a: np.ndarray) -> str | None:
        """What is refused, and shown by a test of its own."""
        where = np.arange(a.size).reshape(a.shape)
        with suppress(IndexError):
            chosen = where[as_numpy(self.index)]
            if self.how == "write twice" and len(np.unique(chosen)) < chosen.size:
                return "a write into a part that shows a place twice"
        return None


def as_numpy(index: Any) -> Any:
    """The same index for numpy, to which MLX's arrays are strangers."""
    if isinstance(index, tuple):
        return tuple([as_numpy(part) for part in index])
    if isinstance(index, list):
        return np.array(index)
    return np.array(index) if isinstance(index, mx.array) else index


# -- what is drawn -------------------------------------------------------------------------------

ARRAYS = {
    "list": lambda rows: rows,
    "numpy": np.array,
    "int32": mx.array,
    "int64": lambda rows: mx.array(rows, mx.int64),
    "int8": lambda rows: mx.array(rows, mx.int8),
    "lazy": lambda rows: mx.array(rows) + mx.array(0),
}
EDGES = st.one_of(st.none(), st.integers(-8, 8))


def numbers(size: int) -> st.SearchStrategy[int]:
    """Most of them inside, on this shape."""
    return st.integers(-size - 1, size - 1)


@st.composite
def rows(draw: Any, size: int) -> Any:
    """Several numbers, in any kind of array."""
    inside = st.integers(-size, size - 1)
    found = draw(st.lists(inside, min_size=1, max_size=3))
    return ARRAYS[draw(st.sampled_from(sorted(ARRAYS)))](found)


def slices() -> st.SearchStrategy[slice]:
    return st.builds(slice, EDGES, EDGES, st.sampled_from([None, 1, 2, -1, -3]))


@st.composite
def indices(draw: Any, shape: tuple, several: bool = True) -> Any:
    """An index into an array of this shape, with at most one array among its parts."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.one_of(numbers(shape[0]), slices(), rows(shape[0])))
    parts: list[Any] = []
    ragged = several
    for size in shape[: draw(st.integers(1, len(shape)))]:
        kind = draw(st.sampled_from(["int", "int", "slice", "all", "rows"]))
        if kind == "rows" and ragged:
            parts.append(draw(rows(size)))
            ragged = False
        elif kind == "slice":
            parts.append(draw(slices()))
        else:
            parts.append(slice(None) if kind == "all" else draw(numbers(size)))
    if draw(st.integers(0, 3)) == 0:
        parts.insert(draw(st.sampled_from([0, len(parts)])), None)
    if draw(st.integers(0, 3)) == 0:
        parts.append(...)
    return tuple(parts)


HOWS = ["read", "read twice", "write", "write twice", "of a transpose", "take", "take along",
        "add at"]  # fmt: skip


@st.composite
def uses(draw: Any, shape: tuple) -> Use:
    """One use of the indices, of an array of this shape."""
    how = draw(st.sampled_from(HOWS))
    if how in ("take", "take along"):
        axis = draw(st.integers(0, 1))
        found = draw(rows(shape[axis]))
        found = mx.array(found) if isinstance(found, (list, np.ndarray)) else found
        if how == "take":
            number = int(found[0].item())
            if number != -1:  # MLX itself refuses it
                found = draw(st.sampled_from([found, number]))
            return Use(how, found, axis)
        return Use(how, found.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1)), axis)
    if how == "of a transpose":
        return Use(how, draw(indices((shape[1], shape[0], shape[2]))))
    index = draw(indices(shape))
    if not how.endswith("twice"):
        return Use(how, index)
    try:
        inner = np.zeros(shape)[as_numpy(index)].shape
    except IndexError:
        return Use("read", index)
    if not inner or 0 in inner:
        return Use("write", index)
    return Use(how, index, draw(indices(inner, several=how == "read twice")))


# -- the law -------------------------------------------------------------------------------------


def record(site: str, shape: tuple, use: Use) -> mg.Graph:
    owner = MODEL[site] if site else MODEL
    with MODEL.trace(x_of(*shape), compile=False) as t:
        use.record(owner.output).save("it")
    return t.graph


def outcome(use: Use, naive: Callable[[np.ndarray], np.ndarray], site: str, shape: tuple,
            run: Callable[[], mx.array]) -> str:  # fmt: skip
    """Whether a run on this shape gives what the reference gives, or is refused as there."""
    value = VALUES[site, shape]
    try:
        expected = mx.array(np.array(naive(value), order="C"))
    except IndexError:
        expected = None
    if expected is None:
        with pytest.raises(BoundsError, match=r"test_lengths.py:\d+"):
            mx.eval(run())
        return "refused"
    assert models.same(run(), expected, 1e-6), f"{use} at {site!r} of shape {value.shape}"
    return "given"


def meets(site: str, recorded: tuple, met: tuple, use: Use, way: dict, naive: Any = None) -> str:
    """A graph recorded on one shape meets another: what became of it."""
    naive = naive or use.naive
    graph = None

    def recording():
        nonlocal graph
        graph = record(site, recorded, use)
        return MODEL.run(graph, x_of(*recorded), compile=False)["it"]

    if outcome(use, naive, site, recorded, recording) == "refused":
        return "refused where it was written"
    return outcome(use, naive, site, met, lambda: MODEL.run(graph, x_of(*met), **way)["it"])


def law(examples: int) -> Counter:
    seen: Counter = Counter()

    @settings(max_examples=examples)
    @given(data=st.data())
    def run(data):
        site = data.draw(st.sampled_from(SITES))
        recorded = data.draw(st.sampled_from([(2, 5), *SHAPES, (3, 6)]))
        met = data.draw(st.sampled_from([(1, 3), (1, 2), *SHAPES]))
        use = data.draw(uses((*recorded, WIDTH)))
        way = data.draw(st.sampled_from(WAYS))
        assume(not any(use.known(VALUES[site, on]) for on in (recorded, met)))
        note(f"{use} at {site!r}, recorded on {recorded}, on {met}, {way}")
        became = meets(site, recorded, met, use, way)
        event(f"{use.how}: {became}")
        seen.update([became, (use.how, became)])

    run()
    return seen


@pytest.fixture
def untransformed():
    """`mx.compile` gives functions back as they are: what is left is how a pass is called."""
    for shape in SHAPES:  # the census is taken by `mx.compile`
        MODEL.run(mg.read(""), x_of(*shape))
    mx.disable_compile()
    yield
    mx.enable_compile()


def test_an_index_means_what_numpy_says_on_any_shape_or_raises(untransformed):
    seen = law(250)
    assert seen["given"] > 60 and seen["refused"] > 20
    assert seen["refused where it was written"] > 1


@pytest.mark.slow
def test_thousands_of_indices_mean_what_numpy_says_or_raise(untransformed):
    seen = law(6000)
    assert all(seen[how, "given"] > 20 and seen[how, "refused"] > 20 for how in HOWS)


@pytest.mark.parametrize(
    ("wrong", "met", "error"),
    [
        (lambda a: a[:, min(4, a.shape[1] - 1)], 3, BoundsError),  # as a slice does
        (lambda a: a[:, -1], 6, AssertionError),  # the last, as it was where it was recorded
    ],
)
def test_another_meaning_of_the_same_index_is_noticed(wrong, met, error):
    use = Use("read", (slice(None), 4))
    assert meets("layers.1", (2, 5), (2, 6), use, WAYS[0]) == "given"
    assert meets("layers.1", (2, 5), (2, 3), use, WAYS[0]) == "refused"
    with pytest.raises(error):
        meets("layers.1", (2, 5), (2, met), use, WAYS[0], naive=wrong)


# -- what it found -------------------------------------------------------------------------------

ENDS = """
import mlx.core as mx
from tests.laws.test_lengths import MODEL, Use, record, x_of
graph = record("layers.0", (2, 5), Use("write", ([0], slice(3, None))))
try:
    mx.eval(MODEL.run(graph, x_of(2, 3), compile=False)["it"])
except IndexError:
    pass
"""


def test_a_write_by_an_array_that_chooses_nothing_ends_no_process():
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, cwd=ROOT)
    assert done.returncode == 0


@pytest.mark.parametrize("index", [[0, 0], mx.array([1, 0, 1])])
def test_a_write_into_a_part_that_shows_a_place_twice_is_refused(index):
    with MODEL.trace(x_of(2, 5)) as t:
        part = MODEL.layers[0].output[index]
        with pytest.raises(OperationError, match=r"twice.*\n.*\n.*test_lengths.py"):
            part[0] = 7
        with pytest.raises(OperationError, match="twice"):
            MODEL.layers[0].output[index][0] += 7
        part *= 2  # the whole part is as MLX has it
        t.stop()


@pytest.mark.parametrize("width", [2, 5])
def test_a_write_by_a_number_and_an_array_that_lie_apart_goes_where_it_reads(width):
    x = x_of(2, 5)
    with MODEL.trace(x, compile=False):
        before = mx.array(MODEL.layers[0].output).save()
        MODEL.layers[0].output[0, :width, [0, 3]] += 0.0
        after = MODEL.layers[0].output.save()
    assert models.same(before, after)
