"""Law: the lens of a model with edits that stay on it, at positions too, is that of its own run."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv

TEXT = "The capital of France is"
EDITS = {
    "positions": lambda: mg.edit("layers.2", iv.scale(0.5), positions=[1, 2]),
    "a position far away": lambda: mg.edit("layers.0", iv.scale(0.5), positions=4),
    "a slice": lambda: mg.edit("layers.2.mlp", iv.zero_out, positions=slice(1, 3)),
    "heads": lambda: mg.edit("layers.2.attn", iv.zero_out, heads=[1], positions=[2]),
}


def recorded(model):
    """The edits of a block, by static index."""
    with model.trace(TEXT) as t:
        model.layers[1].output[:, 3] *= 0.5
    return t.graph


@pytest.mark.parametrize("name", [*EDITS, "recorded"])
@pytest.mark.thin(3)
def test_a_model_with_edits_at_positions_has_a_lens(tiny, name):
    graph = recorded(tiny) if name == "recorded" else EDITS[name]()
    edited = tiny.edit(graph)
    lens, plain = edited.logit_lens(TEXT, top_k=3), tiny.logit_lens(TEXT, top_k=3)
    with edited.trace(TEXT):
        logits = edited.output.save()
        states = [layer.output[0, -1].save() for layer in edited.layers]
    last = [token for token, *_ in lens[5][-1]]
    assert last[0] == int(mx.argmax(logits[0, -1]))
    for layer, state in enumerate(states):
        expected = tiny.get_token_predictions(state, top_k=3)
        assert edited.get_token_predictions(state, top_k=3) == expected
        assert [token for token, *_ in lens[layer][-1]][:3] == expected
    assert lens != plain
    assert edited.logit_lens(TEXT, top_k=3, position=1)[2] == lens[2][1]


def test_an_edit_of_the_head_is_in_a_lens_beside_one_at_a_position(tiny):
    of_head = mg.edit("model.norm", iv.scale(-1.0))
    both = tiny.edit(mg.edit("layers.2", iv.scale(0.5), positions=[4]) >> of_head)
    with tiny.trace(TEXT):
        state = tiny.layers[4].output[0, -1].save()
    assert both.get_token_predictions(state) == tiny.edit(of_head).get_token_predictions(state)
    assert both.get_token_predictions(state) != tiny.get_token_predictions(state)
