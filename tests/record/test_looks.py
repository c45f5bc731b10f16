"""R8: looking at values inside a block, and ways in that must not give a wrong number."""

from __future__ import annotations

import copy
import pickle

import mlx.core as mx
import numpy as np
import pytest

from tests import models


def test_looks_give_real_values(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output
        kept = h.save()
        total = h.sum()
        seen = {
            "float": float(total),
            "int": int(total),
            "complex": complex(total),
            "item": total.item(),
            "list": h.tolist(),
            "numpy": np.array(h),
            "numpy half": np.array(h, dtype=np.float16),
            "asarray": np.asarray(h),
            "index": [10, 20, 30][mx.argmax(h[0, 0, :3])],
            "text": f"{total:.3f}",
            "above": bool(total > -1e9),
            "below": bool(total < -1e9),
        }
    value = np.array(kept)
    assert seen["float"] == seen["item"] == pytest.approx(float(value.sum()), abs=1e-5)
    assert seen["int"] == int(seen["float"])
    assert seen["complex"] == complex(seen["float"])
    assert seen["list"] == kept.tolist()
    assert np.array_equal(seen["numpy"], value) and np.array_equal(seen["asarray"], value)
    assert seen["numpy half"].dtype == np.float16
    assert seen["index"] == [10, 20, 30][int(value[0, 0, :3].argmax())]
    assert seen["text"] == f"{seen['float']:.3f}"
    assert seen["above"] is True and seen["below"] is False


def test_a_look_decides_what_is_recorded(chain, x):
    for sign in (1.0, -1.0):
        with chain.trace(x * sign):
            h = chain.layers[0].output
            base = h.save()
            if h.sum() > 0:
                h += 1
            else:
                h -= 1
            after = chain.layers[0].output.save()
        assert models.same(after, base + (1 if base.sum().item() > 0 else -1))


def test_looks_see_the_edits_above_them_and_none_below(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output
        before = h[0, 0, 0].item()
        h[0, 0, 0] = 7.0
        after = h[0, 0, 0].item()
        downstream = chain.layers[1].output[0, 0].tolist()
        h[0, 0, 0] = before
        restored = chain.layers[1].output[0, 0].tolist()
    assert before != 7.0 and after == 7.0
    assert downstream != restored
    with chain.trace(x):
        plain = chain.layers[1].output[0, 0].save()
    assert restored == pytest.approx(plain.tolist(), abs=1e-6)


def test_looks_between_two_edits_share_one_forward(counted, x):
    counted.trace(x).__enter__().__exit__(None, None, None)
    counted.module.reset()
    with counted.trace(x):
        h = counted.layers[0].output
        float(h.sum()), h.tolist(), bool(h.max() > 0), float(counted.layers[3].output.sum())
        assert counted.module.ticks()[0] == 1, "several looks ran several forwards"
        h += 1
        float(h.sum())
        assert counted.module.ticks()[0] == 2, "an edit must make later looks run again, once"
        float(h.max())
        assert counted.module.ticks()[0] == 2


def test_truth_of_many_values_is_refused_as_in_mlx(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output
        for look in (lambda: bool(h > 0), lambda: h.item(), lambda: float(h)):
            with pytest.raises(ValueError, match="length-1 arrays"):
                look()
        assert bool(h[0, 0, 0] == h[0, 0, 0])  # the control: of one value it is answered


# -- what would read the placeholder --------------------------------------------------------------


PEEKS = {
    "bytes": bytes,
    "memoryview": memoryview,
    "dlpack": lambda h: np.from_dlpack(h),
    "pickle": pickle.dumps,
    "getstate": lambda h: h.__getstate__(),
}


@pytest.mark.parametrize("peek", PEEKS)
def test_no_way_into_a_proxy_gives_a_wrong_number(chain, x, peek):
    with chain.trace(x):
        h = chain.layers[0].output
        with pytest.raises(RuntimeError, match="was not saved|without a primitive"):
            PEEKS[peek](h)
        kept = h.save()
    assert PEEKS[peek](kept) is not None  # the control: there is such a way into an array


def test_array_of_a_proxy_is_a_copy_that_no_longer_writes_through(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output
        base = h.save()
        for duplicate in (mx.array(h), copy.copy(h), copy.deepcopy(h)):
            duplicate[...] = 0
            duplicate += 1
            assert isinstance(duplicate, mx.array)
        changed = mx.array(h)
        changed += 5
        after, changed = chain.layers[0].output.save(), changed.save()
    assert models.same(after, base)
    assert models.same(changed, base + 5)


def test_array_takes_proxies_in_lists_and_a_dtype(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output
        base = h.save()
        listed = mx.array([h[0], h[1] * 2]).save()
        half = mx.array(h, dtype=mx.float16).save()
        stacked = mx.stack([h[0], h[1]]).save()
    assert models.same(listed, mx.stack([base[0], base[1] * 2]))
    assert models.same(half, base.astype(mx.float16))
    assert models.same(stacked, base)


def test_array_is_still_the_type_while_a_block_is_open(chain, x):
    with chain.trace(x):
        assert isinstance(chain.layers[0].output, mx.array)
        assert isinstance(mx.zeros(3), mx.array)
        assert not isinstance(3, mx.array)
        assert mx.array([1.0, 2.0]).tolist() == [1.0, 2.0]
        assert issubclass(type(mx.zeros(3)), mx.array)

        class Mine(mx.array):
            pass

        assert Mine([1.0]).shape == (1,)
        assert isinstance(mx.zeros(3), (int, mx.array))
        match mx.zeros(3):
            case mx.array():
                matched = True
            case _:
                matched = False
        assert matched
