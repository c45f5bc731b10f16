"""R3 and R4: reading and writing sites, in whole, in part, and through views."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from einops import rearrange

import mlxgraph as mg
from mlxgraph.errors import OperationError
from tests import models

# -- R3: reading ----------------------------------------------------------------------------------


def test_output_input_and_inputs_are_what_the_module_had(chain, x):
    with chain.trace(x):
        out = chain.layers[1].output.save()
        given = chain.layers[1].input.save()
        args, kwargs = chain.layers[1].inputs
        same_given = args[0].save()
        assert len(args) == 1 and len(kwargs) == 0
        before = chain.layers[0].output.save()
    assert models.same(out, chain.module.layers[1](given))
    assert models.same(same_given, given)
    assert models.same(given, x + mx.tanh(before))


def test_the_models_own_output_and_input_are_sites(chain, x):
    with chain.trace(x):
        given = chain.input.save()
        out = chain.output.save()
        args, kwargs = chain.inputs
        assert len(args) == 1 and not len(kwargs)
    assert models.same(given, x)
    assert models.same(out, chain.module(x), 1e-6)


def test_sites_may_be_read_in_any_order(chain, x):
    values = {}
    for order in ([0, 1, 2], [2, 0, 1], [2, 1, 0]):
        with chain.trace(x, compile=False):
            read = {k: chain.layers[k].output.save() for k in order}
        values[tuple(order)] = [read[k] for k in range(3)]
    for others in values.values():
        assert all(models.same(a, b) for a, b in zip(values[0, 1, 2], others, strict=True))


def test_a_later_site_may_be_read_before_an_earlier_one_is_written(chain, x):
    with chain.trace(x, compile=False):
        late = chain.layers[2].output.save()
        chain.layers[0].output = 0.0
        again = chain.layers[2].output.save()
    with chain.trace(x, compile=False):
        chain.layers[0].output = 0.0
        edited = chain.layers[2].output.save()
    assert models.same(late, again), "one forward has one value at a site"
    assert models.same(late, edited)


# -- R4: writing ----------------------------------------------------------------------------------


def test_assignment_replaces_the_value(chain, x):
    new = mx.arange(48, dtype=mx.float32).reshape(2, 4, 6)
    with chain.trace(x):
        chain.layers[0].output = new
        seen = chain.layers[1].input.save()
    assert models.same(seen, x + mx.tanh(new), 1e-6)


@pytest.mark.parametrize("value", [0, 2.5, True, np.ones((4, 6), np.float32), mx.ones((6,))])
def test_numbers_numpy_and_broadcasts_can_be_written(chain, x, value):
    with chain.trace(x):
        chain.layers[0].output = value
        whole = chain.layers[0].output.save()
        chain.layers[1].output[:, 1:3] = value if np.ndim(value) < 2 else value[:2]
        part = chain.layers[1].output.save()
    plain = mx.array(value).astype(mx.float32)
    assert models.same(whole, mx.broadcast_to(plain, (2, 4, 6)))
    assert bool(mx.all(part[:, 1:3] == (plain if plain.ndim < 2 else plain[:2])))
    assert bool(mx.any(part[:, 0] != part[:, 1]))


def test_a_write_keeps_the_sites_dtype(x, tokens):
    module = models.make_llama(True)
    module.set_dtype(mx.bfloat16)
    model = mg.InterpretableModel(module)
    with model.trace(tokens):
        h = model.layers[0].output
        assert h.dtype == mx.bfloat16
        h[:, -1] += mx.ones((models.WIDTH,), dtype=mx.float32)
        model.layers[1].output = mx.ones((models.WIDTH,), dtype=mx.float32)
        model.layers[2].output[:, 0] = np.float32(1.5)
        saved = [model.layers[k].output.save() for k in range(3)]
        out = model.output.save()
    assert all(value.dtype == mx.bfloat16 for value in [*saved, out])


def test_a_site_does_not_take_the_real_part_of_complex_numbers_silently(chain, x):
    for odd in (lambda h: mx.fft.fft(h), lambda h: 1j):
        with pytest.raises(OperationError, match=r"mx\.real\(value\)"):
            with chain.trace(x):
                chain.layers[0].output = odd(chain.layers[0].output)
    with chain.trace(x):  # positive control: the real part, where that is said
        before = chain.layers[0].output.save()
        chain.layers[0].output = mx.fft.fft(chain.layers[0].output).real
        after = chain.layers[0].output.save()
    assert models.same(after, mx.fft.fft(before).real, 1e-5)
    assert not models.same(after, before)


def test_augmented_assignment_on_the_attribute_itself(chain, x):
    with chain.trace(x):
        base = mx.array(chain.layers[0].output).save()
        chain.layers[0].output += 1
        chain.layers[0].output *= 2
        chain.layers[0].output[:, -1] -= 3
        after = chain.layers[0].output.save()
        chain.layers[1].input += 1
        chain.layers[1].input[:, 0] *= 0
        given = chain.layers[1].input.save()
        out = chain.layers[1].output.save()
    expected = (base + 1) * 2
    expected[:, -1] -= 3
    assert models.same(after, expected)
    assert bool(mx.all(given[:, 0] == 0))
    assert models.same(out, chain.module.layers[1](given))


def test_inputs_can_be_replaced_in_whole_and_in_part(chain, x):
    with chain.trace(x):
        chain.layers[1].input = mx.zeros((2, 4, 6))
        first = chain.layers[1].output.save()
        chain.layers[2].inputs[0][0][:, 1] = 3.0
        given = chain.layers[2].input.save()
        second = chain.layers[2].output.save()
    assert models.same(first, chain.module.layers[1](mx.zeros((2, 4, 6))))
    assert bool(mx.all(given[:, 1] == 3))
    assert models.same(second, chain.module.layers[2](given))


def test_the_models_output_and_input_can_be_written(chain, x):
    with chain.trace(x) as t:
        chain.input[:, 0] = 0.0
        chain.output[:, -1] = 5.0
        chain.output += 1
        first = chain.layers[0].input.save()
    assert bool(mx.all(first[:, 0] == 0))
    assert bool(mx.all(t.output[:, -1] == 6))


VIEWS = {
    "index": lambda h: h[0],
    "negative index": lambda h: h[:, -1],
    "slice": lambda h: h[:, 1:3],
    "steps": lambda h: h[:, ::2, 1::2],
    "reversed": lambda h: h[:, ::-1],
    "ellipsis": lambda h: h[..., 2:4],
    "new axis": lambda h: h[:, None],
    "list": lambda h: h[:, [0, 2]],
    "array": lambda h: h[:, mx.array([0, 2])],
    "numpy": lambda h: h[:, np.array([1, 3])],
    "reshape": lambda h: h.reshape(8, 6)[3],
    "function reshape": lambda h: mx.reshape(h, (2, 24))[:, 3:9],
    "flatten": lambda h: h.flatten()[5:12],
    "flatten some": lambda h: mx.flatten(h, 1, 2)[:, 4],
    "unflatten": lambda h: mx.unflatten(h, -1, (2, 3))[..., 1, :],
    "transpose": lambda h: h.transpose(2, 0, 1)[1],
    "transpose all": lambda h: h.transpose()[2],
    "transpose function": lambda h: mx.transpose(h, [1, 2, 0])[0],
    "permute_dims": lambda h: mx.permute_dims(h, (1, 0, 2))[0],
    "T": lambda h: h.T[3],
    "mT": lambda h: h.mT[:, 2],
    "matrix_transpose": lambda h: mx.matrix_transpose(h)[:, 2],
    "swapaxes": lambda h: h.swapaxes(0, 1)[2],
    "moveaxis": lambda h: mx.moveaxis(h, -1, 0)[1],
    "squeeze": lambda h: h[:1].squeeze(0)[1],
    "squeeze all": lambda h: h[:, 1:2].squeeze(),
    "expand_dims": lambda h: mx.expand_dims(h, 1)[:, 0, 2],
    "split": lambda h: mx.split(h, 3, axis=-1)[1],
    "split method": lambda h: h.split(2)[1],
    "split at": lambda h: mx.split(h, [1, 3], axis=1)[2],
    "rearrange": lambda h: rearrange(h, "b s (h d) -> b h s d", h=2)[:, 1],
    "rearrange merged": lambda h: rearrange(h, "b s d -> (b s) d")[5:],
    "iteration": lambda h: list(h)[1],
    "chain": lambda h: h[:, 1:].swapaxes(0, 1).reshape(3, 2, 2, 3)[1][..., 0, :],
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_write_through(chain, x, name):
    """Against numpy's positions: the same view of an array of flat positions says what changes."""
    where = mx.arange(48).reshape(2, 4, 6)
    positions = np.array(VIEWS[name](where if name != "numpy" else np.array(where))).reshape(-1)
    with chain.trace(x):
        h = chain.layers[0].output
        base = mx.array(h).save()
        view = VIEWS[name](h)
        view[...] = 100.0
        view += 1.0
        shown = view.save()
        after = chain.layers[0].output.save()
        held = h.save()
    assert models.same(base, chain.module.layers[0](x)), "a value from before is as it was"
    expected = np.array(base).reshape(-1)
    expected[positions] = 101.0
    assert models.same(after, mx.array(expected.reshape(2, 4, 6)))
    assert models.same(held, after), "the handle that the view came from sees the write"
    assert bool(mx.all(shown == 101.0))


@pytest.mark.parametrize("name", ["index", "rearrange", "chain", "split at", "flatten", "array"])
def test_augmented_writes_through_an_indexed_view_happen_once(chain, x, name):
    positions = np.array(VIEWS[name](mx.arange(48).reshape(2, 4, 6))).reshape(-1)
    with chain.trace(x):
        h = chain.layers[0].output
        base = mx.array(h).save()
        view = VIEWS[name](h)
        view[0] += 10.0
        after = chain.layers[0].output.save()
    expected = np.array(base).reshape(-1)
    first = np.array(VIEWS[name](mx.arange(48).reshape(2, 4, 6)))[0].reshape(-1)
    expected[first] += 10.0
    assert set(first) <= set(positions)
    assert models.same(after, mx.array(expected.reshape(2, 4, 6)))


def test_the_documents_head_edit(llama, tokens):
    """rearrange(q.output, ...)[:, 2] = 0 edits head 2 and nothing else."""
    with llama.trace(tokens):
        q = llama.layers[1].attn.q_proj
        base = mx.array(q.output).save()
        rearrange(q.output, "b s (h d) -> b h s d", h=models.HEADS)[:, 2] = 0
        after = q.output.save()
    width = models.WIDTH // models.HEADS
    expected = mx.array(base)
    expected[..., 2 * width : 3 * width] = 0
    assert models.same(after, expected)


def test_a_boolean_mask_selects_what_is_written(chain, x):
    mask = mx.arange(24).reshape(4, 6) % 3 == 0
    with chain.trace(x):
        h = chain.layers[0].output
        base = mx.array(h).save()
        h[:] = mx.where(h > 0, h, 0.0)
        positive = mx.array(h).save()
        chain.layers[1].output[0][mask] = 9.0
        second = chain.layers[1].output.save()
    assert models.same(positive, mx.maximum(base, 0.0))
    assert bool(mx.all(mx.where(mask, second[0] == 9.0, second[0] != 9.0)))


def test_an_index_that_is_computed_in_the_block(chain, x):
    with chain.trace(x, compile=False):
        h = chain.layers[0].output
        base = mx.array(h).save()
        best = mx.argmax(h[0, 0])
        h[0, 0, best] = -50.0
        picked = h[0, 1, mx.argsort(h[0, 1])].save()
        after = h.save()
    k = int(mx.argmax(base[0, 0]).item())
    expected = mx.array(base)
    expected[0, 0, k] = -50.0
    assert models.same(after, expected)
    assert models.same(picked, mx.sort(base[0, 1]))


def test_writing_into_a_computed_value_changes_that_value_alone(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output
        base = h.save()
        double = h * 2
        double[:, 0] = 0.0
        double += 1
        view = double.reshape(8, 6)
        view[1] = 5.0
        site, double = chain.layers[0].output.save(), double.save()
    expected = base * 2
    expected[:, 0] = 0.0
    expected += 1
    expected[0, 1] = 5.0
    assert models.same(double, expected)
    assert models.same(site, base)


def test_a_write_and_a_plain_value_of_the_same_name_stay_apart(chain, x):
    """`h = h + 1` makes a new value; `h += 1` edits the site."""
    with chain.trace(x):
        h = chain.layers[0].output
        base = mx.array(h).save()
        h = h + 1
        h[0] = 0.0
        site = chain.layers[0].output.save()
    assert models.same(site, base)
