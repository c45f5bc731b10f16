"""The largest cells of a result: those that sorting by hand gives, as a list, bars and a value."""

from __future__ import annotations

import math
import traceback

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph.errors import InputError
from tests.pictures import drawn_texts

AXES = {"layer": [2, 4, 7], "neuron": range(5)}


@given(st.lists(st.integers(-99, 99), min_size=15, max_size=15), st.integers(1, 20))
def test_they_are_those_that_sorting_gives(numbers, k):
    values = np.array(numbers, dtype=np.float32).reshape(3, 5)
    values[1, 2] = math.nan
    found = mg.Effects(values, AXES).top(k)
    known = sorted((abs(v) for v in values.reshape(-1) if not math.isnan(v)), reverse=True)
    assert np.abs(np.asarray(found)).tolist() == known[:k]
    assert found.dims == ("cell",)
    whole = mg.Effects(values, AXES)
    layers, neurons = found.coords["layer"][1], found.coords["neuron"][1]
    for value, layer, neuron in zip(np.asarray(found), layers, neurons, strict=True):
        assert whole.item(layer=layer, neuron=neuron) == value


def test_a_printed_one_is_a_list():
    values = [[0.0, -3.0, 1.0], [2.5, 0.0, 0.25]]
    tokens = {"token": ("position", ["The", " capital", " is"])}
    found = mg.Effects(values, {"layer": [1, 5], "position": range(3)}, coords=tokens, name="share")
    assert repr(found.top(2)).splitlines() == [
        "Effects share: cell 2",
        "  layer 1, position 1 ' capital'        -3",
        "  layer 5, position 0 'The'            2.5",
    ]
    assert "\n" not in repr(found)
    assert "layer 1, position 1" in found.top(2)._repr_html_()
    parts = mg.Effects([1.0, 4.0], {"component": ["embed", "layers.0.attn"]})
    assert parts.top(1).axes["cell"] == ("layers.0.attn",)
    many = mg.Effects(np.arange(100.0), {"neuron": range(100)}).top(60)
    assert repr(many).splitlines()[-1] == "  ... and 20 more"


def test_it_is_drawn_by_its_cells_and_kept_in_files():
    found = mg.Effects([[0.0, -3.0], [2.5, 0.0]], {"component": ["a", "b"], "head": [0, 1]}).top(2)
    assert mg.Effects.from_json(found.to_json()) == found
    said = " ".join(text for text, _ in drawn_texts(found.plot())).replace("\n", "")
    assert "a, head 1" in said and "b, head 0" in said


@pytest.mark.parametrize("wrong", ["none", "no number", "a single one", "nothing known"])
def test_what_is_wrong_raises_on_the_users_line(wrong):
    effects = mg.Effects([1.0, 2.0], {"head": [0, 1]})
    with pytest.raises(InputError) as caught:
        if wrong == "none":
            effects.top(0)
        elif wrong == "no number":
            effects.top("all")
        elif wrong == "a single one":
            effects.sel(head=1).top(1)
        else:
            mg.Effects([math.nan], {"head": [0]}).top(1)
    assert traceback.extract_tb(caught.tb)[-1].filename == __file__
