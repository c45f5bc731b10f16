"""Dtypes by name, and what a Python number becomes beside an array."""

from __future__ import annotations

import operator

import mlx.core as mx
import pytest

from mlxgraph.mlx_facts.dtypes import DTYPES, dtype_beside, dtype_named


@pytest.mark.parametrize("name", DTYPES)
def test_a_dtypes_text_ends_in_the_name_that_mlx_has_it_under(name: str) -> None:
    dtype = getattr(mx, name)
    assert type(dtype) is mx.Dtype
    assert str(dtype) == f"mlx.core.{name.removesuffix('_')}"
    assert dtype_named(name) is dtype
    assert dtype_named(str(dtype).rpartition(".")[2]) is dtype


def test_there_are_the_dtypes_that_models_are_made_of() -> None:
    assert {"float32", "float16", "bfloat16", "int32", "uint32", "uint8", "bool_"} <= {*DTYPES}


def test_what_no_dtype_is_called_is_refused() -> None:
    for name in ("array", "floating", "load", "", "float"):
        with pytest.raises(KeyError):
            dtype_named(name)


@pytest.mark.parametrize("number", [True, 2, 2.5])
@pytest.mark.parametrize("partner", sorted({*DTYPES} - {"float64"}))  # no GPU has float64
def test_a_number_beside_an_array_takes_the_dtype_that_mlx_gives_it(number, partner: str) -> None:
    dtype = dtype_named(partner)
    array = mx.zeros((2,), dtype)
    taken = dtype_beside(mx.array(number).dtype, dtype)
    lifted = mx.array(number).astype(taken)
    for function in (operator.add, operator.mul, mx.maximum):
        assert function(array, lifted).dtype == function(array, number).dtype
        assert function(lifted, array).dtype == function(number, array).dtype
