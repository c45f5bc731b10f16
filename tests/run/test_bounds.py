"""A graph never reads or writes outside of an array, whatever it was recorded on.

Every form of index, recorded on a long text, meets a shorter one and a smaller batch.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import BoundsError, PositionError, ShapeError
from tests import models

LONG = mx.array([[1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1]])
SHORT = LONG[:, :4]
FEW = LONG[:1]


def at(index):
    def read(h):
        return h[index]

    return read


def put(index):
    def write(h):
        h[index] = 0.0
        return h

    return write


def nested_put(outer, inner):
    def write(h):
        h[outer][inner] = 0.0
        return h

    return write


READS = {
    "h[0][5]": lambda h: h[0][5],
    "h[0][-6]": lambda h: h[0][-6],
    "h[0, 5]": at((0, 5)),
    "h[0, [5]]": at((0, [5])),
    "h[0, [[1, 2], [5, 0]]]": at((0, [[1, 2], [5, 0]])),
    "h[..., 5, :]": at((Ellipsis, 5, slice(None))),
    "h[:, None, 5]": at((slice(None), None, 5)),
    "h[:, np.array([5])]": at((slice(None), np.array([5]))),
    "h[:, mx.array([0, 5])]": at((slice(None), mx.array([0, 5]))),
    "h[:, mx.array(-6)]": at((slice(None), mx.array(-6))),
    "h[0][mx.array([[5]])]": lambda h: h[0][mx.array([[5]])],
    "take a number": lambda h: mx.take(h, 5, axis=1),
    "take an array": lambda h: mx.take(h, mx.array([1, 5]), axis=-2),
    "take of all": lambda h: mx.take(h, mx.array([5 * models.WIDTH * 2])),
    "take_along_axis": lambda h: mx.take_along_axis(h, mx.array([[[5]]]), axis=1),
    "slice": lambda h: mx.slice(h, mx.array([3]), (1,), (1, 3, models.WIDTH)),
    "transposed": lambda h: h.swapaxes(0, 1)[5],
    "after a sum": lambda h: (h + h).sum(-1)[:, 5],
}
READS |= {
    "gather_mm": lambda h: mx.gather_mm(
        h.reshape(-1, 1, models.WIDTH),
        mx.ones((2, models.WIDTH, 2)),
        mx.array([9]),
        mx.array([1]),
    ),
    "segmented_mm": lambda h: mx.segmented_mm(h[0].T, h[0], mx.array([[0, 7]], mx.uint32)),
    "as_strided": lambda h: mx.as_strided(h, (3,), (1,), 9 * models.WIDTH),
}
WRITES = {
    "h[0][5] =": nested_put(0, 5),
    "h[0][-6] =": nested_put(0, -6),
    "h[:, 5] =": put((slice(None), 5)),
    "h[0, [1, 5]] =": put((0, [1, 5])),
    "h[:, mx.array([5])] =": put((slice(None), mx.array([5]))),
    "at.add": lambda h: h.at[:, 5].add(1.0),
    "at.add of an array": lambda h: h.at[:, mx.array([5])].add(1.0),
    "put_along_axis": lambda h: mx.put_along_axis(
        h, mx.array([[[5]]]), mx.array([[[0.0]]], h.dtype), axis=1
    ),
    "slice_update": lambda h: mx.slice_update(
        h, mx.zeros((1, 3, models.WIDTH)), mx.array([3]), (1,)
    ),
}
ROWS = {
    "h[1]": at(1),
    "h[-2]": at(-2),
    "h[mx.array([0, 1])]": at(mx.array([0, 1])),
    "h[[1], 2]": at(([1], 2)),
    "h[1][0] =": nested_put(1, 0),
    "h[1] =": put(1),
}


@pytest.fixture(scope="module")
def llama():
    """A random Llama."""
    return mg.InterpretableModel(models.make_llama())


def graph_of(llama, use, where="layers.0.output"):
    with llama.trace(LONG) as t:
        site = llama.output if where == "output" else llama.layers[0].output
        used = use(site)
        if used.shape == site.shape:
            llama.layers[0].output = used
            llama.output.save("out")
        else:
            used.save("out")
    return t.graph


def ways(llama, graph, given):
    """Every way in which a graph meets inputs, twice each: eager, and compiled."""

    def traced():
        with llama.trace(given, graph=graph):
            pass

    def edited():
        with llama.edit(graph).trace(given):
            llama.output.save()

    yield lambda: llama.run(graph, given)
    yield lambda: llama.run(graph, given)
    yield lambda: llama.compile(graph)(given)
    yield lambda: llama.run(graph, given, optimize=False, compile=False)
    yield traced
    yield edited
    if graph.writes:  # the output alone is computed: nobody reads what the graph saves
        yield lambda: llama.edit(graph)(given)
    yield lambda: llama.explain(graph, given)


@pytest.mark.parametrize("name", [*READS, *WRITES])
def test_a_shorter_text(llama, name):
    graph = graph_of(llama, {**READS, **WRITES}[name])
    llama.run(graph, LONG)
    for way in ways(llama, graph, SHORT):
        with pytest.raises(BoundsError, match=r"test_bounds.py:\d+") as caught:
            way()
        assert isinstance(caught.value, IndexError)
    mx.eval(llama.run(graph, LONG).saves["out"])


@pytest.mark.parametrize("name", ROWS)
def test_a_smaller_batch(llama, name):
    graph = graph_of(llama, ROWS[name])
    llama.run(graph, LONG)
    for way in ways(llama, graph, FEW):
        with pytest.raises(BoundsError, match=r"test_bounds.py:\d+"):
            way()


@pytest.mark.parametrize("name", ["h[0][5]", "h[0, 5]", "h[:, mx.array([0, 5])]", "h[0][-6]"])
def test_of_the_output_which_is_pushed_below_the_head(llama, name):
    graph = graph_of(llama, READS[name], "output")
    for way in ways(llama, graph, SHORT):
        with pytest.raises(BoundsError):
            way()


def test_what_still_fits_gives_what_recording_it_there_gives(llama):
    graph = graph_of(llama, lambda h: h[:, mx.array([0, -1])] + h[:, [1, 3]] + h[0][-4])
    with llama.trace(SHORT):
        h = llama.layers[0].output
        there = (h[:, mx.array([0, -1])] + h[:, [1, 3]] + h[0][-4]).save()
    for _ in range(2):
        assert models.same(llama.run(graph, SHORT)["out"], there, 0)


WRONG_HERE = {
    "an array": lambda h: h[:, mx.array([0, 7])],
    "an array, negative": lambda h: h[:, mx.array([-8])],
    "unsigned": lambda h: h[:, mx.array([9], mx.uint32)],
    "lazy": lambda h: h[:, mx.arange(6) + 4],
    "a write": put((slice(None), mx.array([7]))),
    "at": lambda h: h.at[:, mx.array([7])].add(1.0),
    "take": lambda h: mx.take(h, mx.array([7]), axis=1),
    "take a number": lambda h: mx.take(h, 7, axis=1),
    "as a method": lambda h: mx.take(a=h, indices=mx.array([7]), axis=1),
    "take_along_axis": lambda h: mx.take_along_axis(h, mx.array([[[9]]]), axis=1),
    "slice": lambda h: mx.slice(h, mx.array([6]), (1,), (2, 2, models.WIDTH)),
    "slice before": lambda h: mx.slice(h, mx.array([-1]), (1,), (2, 2, models.WIDTH)),
    "gather_mm": lambda h: mx.gather_mm(
        h, mx.ones((2, models.WIDTH, 2)), rhs_indices=mx.array([2])
    ),
    "gather_mm, negative": lambda h: mx.gather_mm(h, mx.ones((2, models.WIDTH, 2)), mx.array([-1])),
    "gather_mm, the other": lambda h: mx.gather_mm(mx.ones((3, 2, 7)), h, None, mx.array([2])),
    "gather_qmm": lambda h: mx.gather_qmm(
        h,
        *mx.quantize(mx.ones((2, 8, models.WIDTH)), group_size=32),
        rhs_indices=mx.array([5]),
        group_size=32,
    ),
    "segmented_mm": lambda h: mx.segmented_mm(h[0].T, h[0], mx.array([[0, 9]], mx.uint32)),
    "as_strided": lambda h: mx.as_strided(h, (3,), (models.WIDTH,), 2 * 7 * models.WIDTH - 64),
    "as_strided, before": lambda h: mx.as_strided(h, (3,), (-1,), 1),
    "as_strided, its own shape": lambda h: mx.as_strided(h, offset=1),
    "cross_entropy": lambda h: nn.losses.cross_entropy(h[0], mx.array([0, 32, 1, 1, 1, 1, 1])),
}


@pytest.mark.parametrize("name", WRONG_HERE)
def test_arrays_that_are_known_are_checked_on_the_users_line(llama, name):
    with pytest.raises(BoundsError, match=r"test_bounds.py:\d+"), llama.trace(LONG):
        WRONG_HERE[name](llama.layers[0].output)


def test_a_param_that_is_an_index_is_checked_with_its_value(llama):
    where = mg.param("where", shape=(2,), dtype="int32")
    with llama.trace(LONG) as t:
        llama.layers[0].output[:, where].save("out")
    graph = t.graph
    for compile in (False, True, "auto"):
        llama.run(graph, LONG, where=mx.array([6, 0]), compile=compile)
        with pytest.raises(BoundsError):
            llama.run(graph, LONG, where=mx.array([7, 0]), compile=compile)
        with pytest.raises(BoundsError), llama.trace(LONG, graph=graph, where=mx.array([7, 0])):
            pass


COMPUTED = {
    "pos + 3": lambda i: i + 3,
    "2 * pos": lambda i: 2 * i,
    "-pos": lambda i: -i - 1,
    "a part": lambda i: mx.concatenate([i, i + 1])[1:],
    "a cast": lambda i: (i.astype(mx.float32) * 2).astype(mx.uint32),
    "clipped too late": lambda i: mx.minimum(i, 4) * 2,
    "with an array": lambda i: i + mx.array([0, 1]),
    "with the shape": lambda i: mx.where(mx.array([True]), i + 4, 0),
}
USED = {
    "read": lambda h, i: h[:, i],
    "written": lambda h, i: h.__setitem__((0, i), 0.0) or h,
    "at": lambda h, i: h.at[:, i].add(1.0),
    "taken": lambda h, i: mx.take(h, i, axis=1),
    "along": lambda h, i: mx.take_along_axis(h, i[None, :, None], axis=1),
}


@pytest.mark.parametrize("used", USED)
@pytest.mark.parametrize("computed", COMPUTED)
@pytest.mark.thin(6)
def test_an_index_computed_from_a_param(llama, computed, used):
    where = mg.param("where", shape=(1,), dtype="int32")
    with llama.trace(LONG) as t:
        USED[used](llama.layers[0].output, COMPUTED[computed](where)).save("out")
    graph, good, bad = t.graph, mx.array([1], mx.int32), mx.array([7], mx.int32)
    for compile in (False, True, "auto"):
        for run in (
            lambda value, how: llama.run(graph, LONG, where=value, compile=how),
            lambda value, how: llama.run(graph.bind(where=value), LONG, compile=how),
            lambda value, how: llama.compile(graph)(LONG, where=value),
            lambda value, how: traced_with(llama, graph.bind(where=value), how),
            lambda value, how: traced_with(llama, graph, how, where=value),
        ):
            run(good, compile)
            with pytest.raises(BoundsError, match=r"test_bounds.py:\d+"):
                run(bad, compile)


def traced_with(llama, graph, how, **params):
    with llama.trace(LONG, graph=graph, compile=how, **params):
        pass


@pytest.mark.parametrize(
    "use",
    [
        lambda h, k: h[:, k],
        lambda h, k: h[0, k + 1],
        lambda h, k: h.__setitem__((0, k), 0.0),
        lambda h, k: h.at[:, k].add(1.0),
    ],
)
@pytest.mark.parametrize("dtype", [None, "int32"])
def test_a_number_that_is_an_index_says_how_to_declare_it(llama, use, dtype):
    with pytest.raises(ShapeError, match=r"mg.param\('k', shape=\(\), dtype='int32'\)"):
        with llama.trace(LONG):
            use(llama.layers[0].output, mg.param("k", dtype=dtype))
    with llama.trace(LONG) as t:
        llama.layers[0].output[:, mg.param("k", shape=(), dtype="int32")].save("out")
    assert llama.run(t.graph, LONG, k=6)["out"].shape == (2, models.WIDTH)
    with pytest.raises(BoundsError):
        llama.run(t.graph, LONG, k=7)


def test_an_index_computed_from_a_param_meets_a_shorter_text(llama):
    where = mg.param("where", shape=(1,), dtype="int32")
    with llama.trace(LONG) as t:
        llama.layers[0].output[:, where + 3].save("out")
    at = mx.array([1], mx.int32)
    llama.run(t.graph, LONG, where=at)
    for given in (SHORT, LONG[:, :2]):
        with pytest.raises(BoundsError):
            llama.run(t.graph, given, where=at)
        with pytest.raises(BoundsError):
            llama.run(t.graph.bind(where=at), given)


def test_an_index_that_the_model_has_a_part_in_is_left_to_it(llama):
    where = mg.param("where", shape=(1,), dtype="int32")
    with llama.trace(LONG) as t:
        h = llama.layers[0].output
        h[:, mx.minimum(where, h[0].argmax().astype(mx.int32) * 0 + 6)].save("out")
    out = llama.run(t.graph, LONG, where=mx.array([99], mx.int32))["out"]
    assert out.shape == (2, 1, models.WIDTH)


def test_segments_may_end_where_the_axis_does(llama):
    with llama.trace(LONG):
        h = llama.layers[0].output
        whole = mx.segmented_mm(h[0].T, h[0], mx.array([[0, 7]], mx.uint32)).save()
        strided = mx.as_strided(h, (2, 7), (7 * models.WIDTH, models.WIDTH), 1).save()
        kept = h.save()
    assert models.same(whole[0], kept[0].T @ kept[0], 1e-3)
    assert models.same(strided, kept[..., 1], 0)


def test_a_pass_function_checks_what_it_makes_of_arrays(llama):
    @llama.pass_
    def rows(m, where):
        return m.layers[0].output[:, where["b"] * 2]

    assert rows(LONG, {"b": mx.array([3])}).shape == (2, 1, models.WIDTH)
    for _ in range(2):
        with pytest.raises(BoundsError):
            rows(LONG, {"b": mx.array([4])})


def test_a_pass_function_checks_the_arrays_it_is_given(llama):
    @llama.pass_
    def rows(m, where):
        return m.layers[0].output[:, where]

    assert rows(LONG, mx.array([6])).shape == (2, 1, models.WIDTH)
    for _ in range(2):
        with pytest.raises(BoundsError):
            rows(LONG, mx.array([7]))


def test_another_array_in_the_same_pass_is_checked_too(llama):
    def run(index):
        with llama.trace(LONG):
            out = llama.layers[0].output[:, index].save()
        return out

    run(mx.array([3]))
    run(mx.array([6]))
    with pytest.raises(BoundsError):
        run(mx.array([7]))


def test_indices_that_a_transformation_follows_are_left_to_it(llama):
    def at_where(where):
        with llama.trace(LONG):
            out = llama.layers[0].output[0, where].save()
        return out

    many = mx.vmap(at_where)(mx.array([0, 3, 6]))
    with llama.trace(LONG):
        h = llama.layers[0].output.save()
    assert models.same(many, h[0, mx.array([0, 3, 6])], 1e-5)


def test_positions_of_deferred_edits_that_a_text_lacks(llama):
    for positions in (5, [1, 5], -6):
        graph = mg.edit("layers.0", iv.scale(0.0), positions=positions)
        llama.run(graph, LONG)
        with pytest.raises(PositionError):
            llama.run(graph, SHORT)


def halves(h):
    first, _ = mx.split(h, 2, axis=1)
    first *= 0.0
    return h


@pytest.mark.parametrize("optimize", [True, False])
def test_a_part_of_a_split_that_is_another_part_here_raises(llama, optimize):
    """Its bounds are those of the text it was recorded on."""
    with llama.trace(SHORT) as t:
        halves(llama.layers[0].output)
        llama.output.save("out")
    for fewer in (LONG[:, :2], LONG[:, :6]):
        with pytest.raises(ShapeError, match=r"test_bounds.py:\d+"):
            llama.run(t.graph, fewer, optimize=optimize)
    assert llama.run(t.graph, SHORT)["out"].shape == (2, 4, models.VOCABULARY)
