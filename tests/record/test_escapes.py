"""R2's last word: what slips past the recording raises, says what to write, and never gives a
wrong number.  And `mg.apply`, which is what to write."""

from __future__ import annotations

import functools

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.core import softmax as imported_softmax
from mlx.nn import gelu as imported_gelu

import mlxgraph as mg
from mlxgraph.errors import EscapedError, MLXGraphError
from tests import models

compiled = mx.compile(lambda h: mx.exp(h) + 1)
custom = mx.custom_function(lambda h: mx.exp(h))
kept = functools.partial(mx.clip, a_min=0.0, a_max=1.0)

ESCAPES = {
    "imported by name": imported_softmax,
    "activation imported by name": imported_gelu,
    "under mx.compile": compiled,
    "in a partial": kept,
    "under vmap made before": mx.vmap(imported_softmax),
}
USES = {
    "written": lambda m, v: setattr(m.layers[0], "output", v),
    "added": lambda m, v: m.layers[0].output.__iadd__(v),
    "indexed in": lambda m, v: m.layers[0].output.__setitem__(0, v[0]),
    "in arithmetic": lambda m, v: (m.layers[0].output * v).save(),
    "saved": lambda m, v: v.save(),
    "looked at": lambda m, v: float((v + m.layers[0].output).sum()),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("escape", ESCAPES)
def test_what_escapes_the_recording_raises_and_says_what_to_write(chain, x, escape, use):
    with pytest.raises(EscapedError) as caught, chain.trace(x):
        h = chain.layers[0].output
        USES[use](chain, ESCAPES[escape](h))
        chain.output.save()
    text = str(caught.value)
    assert "test_escapes.py" in text and "mg.apply(" in text and "mx.softmax(h)" in text
    assert isinstance(caught.value, TypeError) and isinstance(caught.value, MLXGraphError)


LOOKS = {
    "float": lambda v: float(v.sum()),
    "array": np.array,
    "list": lambda v: v.tolist(),
    "eval": mx.eval,
    "bool": lambda v: bool(v.sum() > 0),
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("escape", ESCAPES)
def test_looking_at_what_escaped_never_gives_a_number(chain, x, escape, look):
    with chain.trace(x):
        escaped = ESCAPES[escape](chain.layers[0].output)
        with pytest.raises(RuntimeError, match="without a primitive"):
            LOOKS[look](escaped)


def test_what_escaped_and_left_the_block_cannot_be_evaluated(chain, x):
    with chain.trace(x):
        escaped = imported_softmax(chain.layers[0].output)
        chain.output.save()
    with pytest.raises(RuntimeError, match="without a primitive"):
        mx.eval(escaped)
    with pytest.raises(EscapedError), chain.trace(x):
        chain.layers[0].output = escaped
        chain.output.save()


def test_the_recommended_ways_work(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output
        base = h.save()
        a = mx.softmax(h).save()
        b = mg.apply(imported_softmax, h).save()
        c = mg.apply(compiled, h).save()
        d = nn.gelu(h).save()
        e = custom(h).save()
    assert models.same(a, mx.softmax(base), 1e-6) and models.same(b, a, 1e-6)
    assert models.same(c, mx.exp(base) + 1, 1e-5)
    assert models.same(d, imported_gelu(base), 1e-5) and models.same(e, mx.exp(base), 1e-6)


def test_functions_defined_outside_that_use_mx_record(chain, x):
    def normalise(h):
        return (h - mx.mean(h, axis=-1, keepdims=True)) / mx.std(h, axis=-1, keepdims=True)

    with chain.trace(x):
        base = chain.layers[0].output.save()
        result = normalise(chain.layers[0].output).save()
    assert models.same(result, normalise(mx.array(base)), 1e-5)


def test_a_method_that_arrays_do_not_have_is_a_plain_attribute_error(chain, x):
    with pytest.raises(AttributeError) as caught, chain.trace(x):
        chain.layers[0].output.soumm()
    assert not isinstance(caught.value, EscapedError) and "soumm" in str(caught.value)


# -- mg.apply -------------------------------------------------------------------------------------


def python(a, b=1.0, *, c=0.0):
    """A function that no recording could see into."""
    return mx.array(np.array(a) * b + c)


def test_apply_runs_any_python_function_on_values(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output
        base = h.save()
        result = mg.apply(python, h, 2.0, c=1.0).save()
        h[...] = mg.apply(python, h, b=-1.0)
        after = h.save()
    assert models.same(result, base * 2 + 1, 1e-6) and models.same(after, -base, 1e-6)


def test_apply_takes_and_gives_nested_values(chain, x):
    def fn(pair, named):
        return {"sum": pair[0] + pair[1], "both": [named["k"], pair]}

    with chain.trace(x):
        a, b = chain.layers[0].output, chain.layers[1].output
        result = mg.apply(fn, (a, b), {"k": a * 2})
        total, double, first = result["sum"].save(), result["both"][0].save(), result["both"][1][0]
        first, a, b = first.save(), a.save(), b.save()
    assert models.same(total, a + b) and models.same(double, a * 2) and models.same(first, a)


def test_apply_of_no_proxy_simply_calls(chain):
    assert mg.apply(lambda a, b: a + b, 1, b=2) == 3
    assert models.same(mg.apply(mx.exp, mx.ones((2,))), mx.exp(mx.ones((2,))))


def test_a_function_given_to_apply_cannot_change_the_run_in_place(chain, x):
    def spoil(h):
        h += 100
        return h

    for compile in (False, True):
        with chain.trace(x, compile=compile):
            h = chain.layers[0].output
            before = h.save()
            spoilt = mg.apply(spoil, h).save()
            after = chain.layers[0].output.save()
            given = chain.layers[1].input.save()
        assert models.same(after, before) and models.same(spoilt, before + 100, 1e-6)
        assert models.same(given, x + mx.tanh(before), 1e-6)


def test_an_error_inside_apply_reaches_the_user(chain, x):
    def fail(h):
        raise ZeroDivisionError("in the function")

    with pytest.raises(ZeroDivisionError, match="in the function"), chain.trace(x):
        chain.layers[0].output = mg.apply(fail, chain.layers[0].output)
        chain.output.save()


def test_mx_functions_inside_apply_compute(chain, x):
    """Recording is over when the function runs, also for a look in an open block."""
    seen = []

    def fn(h):
        seen.append(type(mx.exp(h) + mx.random.normal(h.shape)))
        return mx.exp(h)

    with chain.trace(x):
        base = chain.layers[0].output.save()
        result = mg.apply(fn, chain.layers[0].output)
        total = float(result.sum())
        result = result.save()
    assert total == pytest.approx(float(mx.exp(base).sum()), rel=1e-5)
    assert models.same(result, mx.exp(base), 1e-6)
    assert set(seen) == {mx.array}


def test_custom_gradients_inside_apply_are_kept(chain, x):
    @mx.custom_function
    def straight(h):
        return mx.round(h)

    @straight.vjp
    def straight_vjp(primals, cotangent, output):
        return cotangent

    def loss(v):
        with chain.trace(x, compile=False):
            out = mg.apply(straight, chain.layers[0].output * 0 + v).save()
        return out.sum()

    assert models.same(mx.grad(loss)(mx.ones((6,)) * 0.3), mx.full((6,), 8.0))


TRANSFORMED = {
    "grad": lambda f, v: mx.grad(f)(v),
    "value_and_grad": lambda f, v: mx.value_and_grad(f)(v)[1],
    "vjp": lambda f, v: mx.vjp(f, [v], [mx.array(1.0)])[1][0],
    "jvp": lambda f, v: mx.jvp(f, [v], [v])[1][0],
    "vmap": lambda f, v: mx.vmap(f)(mx.stack([v, v])),
    "compile": lambda f, v: mx.compile(f)(v),
    "checkpoint": lambda f, v: mx.checkpoint(f)(v),
}


def product(v, h):
    return (v * v * h).sum()


@pytest.mark.parametrize("name", TRANSFORMED)
def test_a_transformation_of_a_proxy_opened_in_a_block_gives_the_right_number(chain, x, name):
    with chain.trace(x):
        kept = mx.array(chain.layers[0].output[0, 0]).save()
    h = mx.array(kept)
    same_h = h + 0  # plain mx.compile refuses to close over what is its argument, too
    mx.eval(h, same_h)
    expected = TRANSFORMED[name](lambda v: product(v, h), same_h)
    mx.eval(expected)
    with chain.trace(x):
        proxy = chain.layers[0].output[0, 0]
        result = TRANSFORMED[name](lambda v: product(v, h), proxy).save()
        chain.output.save()
    assert models.same(result, expected, 1e-5), f"{result} should be {expected}"


@pytest.mark.parametrize("name", TRANSFORMED)
def test_a_transformation_of_a_function_that_closes_over_a_proxy_is_refused(chain, x, name):
    with pytest.raises(EscapedError, match="test_escapes.py"), chain.trace(x):
        proxy = chain.layers[0].output[0, 0]
        TRANSFORMED[name](lambda v: product(v, proxy), mx.ones((6,)))
        chain.output.save()
