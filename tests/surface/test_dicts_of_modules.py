"""Modules of MLX are dicts, and a model is none: no habit of dicts reaches the wrapped module."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.errors import UnknownSiteError

OF_DICTS = [name for name in vars(dict) if not name.startswith("_") and name != "update"]
HOLDERS = {
    "model": lambda m: m,
    "inner": lambda m: m.model,
    "layer": lambda m: m.layers[1],
    "layers": lambda m: m.layers,
    "linear": lambda m: m.layers[1].mlp.down_proj,
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("name", OF_DICTS)
def test_a_method_of_dicts_is_no_method_of_a_model(tiny, holder, name):
    before = dict(tiny.parameters())
    with pytest.raises(UnknownSiteError, match=f"has no .*{name!r}"):
        getattr(HOLDERS[holder](tiny), name)()
    with tiny.trace([1, 2]) as t, pytest.raises(UnknownSiteError):
        getattr(t.model, name)()
    assert before.keys() == tiny.parameters().keys()


@pytest.mark.parametrize("name", ["clear", "pop", "popitem"])
def test_what_would_have_emptied_it_says_what_there_is(tiny, name):
    with pytest.raises(UnknownSiteError, match=r"without_edits\(\).*\n?.*refresh\(\)"):
        getattr(tiny, name)


class Own(nn.Module):
    """A module with methods and children that are called as those of dicts."""

    def __init__(self):
        super().__init__()
        self["pop"] = nn.Linear(4, 4)
        self["keys"] = mx.ones((3,))

    def copy(self):
        return "its own"

    def __call__(self, x):
        return dict.__getitem__(self, "pop")(x)


def test_a_modules_own_of_the_same_name_is_found():
    model = mg.InterpretableModel(Own())
    assert model.copy() == "its own"
    assert model.keys.tolist() == [1, 1, 1]
    with model.trace(mx.ones((1, 4))):
        out = model["pop"].output.save()
    assert out.shape == (1, 4)


def test_what_modules_of_mlx_have_themselves_is_passed_on(tiny):
    assert callable(tiny.update) and callable(tiny.layers[0].freeze)
    assert tiny.layers[0].mlp.down_proj.weight.ndim == 2
