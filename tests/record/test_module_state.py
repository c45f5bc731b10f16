"""A module called by hand on recorded values keeps none of them."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from tests import models


class Recalls(nn.Module):
    """Keeps what it sees, one way or another."""

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(6, 6)
        self.last, self.both = mx.zeros((6,)), None
        self.note = "none yet"

    def __call__(self, x):
        y = self.l(x) + self.last
        self.last = y[0, 0]
        self.both = (y, [x])
        self.note = y
        self.new = y * 2
        return y + self.last


MAKE = {
    "norm": lambda: nn.BatchNorm(6),
    "inside": lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm(6)),
    "own": Recalls,
}
USE = {
    "block": lambda m, x, f: by_hand(m, x, f, m.trace(x)),
    "compiled": lambda m, x, f: by_hand(m, x, f, m.trace(x, compile=True)),
    "edit": lambda m, x, f: m.run(mg.edit("layers.0", f), x).output,
    "pass": lambda m, x, f: m.pass_(lambda m: f(m.layers[0].output))(x),
    "raised": lambda m, x, f: raised(m, x, f),
}


def by_hand(model, x, function, block):
    with block:
        return function(model.layers[0].output).save()


def raised(model, x, function):
    with pytest.raises(ZeroDivisionError), model.trace(x):
        function(model.layers[0].output)
        raise ZeroDivisionError
    return mx.zeros((1,))


@pytest.mark.parametrize("use", USE)
@pytest.mark.parametrize("name", MAKE)
def test_a_module_called_by_hand_is_as_it_was(chain, x, name, use):
    function = MAKE[name]()
    before = {k: v for k, v in vars(function).items() if k != "_no_grad"}
    held = dict(nn.utils.tree_flatten(function.parameters()))
    for _ in range(2):
        out = USE[use](chain, x, function)
        mx.eval(out)
        now = dict(nn.utils.tree_flatten(function.parameters()))
        assert now.keys() == held.keys() and all(now[k] is held[k] for k in held)
        assert {k: v for k, v in vars(function).items() if k != "_no_grad"} == before
    fresh = function(chain.module.layers[0](x))
    if use in ("block", "compiled", "pass"):
        assert models.same(out, fresh, 1e-4)
    mx.eval(function(x), function.parameters())


def test_two_calls_in_one_block_go_on_from_each_other(chain, x):
    function = Recalls()
    with chain.trace(x):
        h = chain.layers[0].output
        one, two = function(h).save(), function(h).save()
    h = chain.module.layers[0](x)
    assert models.same(one, function(h), 1e-5) and models.same(two, function(h), 1e-5)


def test_what_was_saved_is_kept(chain, x):
    holder = nn.Linear(2, 2)
    with chain.trace(x):
        holder.seen = chain.layers[0].output.save()
        holder.given = chain.layers[1].output
        holder.given.save()
    assert models.same(holder.seen, chain.module.layers[0](x), 1e-5)
    assert isinstance(holder.given, mx.array) and holder.given.sum().item() is not None


def test_params_may_be_attributes():
    holder = nn.Linear(2, 2)
    holder.alpha = mg.param("alpha")
    assert holder.alpha.name == "alpha"
