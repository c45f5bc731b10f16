"""R5 and R6: program order, values as they are at their line, and causality."""

from __future__ import annotations

import re

import mlx.core as mx
import numpy as np
import pytest

from mlxgraph.errors import (
    MLXGraphError,
    OrderError,
    ShapeError,
    StaleHandleError,
)
from tests import models

FILE = "test_order.py"


def names_line(text: str, number: int) -> bool:
    """Whether a message names this very line of this file."""
    return re.search(rf"{FILE}:{number}\b", text) is not None


def line_where(test) -> int:
    """The one line of this file for which `test` is true."""
    with open(__file__) as page:
        (number,) = [k for k, row in enumerate(page, 1) if test(row)]
    return number


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


def test_what_was_read_earlier_can_be_written_back(chain, x):
    """Assigning a handle that is behind, or a part that was augmented before, is a write."""
    plain = chain.module.layers[0](x)
    with chain.trace(x):
        whole = chain.layers[0].output
        chain.layers[0].output[:, 0] += 1.0
        changed = chain.layers[0].output.save()
        chain.layers[0].output = whole
        restored = chain.layers[0].output.save()
        h = chain.layers[0].output
        part = h[:, 1]
        part += 2.0
        h[:, 1] = 5.0
        h[:, 1] = part
        again = chain.layers[0].output.save()
    assert models.same(changed[:, 0], plain[:, 0] + 1.0) and models.same(restored, plain)
    assert models.same(again[:, 1], plain[:, 1] + 2.0)


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
    text = str(caught.value)
    number = line_where(lambda row: row.strip() == line)
    assert names_line(text, number), f"the replacing line is {number}:\n{text}"
    assert f"layers.1.{port}" in text and "again" in text
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, MLXGraphError)


# -- R6: causality --------------------------------------------------------------------------------


def test_a_write_from_a_later_site_raises_with_both_sites_and_lines(chain, x):
    with chain.trace(x):
        late = chain.layers[2].output  # the later site
        with pytest.raises(OrderError) as caught:
            chain.layers[0].output[:, 0] = (late * 2)[:, 0]  # the write
    text = str(caught.value)
    assert "layers.0.output" in text and "layers.2.output" in text
    for comment in ("# the later site\n", "# the write\n"):
        number = line_where(lambda row, comment=comment: row.endswith(comment))
        assert names_line(text, number), f"line {number} is missing:\n{text}"
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
