"""R13 and the cache: what is compiled, when, how often, and what is never computed."""

from __future__ import annotations

from gc import get_referents
from operator import is_

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import CompileError
from tests import models


def steer(model, x, vector, number, compile="auto"):
    with model.trace(x, compile=compile):
        model.layers[1].output[:, -1] += vector
        model.layers[1].output *= number
        out = model.output.save()
    return out


# -- when -----------------------------------------------------------------------------------------


def test_auto_runs_eagerly_first_and_compiles_the_second_time(chain, x):
    counts = []
    for _ in range(4):
        steer(chain, x, mx.ones((6,)), 2.0)
        counts.append(chain.compilations)
    assert counts == [0, 1, 1, 1]


def test_true_compiles_at_once_and_false_never(chain, x):
    for _ in range(3):
        steer(chain, x, mx.ones((6,)), 2.0, compile=False)
    assert chain.compilations == 0
    for _ in range(3):
        steer(chain, x, mx.ones((6,)), 2.0, compile=True)
    assert chain.compilations == 1
    steer(chain, x, mx.ones((6,)), 2.0, compile="auto")
    assert chain.compilations == 1


def test_a_thousand_traces_that_differ_in_a_vector_and_a_number_compile_once(chain, x):
    numpy = np.random.default_rng(0)
    for turn in range(1000):
        vector = mx.array(numpy.normal(size=6).astype(np.float32))
        number = float(numpy.normal())
        out = steer(chain, x, vector, number)
        if turn % 100 == 0:
            eager = steer(chain, x, vector, number, compile=False)
            assert models.same(out, eager, 1e-5)
    assert chain.compilations == 1


def test_one_compilation_per_input_shape_and_dtype(chain, x):
    kinds = (x, x[:, :2], x[:1], x.astype(mx.float16))
    for _ in range(3):
        for given in kinds:
            out = steer(chain, given, mx.ones((6,)), 1.0)
            assert models.same(out, steer(chain, given, mx.ones((6,)), 1.0, compile=False), 1e-5)
    assert chain.compilations == len(kinds)


def test_what_is_known_of_a_site_is_known_for_one_dtype_of_inputs(chain, x):
    """A chain in half precision gives float32 for float32, and float16 for float16."""
    chain.module.set_dtype(mx.float16)
    for given in (x, x.astype(mx.float16)) * 3:
        with chain.trace(given):
            h = chain.layers[1].output
            known = h.dtype
            h += mx.ones((6,))
            out = chain.output.save()
        assert known == out.dtype == given.dtype
        assert out.value.dtype == given.dtype
    assert chain.compilations == 2


def test_another_structure_compiles_anew(chain, x):
    for layer in (0, 1, 0, 1):
        for _ in range(3):
            with chain.trace(x):
                chain.layers[layer].output += 1.0
                chain.output.save()
    assert chain.compilations == 2


def test_static_arguments_are_part_of_the_structure(chain, x):
    """Positions and axes are baked in, so they must tell passes apart."""
    for _ in range(3):
        for p in range(3):
            with chain.trace(x):
                chain.layers[0].output[:, p] = 0.0
                h = chain.layers[0].output.save()
                m = h.mean(axis=p % 2).save()
            assert bool(mx.all(h[:, p] == 0)) and bool(mx.any(h[:, (p + 1) % 3] != 0))
            assert models.same(m, h.mean(axis=p % 2), 1e-6)


@pytest.mark.parametrize("numbers", [(1, 1.0, True), (0, 0.0, False), (2, 2.0, 2)])
def test_numbers_that_are_equal_in_python_keep_their_kind(chain, x, numbers):
    for _ in range(3):
        results = []
        for number in numbers:
            with chain.trace(x):
                whole = (chain.layers[0].output * 4).astype(mx.int32)
                results.append((whole * number + number).save())
        assert [r.dtype for r in results] == [
            (mx.zeros((1,), dtype=mx.int32) * n + n).dtype for n in numbers
        ]


def test_negative_zero_infinity_and_nan_pass_through(chain, x):
    for number in (-0.0, 0.0, float("inf"), float("nan"), 1e-30):
        for compile in (True, False):
            with chain.trace(x, compile=compile):
                out = (chain.layers[0].output * 0 + 1) * number
                out = mx.copysign(out, out) if hasattr(mx, "copysign") else (1 / out)
                out = out.save()
            expected = (mx.ones((2, 4, 6)) * 0 + 1) * number
            assert models.same(out, 1 / expected)


def test_an_opaque_function_compiles_only_when_forced(chain, x):
    def double(h):
        return h * 2

    for compile, compilations in (("auto", 0), ("auto", 0), ("auto", 0), (True, 1), (True, 1)):
        with chain.trace(x, compile=compile):
            base = chain.layers[0].output.save()
            chain.layers[0].output = mg.apply(double, chain.layers[0].output)
            h = chain.layers[0].output.save()
        assert models.same(h, base * 2, 1e-6)
        assert chain.compilations == compilations


def test_an_opaque_function_that_looks_runs_eagerly_and_refuses_compilation(chain, x):
    def shifted(h):
        return h + float(np.array(h).max())

    def run(compile):
        with chain.trace(x, compile=compile):
            base = chain.layers[0].output.save()
            chain.layers[0].output = mg.apply(shifted, chain.layers[0].output)
            h = chain.layers[0].output.save()
        return base, h

    base, h = run("auto")
    assert models.same(h, base + base.max(), 1e-6)
    with pytest.raises(CompileError) as caught:
        run(True)
    assert "compile=False" in str(caught.value)
    base, h = run("auto")
    assert models.same(h, base + base.max(), 1e-6)


def test_where_compiling_is_switched_off_that_is_the_reason_given(chain, x):
    mx.disable_compile()
    try:
        with pytest.raises(CompileError, match=r"mx.disable_compile\(\) has switched"):
            steer(chain, x, mx.ones((6,)), 1.0, compile=True)
        out = steer(chain, x, mx.ones((6,)), 1.0)
    finally:
        mx.enable_compile()
    assert models.same(out, steer(chain, x, mx.ones((6,)), 1.0), 1e-6)


def test_a_failed_compilation_does_not_spoil_the_next_call(chain, x):
    with pytest.raises(ValueError):
        steer(chain, x[..., :3], mx.ones((6,)), 1.0, compile=True)
    for _ in range(2):
        out = steer(chain, x, mx.ones((6,)), 1.0, compile=True)
    assert models.same(out, steer(chain, x, mx.ones((6,)), 1.0, compile=False), 1e-5)


def test_prepared_runs_are_forgotten_but_never_wrong(chain, x, monkeypatch):
    """More structures than are kept, then the first ones again."""
    from mlxgraph.run import runner
    from mlxgraph.run.prepared import PreparedRun

    assert runner.MOST_PREPARED > 4
    monkeypatch.setattr(runner, "MOST_PREPARED", 4)
    chain, before = mg.InterpretableModel(chain.module), models.alive(PreparedRun)
    for _ in range(2):
        for layer in range(3):
            for p in range(4):
                with chain.trace(x, compile=False):
                    chain.layers[layer].output[:, p] = 1.0
                    out = chain.layers[layer].output.save()
                assert bool(mx.all(out[:, p] == 1.0))
        assert models.alive(PreparedRun) - before == 4


def test_saves_under_compile_come_back_in_their_order(chain, x):
    for compile in (False, True):
        with chain.trace(x, compile=compile) as t:
            late = chain.layers[2].output.save("late")
            early = chain.layers[0].output.save("early")
            number = chain.layers[1].output.sum().save("number")
        assert list(t.saved_values) == ["late", "early", "number"]
        assert models.same(t.saved_values["early"], early, 1e-6)
        assert models.same(early, chain.module.layers[0](x), 1e-6)
        assert number.shape == () and late.shape == (2, 4, 6)


def test_the_same_value_saved_twice_and_an_input_saved(chain, x):
    for compile in (False, True):
        with chain.trace(x, compile=compile):
            a = chain.layers[0].output.save()
            b = chain.layers[0].output.save()
            given = chain.input.save()
            outside = mx.ones((3,)) + 0 * chain.input.sum()
            outside = outside.save()
        assert models.same(a, b) and models.same(given, x)
        a += 1
        assert not models.same(a, b), "two saves must not share one array object"
        given += 1
        assert not models.same(given, x)


# -- what is not needed ---------------------------------------------------------------------------


def test_the_python_of_later_layers_does_not_run(counted, x):
    counted.trace(x).__enter__().__exit__(None, None, None)  # the census
    for k in range(4):
        counted.module.reset()
        with counted.trace(x, compile=False):
            counted.layers[k].output.save()
        assert counted.module.ticks() == [1 if j <= k else 0 for j in range(4)], f"saving layer {k}"


def test_a_layers_input_needs_the_layers_before_it_only(counted, x):
    steps = counted.trace(x)
    steps.__enter__()
    steps.__exit__(None, None, None)
    counted.module.reset()
    with counted.trace(x, compile=False):
        counted.layers[2].input.save()
    assert counted.module.ticks() == [1, 1, 0, 0]


def test_writes_that_no_save_needs_are_not_run(counted, x):
    counted.trace(x).__enter__().__exit__(None, None, None)
    counted.module.reset()
    calls = []

    def noted(h):
        calls.append(1)
        return h

    with counted.trace(x, compile=False):
        counted.layers[0].output.save()
        counted.layers[3].output = mg.apply(noted, counted.layers[3].output)
        calls.clear()
    assert counted.module.ticks() == [1, 0, 0, 0] and not calls


def test_a_block_without_saves_runs_nothing(counted, x):
    counted.trace(x).__enter__().__exit__(None, None, None)
    counted.module.reset()
    with counted.trace(x) as t:
        counted.layers[0].output += 1
    assert counted.module.ticks() == [0, 0, 0, 0]
    edited = mx.tanh(counted.module.layers[0].inner(x) + 1)
    for layer in counted.module.layers[1:]:
        edited = mx.tanh(layer.inner(edited))
    assert models.same(t.output, edited, 1e-6)
    assert not models.same(edited, counted.module(x), 1e-2)


def test_the_python_of_the_model_runs_once_however_many_saves(counted, x):
    counted.trace(x).__enter__().__exit__(None, None, None)
    counted.module.reset()
    with counted.trace(x, compile=False):
        for layer in counted.layers:
            layer.input.save(), layer.output.save(), layer.output.mean().save()
        counted.output.save()
    assert counted.module.ticks() == [1, 1, 1, 1]


def test_compiled_replays_run_no_python_of_the_model(counted, x):
    for _ in range(3):
        with counted.trace(x, compile=True):
            counted.layers[1].output += 1
            counted.output.save()
    counted.module.reset()
    for _ in range(5):
        with counted.trace(x, compile=True):
            counted.layers[1].output += 1
            counted.output.save()
    assert counted.module.ticks() == [0, 0, 0, 0]


def test_saves_are_lazy(chain, x):
    """Nothing is evaluated until somebody looks: an impossible value can be saved unseen."""

    def bad(h):
        return mx.linalg.inv(mx.zeros((2, 2)), stream=mx.cpu) + h.sum()

    with chain.trace(x, compile=False):
        first = chain.layers[0].output.save()
        impossible = mg.apply(bad, chain.layers[1].output).save()
    assert models.same(first, chain.module.layers[0](x), 1e-6)
    with pytest.raises(RuntimeError, match="LU"):  # the control: it is impossible
        mx.eval(impossible)


# -- one census -----------------------------------------------------------------------------------


def test_the_census_is_taken_once_per_kind_of_input(counted, x):
    with counted.trace(x):
        pass
    first = counted.module.ticks()
    for _ in range(3):
        with counted.trace(x + 1):
            pass
    assert counted.module.ticks() == first == [1, 1, 1, 1]
    with counted.trace(x[:, :2]):
        pass
    assert counted.module.ticks() == [2, 2, 2, 2]


def test_the_census_does_not_disturb_randomness_or_state(x):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def __call__(self, x):
            return self.drop(x)

    model = mg.InterpretableModel(Noisy())
    mx.random.seed(3)
    expected = mx.random.normal((3,))
    mx.random.seed(3)
    with model.trace(x):
        pass
    assert models.same(mx.random.normal((3,)), expected)


def test_train_and_eval_mode_are_told_apart(x):
    module = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5))
    mx.eval(module.parameters())
    model = mg.InterpretableModel(module)
    for _ in range(3):
        module.eval()
        with model.trace(x):
            quiet = model.output.save()
        assert models.same(quiet, module(x), 1e-6)
        module.train()
        with model.trace(x):
            noisy = model.output.save()
        assert bool(mx.any(noisy == 0)) and not models.same(noisy, quiet, 1e-6)


def test_train_mode_of_one_module_is_told_apart(x):
    module = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5))
    mx.eval(module.parameters())
    module.eval()
    model = mg.InterpretableModel(module)
    for _ in range(3):
        with model.trace(x):
            quiet = model.output.save()
        assert bool(mx.all(quiet != 0))
    module.layers[1].train()
    with model.trace(x):
        noisy = model.output.save()
    assert bool(mx.any(noisy == 0)), "a pass from before `train()` was replayed"


def test_a_changed_plain_attribute_of_a_module_is_seen(x):
    class Times(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = 2.0
            self.inner = nn.Linear(6, 6)

        def __call__(self, x):
            return self.inner(x) * self.factor

    module = Times()
    mx.eval(module.parameters())
    model = mg.InterpretableModel(module)
    for factor in (2.0, 2.0, 2.0, 5.0, 5.0):
        module.factor = factor
        with model.trace(x):
            out = model.output.save()
        assert models.same(out, module(x), 1e-5), f"factor {factor}"


@pytest.mark.parametrize("shared", [False, True], ids=["one after another", "keys of a class"])
def test_the_collector_tells_a_dict_s_values_and_each_that_changes(shared):
    """What a module's attributes are compared by: each value once, and nothing else."""
    one, other = (nn.Linear(2, 2), nn.Linear(2, 2)) if shared else (nn.ReLU(), nn.Embedding(2, 2))
    for module in (one, other):
        for number in range(40):  # past the keys that instances of a class share
            value = object()
            object.__setattr__(module, f"setting_{number}", value)
            told = get_referents(vars(one), vars(other))
            values = [*vars(one).values(), *vars(other).values()]
            assert len(told) == len(values) and set(map(id, told)) == set(map(id, values))
        before = get_referents(vars(module))
        assert all(map(is_, before, get_referents(vars(module))))
        object.__setattr__(module, "setting_3", object())
        after = get_referents(vars(module))
        assert [a is b for a, b in zip(before, after, strict=True)].count(False) == 1
        object.__delattr__(module, "setting_5")
        assert len(get_referents(vars(module))) == len(before) - 1


def test_zero_and_minus_zero_are_two_inputs(x):
    """They are equal to Python, and a model may tell them apart."""

    class Signed(nn.Module):
        """One for a number with a minus, two for others."""

        def __call__(self, x, number=0.0):
            return x * 0 + (1.0 if str(number).startswith("-") else 2.0)

    model = mg.InterpretableModel(Signed())
    for number in (0.0, -0.0, 0.0, -0.0):
        with model.trace(x, number=number, compile=True):
            out = model.output.save()
        assert models.same(out, model.module(x, number), 0)
