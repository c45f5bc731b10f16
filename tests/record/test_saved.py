"""R7: after the block a saved value is an array, and an unsaved one says so."""

from __future__ import annotations

import copy
import pickle

import mlx.core as mx
import numpy as np
import pytest

from mlxgraph.errors import MLXGraphError, NotSavedError
from tests import models


def test_a_saved_proxy_is_an_array_after_the_block(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output.save()
        inside = h
    assert inside is h
    assert isinstance(h, mx.array)
    mx.eval(h)
    assert h.value is h and h.save() is h
    assert np.array(h).shape == (2, 4, 6)
    assert models.same(mx.softmax(h, axis=-1) + h @ mx.eye(6), mx.softmax(+h, axis=-1) + h, 1e-6)
    assert type(mx.exp(h)) is mx.array and type(h + 1) is mx.array and type(h[0]) is mx.array
    assert models.same(pickle.loads(pickle.dumps(h)), mx.array(h))
    assert type(pickle.loads(pickle.dumps(h))) is mx.array
    assert models.same(copy.deepcopy(h), h) and models.same(copy.copy(h), h)
    assert repr(h).startswith("array(") and str(h) == str(mx.array(h))
    assert float(h.sum()) == pytest.approx(float(mx.array(h).sum()))
    assert [row.shape for row in h] == [(4, 6), (4, 6)]
    h[0] = 0
    h += 1
    assert h[0, 0, 0].item() == 1.0


def test_a_handle_that_is_saved_in_passing_is_an_array_too(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output
        h.save()
        moved = chain.layers[1].output
        moved.save("before")
        moved += 1.0
    assert models.same(h, chain.module.layers[0](x)) and type(h + 1) is mx.array
    with pytest.raises(NotSavedError):  # the control: what it is now was not saved
        moved + 1


def test_mx_functions_and_gradients_take_saved_values(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output.save()
    gradient = mx.grad(lambda v: (v * v).sum())(h)
    assert models.same(gradient, 2 * h, 1e-6)
    assert models.same(mx.vmap(lambda v: v.sum())(h), h.sum((1, 2)), 1e-5)
    assert models.same(mx.compile(lambda v: v + 1)(h), h + 1)


def test_saves_go_into_the_next_trace(chain, x):
    with chain.trace(x):
        clean = chain.layers[0].output.save()
    with chain.trace(x * 0):
        chain.layers[0].output = clean
        out = chain.layers[0].output.save()
    assert models.same(out, clean)


def test_saves_can_be_kept_in_any_python_structure(chain, x):
    with chain.trace(x):
        kept = {k: layer.output[:, -1].save() for k, layer in enumerate(chain.layers)}
        listed = [layer.output.mean().save() for layer in chain.layers]
    assert [kept[k].shape for k in range(3)] == [(2, 6)] * 3
    assert all(isinstance(value.item(), float) for value in listed)


USES = {
    "arithmetic": lambda h: h + 1,
    "reflected": lambda h: 1 + h,
    "array on the left": lambda h: mx.ones((6,)) * h,
    "method": lambda h: h.sum(),
    "index": lambda h: h[0],
    "write": lambda h: h.__setitem__(0, 1.0),
    "numpy": np.array,
    "list": lambda h: h.tolist(),
    "item": lambda h: h.item(),
    "float": float,
    "bool": bool,
    "save": lambda h: h.save(),
    "value": lambda h: h.value,
    "iteration": list,
    "pickle": pickle.dumps,
}


def unsaved(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output * 2
        chain.layers[1].output.save()
    return h


@pytest.mark.parametrize("use", USES)
def test_an_unsaved_proxy_says_so_after_the_block(chain, x, use):
    h = unsaved(chain, x)
    with pytest.raises(NotSavedError) as caught:
        USES[use](h)
    assert "test_saved.py" in str(caught.value) and ".save()" in str(caught.value)
    assert isinstance(caught.value, RuntimeError) and isinstance(caught.value, MLXGraphError)


@pytest.mark.parametrize("use", [mx.softmax, mx.exp, mx.array, mx.eval, lambda h: mx.stack([h, h])])
def test_functions_of_mlx_never_give_a_number_of_an_unsaved_proxy(chain, x, use):
    """Once the block is over nothing stands between: MLX itself finds that there is no value."""
    h = unsaved(chain, x)
    with pytest.raises(RuntimeError, match="without a primitive"):
        mx.eval(use(h))


def test_repr_of_an_unsaved_proxy_after_the_block_still_works(chain, x):
    with chain.trace(x):
        h = chain.layers[0].output * 2
    assert "layers.0" in repr(h)


@pytest.mark.parametrize(
    "names",
    [
        ["x", "x", "x#2"],
        ["x", "x#2", "x"],
        ["x#2", "x", "x", "x"],
        ["x", "x", "x#3", "x"],
        ["x#2", "x#2", "x", "x", "x#2#2"],
    ],
)
def test_no_save_is_lost_under_anothers_name(chain, x, names):
    with chain.trace(x) as t:
        h = chain.layers[0].output
        kept = [(h * k).save(name) for k, name in enumerate(names)]
    assert len(t.saved_values) == len(names) == len(dict(t.graph.saves))
    for name in set(names):
        first = names.index(name)
        assert models.same(t.saved_values[name], kept[first]), "who asked first has the name"
    found = chain.run(t.graph, x)
    for name, value in t.saved_values.items():
        assert models.same(found[name], value, 1e-6)
