"""R2: what can be done to an array can be done to a proxy, and means the same."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import mlx.nn.layers.activations as activations
import pytest

import mlxgraph as mg
from tests import models
from tests.record import cases

NATIVE = type(mx.mean)


@pytest.fixture(scope="module")
def model():
    mx.random.seed(5)
    return mg.InterpretableModel(models.Chain())


@pytest.fixture(scope="module")
def here():
    """A float input, shape (2, 4, 6)."""
    return mx.arange(48, dtype=mx.float32).reshape(2, 4, 6) / 24 - 1


def leaves(value) -> list:
    """The arrays of a result, plain values among them as arrays."""
    if isinstance(value, dict):
        value = list(value.values())
    nest = hasattr(value, "save") and not isinstance(value, mx.array)
    if nest or isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def check(model, x, case, tolerance: float = 0.0) -> None:
    with model.trace(x, compile=False):
        h = model.layers[0].output
        plain_h = h.save()
        traced = [v.save() if hasattr(v, "save") else v for v in leaves(case(h))]
        untouched = h.save()
    plain = leaves(case(mx.array(plain_h)))
    assert models.same(plain_h, untouched)
    assert len(traced) == len(plain)
    for ours, theirs in zip(traced, plain, strict=True):
        if not isinstance(theirs, mx.array):
            assert ours == theirs
            continue
        assert models.same(ours, theirs, tolerance), f"{ours}\nshould be\n{theirs}"


def table(entries, skip=()):
    return pytest.mark.parametrize("name", [name for name in entries if name not in skip])


@table(cases.MLX_CORE)
def test_functions_of_mlx_core_record(model, here, name):
    check(model, here, cases.MLX_CORE[name])


@table(cases.MLX_LINALG)
def test_functions_of_linalg_record(model, here, name):
    check(model, here, cases.MLX_LINALG[name], 1e-5)


@table(cases.MLX_FAST, cases.NOT_FAST)
def test_functions_of_fast_record(model, here, name):
    check(model, here, cases.MLX_FAST[name])


@table(cases.MLX_FFT)
def test_functions_of_fft_record(model, here, name):
    check(model, here, cases.MLX_FFT[name])


@table(cases.MLX_RANDOM)
def test_functions_of_random_with_a_key_record(model, here, name):
    check(model, here, cases.MLX_RANDOM[name])


@table(cases.NN_FUNCTIONS)
def test_activation_functions_record(model, here, name):
    check(model, here, cases.NN_FUNCTIONS[name])


@table(cases.NN_LOSSES)
def test_losses_record(model, here, name):
    check(model, here, cases.NN_LOSSES[name])


@table(cases.METHODS)
def test_methods_of_arrays_record(model, here, name):
    check(model, here, cases.METHODS[name])


@pytest.mark.parametrize(
    ("namespace", "known"),
    [
        (mx, {*cases.MLX_CORE, *cases.NOT_OF_ARRAYS, *cases.NOT_ON_CPU}),
        (mx.linalg, {*cases.MLX_LINALG}),
        (mx.fast, {*cases.MLX_FAST, *cases.NOT_FAST}),
        (mx.fft, {*cases.MLX_FFT, *cases.NOT_FFT}),
        (mx.random, {*cases.MLX_RANDOM, *cases.NOT_RANDOM}),
    ],
    ids=["core", "linalg", "fast", "fft", "random"],
)
def test_no_function_of_this_mlx_is_left_out(namespace, known):
    names = {name for name, value in vars(namespace).items() if isinstance(value, NATIVE)}
    assert names <= known, f"untested: {sorted(names - known)}"


def test_no_activation_loss_or_method_is_left_out():
    public = {
        name
        for name, value in vars(activations).items()
        if callable(value) and not isinstance(value, type) and not name.startswith("_")
    }
    assert public == set(cases.NN_FUNCTIONS)
    losses = {
        name
        for name, value in vars(nn.losses).items()
        if callable(value) and getattr(value, "__module__", "") == nn.losses.__name__
    }
    assert {name for name in losses if not name.startswith("_")} == set(cases.NN_LOSSES)
    methods = {name for name in dir(mx.array) if not name.startswith("_")}
    assert methods == {*cases.METHODS, *cases.NOT_RECORDED}


ALL = [cases.MLX_CORE, cases.MLX_LINALG, cases.MLX_FAST, cases.MLX_FFT, cases.MLX_RANDOM,
       cases.NN_FUNCTIONS, cases.NN_LOSSES, cases.METHODS]  # fmt: skip


def test_every_case_depends_on_what_its_input_holds(model, here):
    """The control: a case that gives one answer for every input would agree with any recording."""
    one, other = model.module.layers[0](here), 1.4 * mx.sin(here * 7)
    blind = {
        name
        for table in ALL
        for name, case in table.items()
        if all(map(same, leaves(case(one)), leaves(case(other))))
    }
    assert blind == cases.BLIND


def same(a, b) -> bool:
    return models.same(a, b) if isinstance(a, mx.array) else a == b


def test_the_comparison_notices_a_difference(model, here):
    wrong = iter([lambda h: h + 1, lambda h: h + 2])
    with pytest.raises(AssertionError):
        check(model, here, lambda h: next(wrong)(h))
