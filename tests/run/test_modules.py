"""Any `mlx.nn.Module` can be traced: several inputs, nested values, shared and odd modules."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlxgraph.errors import BoundsError, NeverCalledError, ShapeError
from tests import models
from tests.models import made

# -- inputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("compile", [False, True])
def test_several_inputs_and_keyword_inputs(mixed, x, y, compile):
    gain = mx.full((6,), 2.0)
    with mixed.trace(x, y, gain=gain, compile=compile):
        args, kwargs = mixed.inputs
        assert len(args) == 2 and list(kwargs) == ["gain"]
        mixed.inputs[1]["gain"][0] = 10.0
        args[1][:, 0] = 0.0
        second = mixed.inputs[0][1].save()
        out = mixed.output.save()
    changed, zeroed = mx.array(gain), mx.array(y)
    changed[0] = 10.0
    zeroed[:, 0] = 0.0
    plain = mixed.module(x, zeroed, gain=changed)
    assert models.same(second, zeroed)
    assert models.same(out["main"], plain["main"], 1e-5)
    assert models.same(out["extras"][0], plain["extras"][0], 1e-5)


def test_keyword_inputs_of_inner_modules(mixed, x, y):
    with mixed.trace(x, y):
        args, kwargs = mixed["parts.left"].inputs
        other = kwargs["other"].save()
        kwargs["other"] = mx.zeros((2, 4, 6))
        pair = mixed["parts.left"].output
        second = pair[1].save()
    assert len(args) == 1
    assert models.same(other, y)
    assert models.same(second, mixed.module.parts["left"].proj(mx.zeros((2, 4, 6))))


def test_a_module_called_by_keyword_only_has_an_input(x):
    class Inner(nn.Module):
        def __call__(self, *, value):
            return value * 2

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def __call__(self, x):
            return self.inner(value=x)

    model = made(Outer)
    with model.trace(x):
        model.inner.input += 1
        given = model.inner.input.save()
        out = model.output.save()
    assert models.same(given, x + 1) and models.same(out, (x + 1) * 2)


def test_plain_python_inputs_are_seen(x):
    class Chooser(nn.Module):
        def __call__(self, x, times=1, mode="add", flags=(True, None)):
            return x * times if mode == "times" and flags[0] else x + times

    model = made(Chooser)
    for kwargs in (
        {},
        {"times": 3},
        {"times": 3, "mode": "times"},
        {"times": 2, "mode": "times", "flags": (False, 1)},
    ):
        for compile in (False, True):
            with model.trace(x, compile=compile, **kwargs):
                out = model.output.save()
            assert models.same(out, model.module(x, **kwargs), 1e-6), kwargs


# -- nested values --------------------------------------------------------------------------------


def test_tuple_and_dict_outputs_are_reached_by_index(mixed, x, y):
    with mixed.trace(x, y):
        a, b = mixed["parts.left"].output
        assert len(mixed["parts.left"].output) == 2
        a, b = a.save(), b.save()
        named = mixed["parts.right"].output
        assert set(named) == {"sum", "difference"} and len(named) == 2
        total = named["sum"].save()
        out = mixed.output
        deep = out["extras"][1][0].save()
    left = mixed.module.parts["left"]
    assert models.same(a, left.proj(x)) and models.same(b, left.proj(y))
    assert models.same(total, mixed.module.parts["right"](a)["sum"])
    assert models.same(deep, a)


@pytest.mark.parametrize("compile", [False, True])
def test_parts_of_nested_values_are_written(mixed, x, y, compile):
    with mixed.trace(x, y, compile=compile):
        mixed["parts.left"].output[0] += 1
        mixed["parts.left"].output[1][:, 0] = 0.0
        mixed["parts.right"].output["sum"] = mixed["parts.right"].output["sum"] * 2
        mixed.output["extras"][1][0][...] = 7.0
        mixed.output["main"][:, -1] = 5.0
        out = mixed.output.save()
        given = mixed["parts.right"].input.save()
        first = mixed["nested.0.0"].input.save()
        shared = mixed.shared.input.save()
    left, right = mixed.module.parts["left"], mixed.module.parts["right"]
    assert models.same(given, left.proj(x) + 1, 1e-6)
    assert bool(mx.all(first[:, 0] == 0))
    assert models.same(shared, right(given)["sum"] * 2, 1e-6)
    assert bool(mx.all(out["extras"][1][0] == 7.0)) and bool(mx.all(out["main"][:, -1] == 5.0))


def test_a_nested_value_is_saved_whole(mixed, x, y):
    with mixed.trace(x, y):
        saved = mixed.output.save()
        pair = mixed["parts.left"].output.save()
    plain = mixed.module(x, y)
    value = saved.value
    assert set(value) == {"main", "extras"} and isinstance(value["extras"], list)
    assert isinstance(value["extras"][1], tuple)
    assert models.same(value["main"], plain["main"], 1e-6)
    assert models.same(saved["main"], plain["main"], 1e-6)
    first, second = pair
    assert models.same(first, mixed.module.parts["left"].proj(x), 1e-6)
    mx.eval(value, second)


def test_a_nested_value_is_replaced_whole(mixed, x, y):
    new = (mx.ones((2, 4, 6)), mx.zeros((2, 4, 6)))
    with mixed.trace(x, y):
        mixed["parts.left"].output = new
        pair = mixed["parts.left"].output.save()
        given = mixed["parts.right"].input.save()
    assert models.same(pair[0], new[0]) and models.same(pair[1], new[1])
    assert models.same(given, new[0])
    with mixed.trace(x, y):
        a, b = mixed["parts.left"].output
        mixed["parts.left"].output = (b, a)
        given = mixed["parts.right"].input.save()
    assert models.same(given, mixed.module.parts["left"].proj(y))


def test_a_nested_value_of_another_form_is_refused(mixed, x, y):
    with mixed.trace(x, y):
        for wrong in (mx.ones((2, 4, 6)), (mx.ones((2, 4, 6)),), 3.0):
            with pytest.raises(ShapeError) as caught:
                mixed["parts.left"].output = wrong
            assert "test_modules.py" in str(caught.value)
        with pytest.raises(ShapeError):
            mixed["parts.left"].output[0] = mx.ones((5,))
        with pytest.raises(BoundsError):
            mixed["parts.left"].output[2].save()
        with pytest.raises(KeyError) as caught:
            mixed["parts.right"].output["product"].save()
        assert "sum" in str(caught.value)


# -- the tree -------------------------------------------------------------------------------------


def test_modules_in_dicts_and_nested_lists_have_paths(mixed, x, y):
    names = [name for name, _ in mixed.named_modules()]
    assert {"parts.left.proj", "parts.right", "nested.0.1", "nested.1.0", "shared"} <= set(names)
    with mixed.trace(x, y):
        by_attribute = mixed.nested[0][1].output.save()
        by_name = mixed["nested.0.1"].output.save()
        in_dict = mixed.parts["left"].proj.output.save()
        as_attribute = mixed.parts.left.proj.output.save()
    assert models.same(by_attribute, by_name)
    assert models.same(in_dict, as_attribute)


def test_a_shared_module_is_one_module_with_two_names(mixed, x, y):
    with mixed.trace(x, y):
        assert len(mixed.shared.calls) == 2
        first = mixed.shared.calls[0].output.save()
        second = mixed.also_shared.calls[1].output.save()
        bare = mixed.also_shared.output.save()
        mixed.also_shared.calls[1].output += 1
        again = mixed.shared.calls[1].output.save()
    assert models.same(second, first * 1.5) and models.same(bare, second)
    assert models.same(again, second + 1)


@pytest.mark.parametrize("compile", [False, True])
def test_each_call_of_a_module_is_a_site(compile, x):
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.step = nn.Linear(6, 6)

        def __call__(self, x):
            for _ in range(4):
                x = mx.tanh(self.step(x))
            return x

    model = made(Loop)
    with model.trace(x, compile=compile):
        calls = model.step.calls
        assert len(calls) == 4
        calls[1].output += 1.0
        inputs = [call.input.save() for call in calls]
        last = calls[-1].output.save()
        first = model.step.output.save()
        with pytest.raises(BoundsError):
            calls[4].output.save()
    assert models.same(first, model.module.step(x), 1e-6)
    assert models.same(inputs[2], mx.tanh(model.module.step(inputs[1]) + 1.0), 1e-5)
    assert models.same(last, model.module.step(inputs[3]), 1e-5)


def test_rotary_modules_are_called_twice_per_attention(tied, tokens):
    with tied.trace(tokens):
        rope = tied.layers[0].attn.rope
        assert len(rope.calls) == 2
        q, k = rope.calls[0].output.save(), rope.calls[1].output.save()
    assert q.shape == (2, 4, 6, 8) and k.shape == (2, 2, 6, 8)


def test_a_module_that_the_forward_does_not_call_is_an_error(mixed, tied, tokens, x, y):
    with mixed.trace(x, y):
        for use in (
            lambda: mixed.unused.output,
            lambda: setattr(mixed.unused, "output", 1.0),
            lambda: mixed.unused.input,
        ):
            with pytest.raises(NeverCalledError) as caught:
                use()
            assert "unused" in str(caught.value) and "test_modules.py" in str(caught.value)
            assert isinstance(caught.value, ValueError)


def test_a_call_that_depends_on_the_inputs(x, y):
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.always, self.sometimes = models.Scale(6, 2.0), models.Scale(6, 3.0)

        def __call__(self, x, extra=None):
            x = self.always(x)
            return x if extra is None else x + self.sometimes(extra)

    model = made(Optional)
    with model.trace(x, extra=y):
        value = model.sometimes.output.save()
    assert models.same(value, y * 3)
    with model.trace(x), pytest.raises(NeverCalledError):
        model.sometimes.output.save()


def test_dispatch_on_the_type_of_a_child_sees_the_users_types(x):
    model = made(models.Dispatching)
    for compile in (False, True):
        with model.trace(x, compile=compile):
            for k in range(3):
                model.steps[k].output += 0.0
            model.steps[0].input *= 1.0
            out = model.output.save()
        assert models.same(out, model.module(x), 1e-5)
    with model.trace(x):
        model.steps[0].output += 1.0
        moved = model.output.save()
    assert not models.same(moved, model.module(x), 1e-3)
