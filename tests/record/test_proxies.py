"""R2 and R8: a proxy is an array to Python, and describes itself without running anything."""

from __future__ import annotations

import itertools
import operator

import mlx.core as mx
import numpy as np
import pytest

from tests import models


def traced(model, x, fn, compile=False):
    """`fn` of layer 0's output in a block, and of its plain value."""
    with model.trace(x, compile=compile):
        h = model.layers[0].output
        base = h.save()
        result = fn(h).save()
    return result, fn(mx.array(base))


# -- what is known in the block -------------------------------------------------------------------


def test_a_proxy_is_an_array_with_real_shape_and_dtype(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output
        assert isinstance(h, mx.array)
        assert issubclass(type(h), mx.array)
        assert h.shape == (2, 4, 6)
        assert h.dtype == mx.float32
        assert (h.ndim, h.size, len(h), h.itemsize, h.nbytes) == (3, 48, 2, 4, 192)


def test_iterating_and_unpacking_record_parts(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output
        whole = h.save()
        first, second = h
        first, second = first.save(), second.save()
        rows = [row.save() for row in h[0]]
        head, *rest = h[1]
        rest = rest[-1].save()
    assert models.same(first, whole[0]) and models.same(second, whole[1])
    assert all(models.same(row, whole[0, k]) for k, row in enumerate(rows))
    assert models.same(rest, whole[1, 3])


def test_a_scalar_proxy_is_not_iterable_as_in_mlx(chain, x):
    with chain.trace(x):
        with pytest.raises(TypeError):
            iter(chain.layers[0].output.sum())
        with pytest.raises(TypeError):
            len(chain.layers[0].output.sum())


def test_membership_is_not_answered_from_a_placeholder(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output
        first = h[0, 0, 0].item()
        assert first in h[0, 0]
        assert 12345.0 not in h[0, 0]


@pytest.mark.parametrize("show", [repr, str, "{}".format])
def test_describing_a_proxy_runs_nothing(counted, x, show):
    counted.trace(x).__enter__().__exit__(None, None, None)  # the census
    counted.module.reset()
    with counted.trace(x):
        text = show(counted.layers[1].output * 2 + 1)
        assert counted.module.ticks() == [0, 0, 0, 0]
    assert "(2, 4, 6)" in text and "float32" in text and "layers.1" in text


# -- operators ------------------------------------------------------------------------------------

PAIRS = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod,
    operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne,
]  # fmt: skip
OTHERS = {
    "int": 3,
    "float": 0.75,
    "bool": True,
    "array": mx.arange(6, dtype=mx.float32) + 1,
    "half": mx.arange(6, dtype=mx.float16) + 1,
    "int array": mx.arange(6) + 1,
    "numpy": np.arange(6, dtype=np.float32) + 1,
    "numpy scalar": np.float32(2.5),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("op", PAIRS, ids=lambda op: op.__name__)
def test_operators_record_from_either_side(chain, x, op, other):
    value = OTHERS[other]
    plain = mx.array(value) if "numpy" in other else value
    with chain.trace(x, compile=False):
        h = chain.layers[0].output
        base = h.save()
        right, left = op(h, value), op(value, h)
        assert type(right) is type(left) is type(h), "an operator gave something that is no proxy"
        right, left = right.save(), left.save()
    base = mx.array(base)
    assert models.same(right, op(base, plain))
    assert models.same(left, op(plain, base))


KINDS = [
    *itertools.product(
        [mx.float16, mx.bfloat16, mx.int32, mx.bool_, mx.complex64], [2, 0.5, True], [False]
    ),
    (mx.float16, 0.5, True),  # compiled, numbers arrive as arrays
    (mx.int32, 2, True),
]


@pytest.mark.parametrize(("dtype", "number", "compile"), KINDS)
def test_numbers_are_as_weakly_typed_as_mlx_makes_them(chain, x, dtype, number, compile):
    def fn(h):
        h = h.astype(dtype)
        return [h + number, number * h, mx.maximum(h, number), h * number + 1]

    with chain.trace(x, compile=compile):
        h = chain.layers[0].output
        base = h.save()
        results = [r.save() for r in fn(h)]
    for ours, theirs in zip(results, fn(mx.array(base)), strict=True):
        assert ours.dtype == theirs.dtype
        assert models.same(ours, theirs, 1e-3)


def test_matrix_products_record_from_either_side(chain, x):
    weight = mx.arange(12, dtype=mx.float32).reshape(6, 2)
    left = mx.arange(8, dtype=mx.float32).reshape(2, 4)
    result, plain = traced(chain, x, lambda h: h @ weight)
    assert models.same(result, plain, 1e-6)
    result, plain = traced(chain, x, lambda h: left @ h)
    assert models.same(result, plain, 1e-6)
    result, plain = traced(chain, x, lambda h: h @ h.swapaxes(1, 2))
    assert models.same(result, plain, 1e-6)


def test_numpy_matrices_on_the_left_of_a_product_record(chain, x):
    left = np.arange(8, dtype=np.float32).reshape(2, 4)
    with chain.trace(x):
        h = chain.layers[0].output
        base = h.save()
        product = left @ h
        assert type(product) is type(h)
        product = product.save()
    assert models.same(product, mx.array(left) @ mx.array(base), 1e-6)


def test_a_saved_value_on_the_left_records_as_any_array_does(chain, x):
    weight = mx.eye(6) * 3
    with chain.trace(x):
        clean = chain.layers[0].output.save()
        product = chain.layers[1].weight
    with chain.trace(x * 2):
        h = chain.layers[0].output
        base = h.save()
        results = [
            clean - h, clean + h, clean * h, clean / (abs(h) + 1), clean @ h.swapaxes(1, 2),
            clean > h, clean == h, mx.maximum(clean, h), mx.stack([clean, h]), h - clean,
        ]  # fmt: skip
        assert all(type(result) is type(h) for result in results)
        results = [result.save() for result in results]
        h += clean @ weight
        after = h.save()
    clean, base = mx.array(clean), mx.array(base)
    expected = [
        clean - base, clean + base, clean * base, clean / (abs(base) + 1),
        clean @ base.swapaxes(1, 2), clean > base, clean == base, mx.maximum(clean, base),
        mx.stack([clean, base]), base - clean,
    ]  # fmt: skip
    assert all(models.same(a, b, 1e-6) for a, b in zip(results, expected, strict=True))
    assert models.same(after, base + clean @ weight, 1e-5) and product.shape == (6, 6)


def test_the_other_operators_record(chain, x):
    for fn in [
        lambda h: h**2,
        lambda h: h**3,
        lambda h: (abs(h) + 1) ** 0.5,
        lambda h: 2.0**h,
        lambda h: mx.full((6,), 2.0) ** h,
        lambda h: h ** h.astype(mx.int32),
        lambda h: -h,
        lambda h: +h,
        lambda h: abs(h),
        lambda h: ~(h > 0),
        lambda h: (h > 0) & (h < 0.5),
        lambda h: (h > 0) | True,
        lambda h: (h > 0) ^ (h > 0.5),
        lambda h: h.astype(mx.int32) << 2,
        lambda h: h.astype(mx.int32) >> 1,
        lambda h: (h * 9).astype(mx.int32) & 3,
    ]:
        result, plain = traced(chain, x, fn)
        assert models.same(result, plain)


INPLACE = [
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv,
    operator.imod, operator.ipow,
]  # fmt: skip


@pytest.mark.parametrize("op", INPLACE, ids=lambda op: op.__name__)
def test_augmented_assignment_edits_the_site(chain, x, op):
    with chain.trace(x):
        h = chain.layers[0].output
        base = h.save()
        op(h, 2.0)
        after = chain.layers[0].output.save()
    assert models.same(after, op(mx.array(base), 2.0))
    assert not models.same(after, base)


def test_in_place_matrix_product_edits_the_site(chain, x):
    weight = mx.eye(6) * 2
    with chain.trace(x):
        h = chain.layers[0].output
        base = h.save()
        h @= weight
        after = chain.layers[0].output.save()
    assert models.same(after, base @ weight)


def test_in_place_bit_operators_edit_a_computed_value(chain, x):
    with chain.trace(x):
        bits = (chain.layers[0].output * 9).astype(mx.int32)
        base = mx.array(bits).save()
        bits |= 4
        bits &= 6
        bits ^= 1
        bits <<= 1
        result = bits.save()
    base = mx.array(base)
    assert models.same(result, (((base | 4) & 6) ^ 1) << 1)


def test_einops_records(chain, x):
    from einops import einsum, pack, rearrange, reduce

    for fn in [
        lambda h: rearrange(h, "b s (h d) -> b h s d", h=2),
        lambda h: reduce(h, "b s d -> b d", "mean"),
        lambda h: reduce(h, "b (s t) d -> b s d", "max", t=2),
        lambda h: einsum(h, h, "b s d, b t d -> b s t"),
        lambda h: einsum(mx.ones((6, 2)), h, "d e, b s d -> b s e"),
        lambda h: pack([h, h], "b * d")[0],
    ]:
        result, plain = traced(chain, x, fn)
        assert models.same(result, plain, 1e-6)


def test_einops_repeat_records(chain, x):
    """einops 0.8.2 cannot do this to a plain array of MLX, so the comparison is spelt out."""
    from einops import repeat

    with chain.trace(x):
        h = chain.layers[0].output
        base = h.save()
        new = repeat(h, "b s d -> b s d k", k=3).save()
        merged = repeat(h, "b s d -> b (s k) d", k=2).save()
    assert models.same(new, mx.broadcast_to(base[..., None], (2, 4, 6, 3)))
    assert models.same(merged, mx.repeat(base, 2, axis=1))
