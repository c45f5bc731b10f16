"""Arrays as objects: sharing, filling, subclassing, and what indexing does not do."""

from __future__ import annotations

import weakref

import mlx.core as mx
import pytest

from mlxgraph.mlx_facts import arrays
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.placeholders import placeholder


class Kept(mx.array):
    __slots__ = ("name",)


class Open(Kept):
    __slots__ = ()

    def __radd__(self, other):
        return "asked"

    def __rmatmul__(self, other):
        return "asked"

    def __gt__(self, other):
        return "asked"


@pytest.mark.parametrize("twin", [lambda x: x.__copy__(), arrays.same_data])
def test_a_copy_is_another_array_object_on_the_same_data(twin) -> None:
    x = mx.zeros((1000, 1000))
    mx.eval(x)
    before = mx.get_active_memory()
    y = twin(x)
    mx.eval(y)
    assert y is not x and mx.get_active_memory() - before < 1000
    x += 1
    x[0] = 5
    assert not y.any().item() and x.all().item()


def test_plus_equals_changes_an_array_in_place_for_whoever_holds_it() -> None:
    x = y = mx.zeros((2,))
    x += 1
    assert y is x and y.tolist() == [1, 1]


@pytest.mark.parametrize("kind", [ARRAY, Kept])
@pytest.mark.parametrize("dtype", [mx.int32, mx.bool_, mx.float16])
def test_plus_equals_makes_an_array_what_both_are_together(kind, dtype) -> None:
    x = kind(placeholder((2, 3), dtype))
    arrays.become(x, mx.float32)
    assert type(x) is kind and x.dtype == mx.float32 and x.shape == (2, 3)


def test_a_copy_of_an_array_that_is_not_evaluated_evaluates_nothing() -> None:
    assert arrays.same_data(placeholder((2,), mx.float32)).shape == (2,)


def test_a_copy_of_a_subclass_is_a_plain_array() -> None:
    assert type(arrays.same_data(Kept(mx.ones((2,))))) is mx.array


def test_a_copy_passes_gradients_on() -> None:
    gradient = mx.grad(lambda x: (arrays.same_data(x) * 3).sum())(mx.ones((2,)))
    assert gradient.tolist() == [3, 3]


@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 3)])
def test_an_array_can_be_filled_though_it_held_nothing(shape: tuple[int, ...]) -> None:
    handle = Open(placeholder(shape, mx.float32))
    arrays.fill(handle, mx.ones(shape) * 3)
    assert mx.array_equal(handle, mx.full(shape, 3.0)) and type(handle) is Open


def test_filling_is_lazy_and_copies_nothing() -> None:
    handle = Open(placeholder((2,), mx.float32))
    arrays.fill(handle, placeholder((2,), mx.float32))  # evaluating would raise
    result = mx.zeros((1000, 1000))
    mx.eval(result)
    before = mx.get_active_memory()
    big = Open(placeholder((1000, 1000), mx.float32))
    arrays.fill(big, result)
    mx.eval(big)
    assert mx.get_active_memory() - before < 1000


@pytest.mark.parametrize("how", ["grad", "vmap", "compile"])
def test_transformations_follow_through_what_was_filled(how: str) -> None:
    def function(x: mx.array) -> mx.array:
        handle = Open(placeholder((2,), mx.float32))
        arrays.fill(handle, x * 3)
        return mx.sum(handle * 1)

    made, given = getattr(mx, how)(function), mx.ones((2, 2) if how == "vmap" else (2,))
    assert made(given).tolist() == {"grad": [3, 3], "vmap": [6, 6], "compile": 6}[how]


def test_a_subclass_is_taken_as_the_array_it_is_by_every_function() -> None:
    handle = Kept(mx.ones((2,)))
    assert isinstance(handle, mx.array) and isinstance(handle, ARRAY)
    assert mx.sum(handle).item() == 2 and type(mx.exp(handle)) is mx.array
    assert (mx.ones((2,)) * handle).tolist() == [1, 1]


def test_an_array_asks_a_subclass_first_for_the_operators_that_it_has() -> None:
    handle, plain = Open(mx.ones((2,))), mx.ones((2,))
    assert plain + handle == "asked" and (plain < handle) == "asked"
    assert Kept(mx.ones((2,))) + handle == "asked"


def test_arrays_have_no_rmatmul_and_one_that_is_given_is_asked() -> None:
    assert not hasattr(mx.array, "__rmatmul__")
    assert mx.ones((2, 2)) @ Open(mx.ones((2,))) == "asked"


def test_the_class_of_an_array_can_be_exchanged_for_one_of_the_same_slots() -> None:
    handle = Open(mx.ones((2,)))
    handle.name = "h"
    arrays.wear(handle, Kept)
    assert type(handle) is Kept and handle.name == "h" and handle.tolist() == [1, 1]
    assert (mx.ones((2,)) + handle).tolist() == [2, 2]


def test_arrays_can_be_referred_to_weakly() -> None:
    x = mx.ones((2,))
    reference = weakref.ref(x)
    assert reference() is x
    del x
    assert reference() is None


@pytest.mark.parametrize("dtype", [mx.int32, mx.uint8, mx.bool_, mx.float16, mx.float32])
@pytest.mark.parametrize("value", [True, 2, 2.5, mx.array(2.5)])
def test_an_array_filled_like_another_has_its_dtype(dtype: mx.Dtype, value) -> None:
    like = mx.zeros((2,), dtype)
    filled = arrays.filled_like(like, value)
    expected = mx.array(value).astype(dtype)
    assert filled.dtype == dtype and filled.shape == (2,)
    assert mx.array_equal(filled, mx.broadcast_to(expected, (2,)))


def test_full_leaves_a_float_a_float_in_an_integer_dtype() -> None:
    assert mx.full((2,), 2.5, dtype=mx.int32).dtype == mx.float32


def test_a_mask_is_written_through_and_not_read_through() -> None:
    mask, x = mx.array([True, False, True]), mx.zeros((3,))
    assert arrays.is_mask(mask) and not arrays.is_mask(x) and not arrays.is_mask([True])
    x[mask] = 1
    assert x.tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="boolean indices"):
        x[mask]


def test_an_index_out_of_bounds_is_not_noticed() -> None:
    x = mx.arange(3)
    assert x[7].shape == ()  # rubbish
    x[9] = 5
    assert x.tolist() == [0, 1, 2]


def test_a_method_that_is_exchanged_is_called_for_every_array() -> None:
    real, array = mx.array.__iadd__, mx.array([1.0])
    try:
        arrays.exchange("__iadd__", lambda real: lambda self, other: real(self, other * 2))
        array += 1.0
        assert array.item() == 3
        arrays.exchange("__no_such_method__", lambda real: abs)
        assert not hasattr(mx.array, "__no_such_method__")
    finally:
        mx.array.__iadd__ = real
    array += 1.0
    assert array.item() == 4


@pytest.mark.parametrize("compiled", [False, True])
def test_a_part_keeps_its_whole_buffer_and_a_contiguous_one_does_not(compiled: bool) -> None:
    def held(cut):
        made = mx.compile(cut) if compiled else cut
        mx.eval(made(mx.zeros((2, 64, 512))))
        before = mx.get_active_memory()
        part = made(mx.zeros((2, 64, 512)))
        mx.eval(part)
        return mx.get_active_memory() - before

    assert held(lambda x: (x + 1)[:, -1]) >= 2 * 64 * 512 * 4
    own = held(lambda x: arrays.in_a_buffer_of_its_own((x + 1)[:, -1]))
    assert own < 8 * 512 * 4  # a page more, at most


def test_gradients_flow_through_a_contiguous_part() -> None:
    x = mx.arange(12.0).reshape(3, 4)
    gradient = mx.grad(lambda x: arrays.in_a_buffer_of_its_own(x[1:, ::2]).sum())(x)
    assert gradient.tolist() == [[0, 0, 0, 0], [1, 0, 1, 0], [1, 0, 1, 0]]


EVERY = slice(None)


@pytest.mark.parametrize("index", [(0, EVERY, mx.array([0, 3])), (mx.array([0]), EVERY, None)])
def test_some_indices_read_one_part_and_cannot_write_it(index) -> None:
    assert arrays.writes_elsewhere(index)
    x = mx.zeros((2, 5, 6))
    value = mx.arange(x[index].size, dtype=mx.float32).reshape(x[index].shape)
    with pytest.raises(ValueError, match=r"(?i)broadcast"):
        x[index] = value


@pytest.mark.parametrize(
    "index",
    [
        (0, mx.array([0, 3])),
        (mx.array([0, 1]), 0, EVERY),
        (mx.array([0, 1]), EVERY),
        (EVERY, 0, mx.array([0, 1])),
        (mx.array([0]), EVERY, mx.array([0, 3])),
    ],
)
def test_other_indices_write_what_they_read(index) -> None:
    assert not arrays.writes_elsewhere(index) and not arrays.writes_elsewhere(0)
    x = mx.zeros((2, 5, 6))
    value = mx.arange(x[index].size, dtype=mx.float32).reshape(x[index].shape) + 1
    x[index] = value
    assert mx.array_equal(x[index], value)


def test_an_array_and_an_empty_slice_choose_nothing() -> None:
    x = mx.zeros((2, 3, 6))
    assert arrays.chooses_nothing(x, (mx.array([0]), slice(3, None)))
    assert not arrays.chooses_nothing(x, (mx.array([0]), slice(2, None)))
    assert not arrays.chooses_nothing(x, slice(3, None))
