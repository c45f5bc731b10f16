"""The analyses of a model with edits that stay, of which some ask for positions or heads."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv

TEXT = "The capital of France is"
POSITIONS = [[1, 2], [2], -1, 3, slice(2, 4), [-1, -2]]


def recorded(model):
    with model.edit() as edited:
        edited.layers[1].output[:, 2:4] *= 0.5
    return edited


def lens_by_hand(edited, layer):
    """Each position's best token: the layer's states in place of the last layer's, on the text."""
    with edited.trace(TEXT):
        states = edited.layers[layer].output.save()
    with edited.trace(TEXT):
        edited.layers[-1].output = states
        logits = edited.output.save()
    return mx.argmax(logits[0], axis=-1).tolist()


def tops(lens, layer):
    return [found[0][0] for found in lens[layer]]


@pytest.mark.parametrize("positions", POSITIONS, ids=str)
@pytest.mark.parametrize("site", ["layers.2", "model.norm", "layers.3.mlp"])
@pytest.mark.thin(4)
def test_the_lens_of_a_model_edited_at_positions(tiny, site, positions):
    edited = tiny.edit(mg.edit(site, iv.scale(-1.5), positions=positions))
    lens = edited.logit_lens(TEXT)
    for layer in range(len(tiny.layers)):
        assert tops(lens, layer) == lens_by_hand(edited, layer)
    assert dict(lens) != dict(tiny.logit_lens(TEXT))


def test_one_position_is_one_of_all(tiny):
    for edited in (tiny.edit(mg.edit("layers.2", iv.scale(0.5), positions=[1, 2])), recorded(tiny)):
        whole = edited.logit_lens(TEXT, top_k=3)
        for at in (2, -1):
            one = edited.logit_lens(TEXT, top_k=3, position=at)
            for layer in whole:
                assert [t for t, _, _ in whole[layer][at]] == [t for t, _, _ in one[layer]]


def test_few_scores_at_a_time_are_the_same_scores(tiny, monkeypatch):
    edited = recorded(tiny)
    whole = edited.logit_lens(TEXT)
    monkeypatch.setattr("mlxgraph.analysis.unembed.MOST_SCORES", 1)
    assert [tops(edited.logit_lens(TEXT), k) for k in whole] == [tops(whole, k) for k in whole]


def test_a_state_has_no_position_and_its_tokens_need_none(tiny):
    with tiny.trace(TEXT):
        state = tiny.layers[3].output[0, -1].save()
    plain = tiny.get_token_predictions(state)
    at_positions = mg.edit("layers.2", iv.scale(0.5), positions=[1, 2])
    for edited in (tiny.edit(at_positions), recorded(tiny), recorded(tiny).edit(at_positions)):
        assert edited.get_token_predictions(state) == plain
    norm = mg.edit("model.norm", iv.scale(-1.0))
    assert tiny.edit(at_positions >> norm).get_token_predictions(state) != plain
    assert recorded(tiny).edit(norm).get_token_predictions(state) != plain
