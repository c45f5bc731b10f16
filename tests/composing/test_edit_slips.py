"""`model.edit` takes a graph, or inputs to record with: what is neither raises."""

from __future__ import annotations

import traceback

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import InputError, NotAGraphError, NotEnteredError

HALF = mg.edit("layers.1", iv.scale(0.5))

NO_GRAPHS = {
    "a name and a function": lambda m: ("layers.2", iv.zero_out),
    "a handle and a function": lambda m: (m.layers[2], iv.zero_out),
    "a function": lambda m: (iv.zero_out,),
    "a lambda": lambda m: (lambda h: h * 2,),
    "functions by name": lambda m: ({"layers.2": iv.zero_out},),
    "mg.edit itself": lambda m: (mg.edit,),
    "a graph's method": lambda m: (HALF.save,),
    "a pass": lambda m: (m.pass_(lambda m: m.output),),
    "a model": lambda m: (m,),
    "graphs in a list": lambda m: ([HALF, HALF],),
    "a function in a list": lambda m: ([HALF, iv.zero_out],),
}


def last_frame(caught):
    return traceback.extract_tb(caught.tb)[-1].filename


@pytest.mark.parametrize("slip", NO_GRAPHS)
def test_what_is_no_graph_and_no_input_raises(tied, slip):
    given = NO_GRAPHS[slip](tied)
    with pytest.raises(NotAGraphError, match=r"Write model\.edit\((mg\.edit|first >>)") as caught:
        tied.edit(*given)
    assert last_frame(caught) == __file__
    with pytest.raises(NotAGraphError):
        with tied.edit(*given):
            pass


def test_a_second_graph_is_not_dropped(tied, tokens):
    with pytest.raises(InputError, match=r"model\.edit\(first >> second\)"):
        tied.edit(HALF, HALF)
    quarter = tied.edit(HALF >> HALF)(tokens)
    assert not mx.array_equal(quarter, tied.edit(HALF)(tokens))


AS_A_MODEL = {
    "called": lambda block, tokens: block(tokens),
    "traced": lambda block, tokens: block.trace(tokens),
    "its layers": lambda block, tokens: block.layers[0],
    "indexed": lambda block, tokens: block["layers.0"],
    "written": lambda block, tokens: setattr(block, "output", 0),
}


@pytest.mark.parametrize("use", AS_A_MODEL)
@pytest.mark.parametrize("given", [(), (None,), ("layers.2",)])
def test_a_block_of_edits_is_no_model(tied, tokens, use, given):
    block = tied.edit(*given)
    with pytest.raises(NotEnteredError, match="with model.edit") as caught:
        AS_A_MODEL[use](block, tokens)
    assert isinstance(caught.value, NotAGraphError) and isinstance(caught.value, AttributeError)
    assert last_frame(caught) == __file__
    assert not hasattr(block, "_repr_html_"), "shells ask for this"


def test_examples_of_every_kind_still_record(tied, tokens):
    for example in [(), (None,), (tokens,), ([1, 2, 3],), ([[1, 2], [3, 4]],)]:
        with tied.edit(*example) as edited:
            edited.layers[1].output *= 0.5
        assert mx.allclose(edited(tokens), tied.edit(HALF)(tokens), atol=1e-5)
