"""R3 to R6: reading, writing, program order, causality."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from einops import rearrange

import mlxgraph as mg
from mlxgraph.errors import (
    BoundsError,
    MLXGraphError,
    OrderError,
    ShapeError,
    StaleHandleError,
)
from tests import models

FILE = "test_writing.py"


def line_of(error) -> str:
    """The message, checked to name a line of this file."""
    text = str(error.value)
    assert f"{FILE}:" in text, text
    return text


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


# -- values from outside --------------------------------------------------------------------------


def test_an_array_from_outside_counts_as_it_is_at_the_line(chain, x):
    v = mx.ones((6,))
    with chain.trace(x):
        chain.layers[0].output = v
        v += 1
        chain.layers[1].output = v
        v[:] = 10.0
        first, second = chain.layers[0].output.save(), chain.layers[1].output.save()
    assert bool(mx.all(first == 1.0)), "a later change of `v` reached back"
    assert bool(mx.all(second == 2.0))


def test_a_numpy_array_from_outside_counts_as_it_is_at_the_line(chain, x):
    v = np.ones((6,), np.float32)
    with chain.trace(x):
        chain.layers[0].output = v
        v += 1
        chain.layers[1].output = v
        v[:] = 10.0
        first, second = chain.layers[0].output.save(), chain.layers[1].output.save()
    assert bool(mx.all(first == 1.0)) and bool(mx.all(second == 2.0))


def test_an_index_array_from_outside_counts_as_it_is_at_the_line(chain, x):
    index = np.array([0, 1])
    with chain.trace(x):
        h = chain.layers[0].output
        base = mx.array(h).save()
        h[:, index] = 7.0
        index += 2
        after = h.save()
    assert bool(mx.all(after[:, :2] == 7.0)) and models.same(after[:, 2:], base[:, 2:])


def test_a_list_from_outside_counts_as_it_is_at_the_line(chain, x):
    rows = [0, 1]
    with chain.trace(x):
        h = chain.layers[0].output
        base = mx.array(h).save()
        h[:, rows] = 7.0
        rows[:] = [2, 3]
        after = h.save()
    assert bool(mx.all(after[:, :2] == 7.0)) and models.same(after[:, 2:], base[:, 2:])


def test_the_inputs_count_as_they_were_when_the_trace_was_made(chain, x):
    given = mx.array(x)
    with chain.trace(given) as t:
        seen = chain.layers[0].input.save()
        given[:] = 0.0
    plain = mx.array(x)
    assert models.same(seen, plain)
    assert models.same(t.output, chain.module(plain), 1e-6)


# -- R5: program order ----------------------------------------------------------------------------


def test_reads_see_the_writes_above_them_and_none_below(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output
        zero = h.save()
        h += 1
        one = chain.layers[0].output.save()
        chain.layers[0].output = 5.0
        two = chain.layers[0].output.save()
        chain.layers[0].output[:, 0] = 6.0
        three = chain.layers[0].output.save()
    assert models.same(one, zero + 1)
    assert bool(mx.all(two == 5.0))
    assert bool(mx.all(three[:, 0] == 6.0)) and bool(mx.all(three[:, 1:] == 5.0))


def test_save_keeps_the_value_of_its_line(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output
        before = h.save()
        again = h.save()
        h *= 0
        after = h.save()
    assert before is not after and again is not before
    assert models.same(before, again) and bool(mx.any(before != 0))
    assert bool(mx.all(after == 0))


def test_a_write_through_a_saved_handle_updates_that_handle_alone(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output
        first = h.save()
        second = h.save()
        second[:, 0] = 3.0
        site = chain.layers[0].output.save()
    assert bool(mx.all(second[:, 0] == 3.0)) and models.same(site, second)
    assert bool(mx.any(first[:, 0] != 3.0)), "the other handle must keep its value"


def test_a_save_of_a_view_is_the_views_value(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output
        whole = h.save()
        view = h[:, 1:3]
        kept = view.save()
        view += 1
        moved = view.save()
        h[:, 2] = 9.0
    assert models.same(kept, whole[:, 1:3])
    assert models.same(moved, whole[:, 1:3] + 1)


def test_two_handles_of_one_site_write_to_one_value(chain, x):
    """Nothing is lost: each write starts from what the site holds."""
    with chain.trace(x):
        a, b = chain.layers[0].output, chain.layers[0].output
        base = mx.array(a).save()
        a[:, 0] = 0.0
        b += 1.0
        view = a[:, 1]
        a[:, 1] = 5.0
        view += 1.0
        after = chain.layers[0].output.save()
    expected = mx.array(base)
    expected[:, 0] = 0.0
    expected += 1.0
    expected[:, 1] = 6.0
    assert models.same(after, expected)


def test_an_older_handle_reads_the_old_value_after_a_replacement(chain, x):
    with chain.trace(x):
        old = chain.layers[0].output
        plain = mx.array(old).save()
        chain.layers[0].output = 1.0
        kept, used = old.save(), (old * 2).save()
        new = chain.layers[0].output.save()
    assert models.same(kept, plain) and models.same(used, plain * 2)
    assert bool(mx.all(new == 1.0))


@pytest.mark.parametrize("write", ["item", "augmented", "view", "saved", "view made after"])
@pytest.mark.parametrize("port", ["output", "input"])
def test_writing_into_a_replaced_handle_raises_and_names_the_line(chain, x, write, port):
    with chain.trace(x):
        old = getattr(chain.layers[1], port)
        view = old[:, 0]
        kept = old.save()
        line = "setattr(chain.layers[1], port, 1.0)"
        setattr(chain.layers[1], port, 1.0)
        with pytest.raises(StaleHandleError) as caught:
            match write:
                case "item":
                    old[0] = 2.0
                case "augmented":
                    old += 2.0
                case "view":
                    view[0] = 2.0
                case "saved":
                    kept[0] = 2.0
                case "view made after":
                    old[:, 1][0] = 2.0
    text = line_of(caught)
    number = next(k for k, row in enumerate(open(__file__), 1) if row.strip() == line)
    assert f"{FILE}:{number}" in text, f"the replacing line is {number}:\n{text}"
    assert "layers.1" in text and "again" in text
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, MLXGraphError)


# -- R6: causality --------------------------------------------------------------------------------


def test_a_write_from_a_later_site_raises_with_both_sites_and_lines(chain, x):
    with chain.trace(x):
        late = chain.layers[2].output  # the later site
        with pytest.raises(OrderError) as caught:
            chain.layers[0].output[:, 0] = (late * 2)[:, 0]  # the write
    text = line_of(caught)
    assert "layers.0" in text and "layers.2" in text
    rows = list(open(__file__))
    for comment in ("# the later site\n", "# the write\n"):
        number = next(k for k, row in enumerate(rows, 1) if row.endswith(comment))
        assert f"{FILE}:{number}" in text, f"line {number} is missing:\n{text}"
    assert "earlier trace" in text
    assert isinstance(caught.value, ValueError)


WRONG_ORDER = {
    "replace": lambda m: setattr(m.layers[0], "output", m.layers[1].output),
    "item": lambda m: m.layers[0].output.__setitem__(0, m.layers[1].input[0]),
    "augmented": lambda m: m.layers[0].output.__iadd__(m.layers[2].output),
    "input": lambda m: setattr(m.layers[0], "input", m.layers[0].output),
    "output to model input": lambda m: setattr(m, "input", m.output),
    "a call": lambda m: setattr(m.layers[0], "output", m.layers[1](m.layers[2].output)),
}


@pytest.mark.parametrize("name", WRONG_ORDER)
def test_every_way_of_writing_from_a_later_site_raises(chain, x, name):
    with chain.trace(x), pytest.raises(OrderError):
        WRONG_ORDER[name](chain)


def test_a_refused_write_leaves_the_recording_as_it_was(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output
        with pytest.raises(OrderError):
            h += chain.layers[1].output
        with pytest.raises(ShapeError):
            h[:, 0] = mx.ones((5,))
        site, handle = chain.layers[0].output.save(), h.save()
        out = chain.output.save()
    with chain.trace(x):
        plain = chain.layers[0].output.save()
    assert models.same(site, plain) and models.same(handle, plain)
    assert models.same(out, chain.module(x), 1e-6)


def test_writes_at_the_source_and_after_it_are_allowed(chain, x):
    with chain.trace(x):
        first = chain.layers[0].output
        first += first.mean()
        chain.layers[1].input = first
        chain.layers[1].output = chain.layers[1].input + chain.layers[0].output
        chain.output += chain.layers[2].output
        out = chain.output.save()
    assert out.shape == (2, 4, 6)


# -- shapes and bounds ----------------------------------------------------------------------------

MISSHAPEN = {
    "operation": lambda m: m.layers[0].output + mx.ones((5,)),
    "reflected": lambda m: mx.ones((5,)) + m.layers[0].output,
    "product": lambda m: m.layers[0].output @ mx.ones((5, 2)),
    "function": lambda m: mx.concatenate([m.layers[0].output, mx.ones((2, 4))]),
    "reshape": lambda m: m.layers[0].output.reshape(7, 7),
    "replace": lambda m: setattr(m.layers[0], "output", mx.ones((2, 4, 5))),
    "replace too big": lambda m: setattr(m.layers[0], "output", mx.ones((3, 2, 4, 6))),
    "item": lambda m: m.layers[0].output.__setitem__((slice(None), -1), mx.ones((5,))),
    "augmented": lambda m: m.layers[0].output.__iadd__(mx.ones((5,))),
    "module": lambda m: m.layers[1](mx.ones((2, 5)) + m.layers[0].output.sum()),
}


@pytest.mark.parametrize("name", MISSHAPEN)
def test_a_shape_that_does_not_fit_raises_at_the_users_line(chain, x, name):
    with chain.trace(x), pytest.raises(MLXGraphError) as caught:
        MISSHAPEN[name](chain)
    text = line_of(caught)
    number = MISSHAPEN[name].__code__.co_firstlineno
    assert f"{FILE}:{number}" in text, f"line {number}:\n{text}"
    assert "5" in text or "7" in text or "3" in text
    assert isinstance(caught.value, ValueError)


def test_a_shape_error_shows_both_shapes(chain, x):
    with chain.trace(x), pytest.raises(ShapeError) as caught:
        chain.layers[0].output[:, -1] = mx.ones((2, 5))
    assert "(2, 6)" in str(caught.value) and "(2, 5)" in str(caught.value)


OUT_OF_BOUNDS = {
    "read": lambda h: h[2],
    "read negative": lambda h: h[-3],
    "read axis 1": lambda h: h[:, 4],
    "read after ellipsis": lambda h: h[..., 6],
    "read new axis": lambda h: h[None, 2],
    "write": lambda h: h.__setitem__((0, 9), 1.0),
    "list": lambda h: h[:, [0, 4]],
    "tuple of lists": lambda h: h[[0, 1], [0, 5]],
    "too many": lambda h: h[0, 0, 0, 0],
    "numpy int": lambda h: h[np.int64(5)],
    "numpy array": lambda h: h[:, np.array([0, -5])],
    "on a view": lambda h: h[:, 1:3][:, 2],
    "at": lambda h: h.at[5].add(1.0),
}


@pytest.mark.parametrize("name", OUT_OF_BOUNDS)
def test_a_static_index_out_of_bounds_raises_at_the_users_line(chain, x, name):
    with chain.trace(x), pytest.raises(IndexError) as caught:
        OUT_OF_BOUNDS[name](chain.layers[0].output)
    text = line_of(caught)
    assert isinstance(caught.value, BoundsError)
    assert "out of bounds" in text and "(2, 4, 6)" in text or "(2, 2, 6)" in text


def test_slices_are_cut_at_the_ends_as_in_python(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output
        assert h[:, 2:99].shape == (2, 2, 6)
        assert h[:, -99:1].shape == (2, 1, 6)
        assert h[:, 5:].shape == (2, 0, 6)
