"""The logit lens: one pass, the final norm, and the model's own logits in the last layer."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph.analysis import unembed
from mlxgraph.errors import (
    BoundsError,
    InputError,
    NoTokenizerError,
    PositionError,
    UnembeddingError,
)
from tests import models
from tests.models import same

TEXT = "The capital of France is"
IDS = [1, 7, 3, 9, 4, 2]


def by_hand(model, tokens, layer):
    """A layer's lens written out: its output, the final norm, the head."""
    with model.trace(tokens):
        stream = model.layers[layer].output.save()
    inner = model.module.model
    normed = inner.norm(stream)
    tied = model.module.args.tie_word_embeddings
    return (inner.embed_tokens.as_linear(normed) if tied else model.module.lm_head(normed))[0]


def test_each_layer_is_its_output_through_norm_and_head(llama):
    found = llama.logit_lens(IDS, top_k=3)
    assert list(found) == [0, 1, 2]
    for layer, positions in found.items():
        logits = by_hand(llama, mx.array([IDS]), layer)
        assert len(positions) == len(IDS)
        for position, best in enumerate(positions):
            expected = mx.argsort(-logits[position])[:3].tolist()
            assert [token for token, _, _ in best] == expected
            for token, score, _ in best:
                assert score == pytest.approx(logits[position, token].item(), abs=1e-4)


def test_the_last_layers_lens_is_exactly_the_models_logits(llama):
    logits = llama(mx.array([IDS]))[0]
    for position, best in enumerate(llama.logit_lens(IDS, top_k=50)[2]):
        scores = {token: score for token, score, _ in best}
        assert [scores[token] for token in range(50)] == logits[position].tolist()


def test_position_gives_that_positions_list(llama):
    everything = llama.logit_lens(IDS, top_k=2)
    for position in (0, 3, -1):
        one = llama.logit_lens(IDS, top_k=2, position=position)
        for layer in everything:
            expected = everything[layer][position]
            assert [best[0] for best in one[layer]] == [best[0] for best in expected]
            assert one[layer][0][1] == pytest.approx(expected[0][1], abs=1e-5)


def test_layers_are_those_asked_for_in_that_order(llama):
    everything = llama.logit_lens(IDS)
    chosen = llama.logit_lens(IDS, layers=[2, 0])
    assert list(chosen) == [2, 0]
    for layer in chosen:
        assert [p[0][0] for p in chosen[layer]] == [p[0][0] for p in everything[layer]]
    assert list(llama.logit_lens(IDS, layers=[-1])) == [2]


def test_pieces_give_what_one_product_gives(llama, monkeypatch):
    whole = llama.logit_lens(IDS, top_k=3)
    monkeypatch.setattr(unembed, "MOST_SCORES", 4 * 50)  # four rows at a time
    pieces = llama.logit_lens(IDS, top_k=3)
    for layer in whole:
        for one, other in zip(whole[layer], pieces[layer], strict=True):
            assert [b[0] for b in one] == [b[0] for b in other]
            assert [b[1] for b in one] == pytest.approx([b[1] for b in other], abs=1e-5)


def test_text_ids_and_arrays_are_the_same(tiny):
    ids = tiny.encode(TEXT)
    from_text = tiny.logit_lens(TEXT)
    for given in (ids, mx.array(ids), mx.array([ids])):
        assert dict(tiny.logit_lens(given)) == dict(from_text)
    assert from_text.tokens == [tiny.token_to_str(token) for token in ids]
    token, _, name = from_text[0][0][0]
    assert name == tiny.token_to_str(token)


def test_a_persistent_edit_shows_in_the_lens(llama):
    edited = llama.edit(mg.edit("layers.1", mg.interventions.zero_out))
    plain, other = llama.logit_lens(IDS), edited.logit_lens(IDS)
    assert dict(plain)[0] == dict(other)[0]
    assert dict(plain)[1] != dict(other)[1] and dict(plain)[2] != dict(other)[2]


def test_it_is_without_residue(llama):
    before = llama(mx.array([IDS])), models.identity_of(llama.module)
    llama.logit_lens(IDS)
    assert same(llama(mx.array([IDS])), before[0])
    assert models.identity_of(llama.module) == before[1]


def test_what_does_not_exist_raises(tied, tiny):
    with pytest.raises(BoundsError):
        tied.logit_lens(IDS, layers=[3])
    with pytest.raises(PositionError, match="which has 6 tokens"):
        tied.logit_lens(IDS, position=6)
    with pytest.raises(NoTokenizerError):
        tied.logit_lens("text")
    with pytest.raises(InputError, match="one text"):
        tiny.logit_lens(["a", "b"])
    with pytest.raises(InputError, match="one text"):
        tied.logit_lens(mx.zeros((2, 3), dtype=mx.int32))
    with pytest.raises(InputError):
        tied.logit_lens([])
    headless = mg.InterpretableModel(tied.module.model)
    for layers in (None, [2]):
        with pytest.raises(UnembeddingError, match="no head"):
            headless.logit_lens(IDS, layers=layers)
    with pytest.raises(InputError, match="top_k"):
        tied.logit_lens(IDS, top_k=0)


def test_story_the_capital_emerges_with_depth(tiny):
    ranks = []
    (paris,) = [t for t in tiny.encode("The capital of France is Paris")[-1:]]
    for best in tiny.logit_lens(TEXT, top_k=1014, position=-1).values():
        ranks.append([token for token, _, _ in best].index(paris))
    assert ranks[0] > 10 and ranks[-1] == 0 and ranks[-2] == 0
    for country, capital in {"Italy": " Rome", "Spain": " Madrid", "Japan": " Tokyo"}.items():
        lens = tiny.logit_lens(f"The capital of {country} is", position=-1)
        assert lens[5][0][2] == capital and lens[0][0][2] != capital
