"""A module where its output is meant, and a write to its weights: said with what to write."""

from __future__ import annotations

import copy
import operator
import traceback

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlxgraph as mg
from mlxgraph.errors import (
    NoValueError,
    UnknownSiteError,
    WeightError,
)
from tests.models import same


def set_item(h):
    h[0] = 0


def augment(h):
    h *= 2


def put(m):
    m.layers[2] = 0


AS_VALUES = {
    "mean": lambda h: mx.mean(h),
    "an argument": lambda h: mx.add(mx.ones((2,)), h),
    "in a list": lambda h: mx.concatenate([h, h]),
    "nn": lambda h: nn.relu(h),
    "times": lambda h: h * 2,
    "of": lambda h: 2 - h,
    "matrices": lambda h: h @ mx.ones((2, 2)),
    "minus": operator.neg,
    "less": lambda h: h < 3,
    "float": float,
    "numpy": np.mean,
    "numpy's array": lambda h: np.ones(2) * h,
    "an item": set_item,
    "in place": augment,
}


@pytest.mark.parametrize("name", AS_VALUES)
def test_a_module_is_no_value(tiny, name):
    said = r"model.layers\[2\].*\n.*\n.*output"
    with pytest.raises(NoValueError, match=said) as caught, tiny.trace([1, 2]):
        AS_VALUES[name](tiny.layers[2])
    assert traceback.extract_tb(caught.tb)[-1].filename == __file__


@pytest.mark.parametrize("name", ["times", "of", "matrices", "minus", "less", "float", "in place"])
def test_outside_of_a_block_neither(tiny, name):
    with pytest.raises(NoValueError, match=r"layers\[2\].output") as caught:
        AS_VALUES[name](tiny.layers[2])
    assert traceback.extract_tb(caught.tb)[-1].filename == __file__


def test_beside_a_recorded_value_and_of_the_whole_model(tiny):
    with tiny.trace([1, 2]):
        h = tiny.layers[1].output
        for use in (lambda: mx.add(h, tiny.layers[2]), lambda: h * tiny, lambda: tiny + 1):
            with pytest.raises(NoValueError, match=r"model(.layers\[2\])?.output"):
                use()
    with pytest.raises(NoValueError, match=r"model.layers\[2\].output"):
        put(tiny)


@pytest.mark.parametrize("name", ["save", "mean", "shape", "reshape", "item", "grad", "T"])
def test_what_values_have_is_of_the_output(tiny, name):
    with tiny.trace([1, 2]):
        for handle in (tiny.layers[2], tiny.layers[2].mlp.down_proj):
            with pytest.raises(UnknownSiteError, match=rf"Write model.*\.output\.{name}"):
                getattr(handle, name)


@pytest.mark.parametrize("index", [0, -1, (0, 1), 99])
def test_an_index_of_a_module_that_is_not_several(tiny, index):
    with tiny.trace([1, 2]), pytest.raises(UnknownSiteError, match=r"layers\[2\].output\["):
        tiny.layers[2][index]


class Numbered(nn.Module):
    """A module that calls its children by number."""

    def __init__(self):
        super().__init__()
        self["0"] = nn.Linear(4, 4)

    def __call__(self, x):
        return self["0"](x)


def test_a_child_that_is_called_by_a_number_is_found():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Numbered()

        def __call__(self, x):
            return self.inner(x)

    model = mg.InterpretableModel(Outer())
    with model.trace(mx.ones((1, 4))):
        out = model.inner[0].output.save()
    assert out.shape == (1, 4)


def test_a_handle_is_given_as_a_name_all_the_same(tiny):
    with tiny.trace([1, 2]) as t:
        tiny.layers[1].output.save()
    assert same(t.get(tiny.layers[1]), t.activations[tiny.layers[1]], 0)


def times(handle):
    handle.weight *= 2


def put_weight(handle):
    handle.weight = mx.zeros((2, 2))


@pytest.mark.parametrize("write", [times, put_weight])
def test_weights_are_no_sites(tiny, write):
    before = mx.array(tiny.module.layers[3].mlp.down_proj.weight)
    said = r"layers\[3\].mlp.down_proj.output \*= 2.*\.module\.weight = "
    for block in (tiny.trace([1, 2]), tiny.edit()):
        with pytest.raises(WeightError, match=said), block:
            write(tiny.layers[3].mlp.down_proj)
    assert same(tiny.module.layers[3].mlp.down_proj.weight, before, 0)


WRITES = {
    "row": lambda w: w.__setitem__(0, 0),
    "entry": lambda w: w.__setitem__((0, 1), 2.0),
    "mask": lambda w: w.__setitem__(w > 0, 0),
    "all": lambda w: w.__setitem__(..., mx.zeros_like(w)),
}


@pytest.mark.parametrize("name", WRITES)
def test_an_entry_of_a_weight_is_no_site(tiny, name):
    handle = tiny.layers[3].mlp.down_proj
    before = mx.array(handle.module.weight)
    for block in (tiny.trace([1, 2]), tiny.edit()):
        with pytest.raises(WeightError, match=r"is a copy.*\n.*\n.*layers\[3\]"), block:
            WRITES[name](handle.weight)
    with tiny.trace([1, 2]):
        own = mx.array(handle.weight)
        WRITES[name](own)  # a copy of one's own
        out = (handle.input @ own.T).save()
    WRITES[name](own)
    outside = handle.weight
    WRITES[name](outside)
    assert out.shape == (1, 2, 128)
    assert same(handle.module.weight, before, 0)


TAKEN = {
    "parameters": lambda m: m.layers[0].mlp.down_proj.parameters(),
    "trainable": lambda m: m.layers[0].mlp.down_proj.trainable_parameters(),
    "nested": lambda m: m.layers[0].parameters()["mlp"]["down_proj"],
    "model": lambda m: {"weight": m.parameters()["model.layers.0.mlp.down_proj.weight"]},
    "whole": lambda m: m.model.parameters()["layers"][0]["mlp"]["down_proj"],
    "flat": lambda m: {
        k.rpartition(".")[2]: v for k, v in tree_flatten(m.layers[0].mlp.down_proj.parameters())
    },
}


@pytest.mark.parametrize("name", TAKEN)
def test_parameters_are_handed_out_as_copies(tiny, name):
    weight = tiny.module.layers[0].mlp.down_proj.weight
    before = mx.array(weight)
    with tiny.trace([1, 2]):
        taken = TAKEN[name](tiny)
        taken["weight"] *= 2
        tiny.output.save()
    assert same(taken["weight"], before * 2, 0)
    taken = TAKEN[name](tiny)
    taken["weight"] += 1
    taken["weight"][0] = 0
    assert tiny.module.layers[0].mlp.down_proj.weight is weight and same(weight, before, 0)


def test_what_it_says_to_write_is_right():
    model = mg.tiny()
    with model.trace([1, 2]):
        before = model.layers[3].mlp.down_proj.output.save()
    model.layers[3].mlp.down_proj.module.weight = model.layers[3].mlp.down_proj.weight * 2
    with model.trace([1, 2]):
        after = model.layers[3].mlp.down_proj.output.save()
    assert same(after, before * 2, 1e-4)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_handle_can_be_copied(tiny, copied):
    for handle in (tiny.layers[0], tiny.layers, tiny.layers[1].mlp):
        other = copied(handle)
        assert other.path == handle.path and type(other) is type(handle)
        assert (other.module is handle.module) == (copied is copy.copy)
    model, handle = copied((tiny, tiny.layers[0]))
    with model.trace([1, 2]):
        out = handle.output.save()
    assert out.shape == (1, 2, 128)
