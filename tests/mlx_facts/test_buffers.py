"""What is believed of where an array's numbers lie."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlxgraph.mlx_facts.buffers import SeenArrays, SeenWeights
from mlxgraph.mlx_facts.probes import says_followed

DTYPES = [mx.float32, mx.bfloat16, mx.float16, mx.int8, mx.uint32, mx.bool_]


def made(dtype=mx.float32, shape=(4, 4)):
    array = (mx.random.uniform(shape=shape) * 9).astype(dtype)
    mx.eval(array)
    return array


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (4, 4), (0, 2)])
def test_arrays_that_nobody_changed(dtype, shape):
    array = made(dtype, shape)
    seen = SeenArrays([array, array * 1])
    assert seen.are([array, seen._held[1]])


def add(array):
    array += 1


def put(array):
    array[0] = 1


def turn(array):
    array[...] = array.T


def many(array):
    for _ in range(5):
        array += 1
        mx.eval(array)


@pytest.mark.parametrize("change", [add, put, turn, many])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.uint32], ids=str)
def test_a_change_in_place_is_seen(change, dtype):
    array, other = made(dtype), made(dtype)
    seen = SeenArrays([array, other])
    change(array)
    assert not seen.are([array, other])


def test_other_arrays_are_others():
    array = made()
    seen = SeenArrays([array])
    assert not seen.are([array.T])
    assert not seen.are([array * 1])
    assert not seen.are([array, array])
    assert not seen.are([array.astype(mx.float16)])
    assert not seen.are([array.reshape(2, 8)])


def test_no_array_gets_the_place_of_one_that_is_held():
    array = made(shape=(64, 64))
    seen = SeenArrays([array])
    for _ in range(20):
        array += 1
        mx.eval(array)
        assert not seen.are([array])


@pytest.mark.parametrize("transform", [mx.grad, mx.compile])
def test_what_a_transformation_follows_raises(transform):
    array, said = made(), []

    def inside(x):
        for ask in (lambda: SeenArrays([x]), lambda: seen.are([x])):
            try:
                ask()
            except ValueError as error:
                said.append(says_followed(error))
        return x.sum()

    seen = SeenArrays([array])
    transform(inside)(array)
    assert said == [True, True]


@pytest.mark.parametrize("change", [add, put, turn, many])
def test_a_change_of_a_weight_in_place_is_seen(change):
    array, other = made(), made()
    seen = SeenWeights([array, other])
    assert seen.are([array, other])
    change(array)
    assert not seen.are([array, other])


def test_nothing_is_held_of_weights_of_which_one_is_gone():
    array, other = made(), made()
    seen = SeenWeights([array, other])
    del other
    assert seen._seen is None
    assert not seen.are([array, array])
