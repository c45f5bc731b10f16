"""Law: a lens measures what the softmax of its full scores says, in float64, and is a result."""

from __future__ import annotations

import copy
import pickle

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.analysis import distributions as distributions_module
from mlxgraph.analysis import unembed
from mlxgraph.analysis.distributions import distributions
from mlxgraph.errors import InputError, TokenError, UnknownNameError
from tests.analysis.test_unembed import architecture
from tests.models import make_llama

TEXT = "The capital of France is"
IDS = [1, 7, 3, 9, 4, 2]
MODELS = {
    "tiny": lambda: mg.tiny(),
    "tiny, quantised": lambda: _quantised(),
    "softcapped": lambda: mg.InterpretableModel(architecture("gemma2")),
    "bfloat16": lambda: _in_bfloat16(),
    "edited at a position": lambda: _edited(),
}


def _quantised():
    model = mg.tiny()
    nn.quantize(model.module, group_size=32, bits=8)
    return model


def _in_bfloat16():
    module = make_llama(False)
    module.set_dtype(mx.bfloat16)
    return mg.InterpretableModel(module)


def _edited():
    return mg.tiny().edit(mg.edit("layers.2", iv.scale(0.5), positions=[1, 2]))


def scores_by_hand(model, ids):
    """(layers, positions, vocabulary) in float64: each layer's output put in the last one's place,
    in the model itself."""
    row = mx.array([ids])
    found = []
    with model.trace(row):
        states = [layer.output.save() for layer in model.layers]
        own = model.output.save()
    for state in states[:-1]:
        with model.trace(row):
            model.layers[-1].output = state
            logits = model.output.save()
        found.append(logits[0])
    return np.array(mx.stack([*found, own[0]]).astype(mx.float32)).astype(np.float64)


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def entropy(chances):
    return -(chances * np.log(np.maximum(chances, 1e-300))).sum(-1)


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    """A model, ids, and its scores by hand."""
    model = MODELS[request.param]()
    return model, IDS, scores_by_hand(model, IDS)


def near(found, expected, tolerance=2e-3):
    return np.abs(np.asarray(found) - expected).max() < tolerance


def test_probability_score_and_entropy_are_those_of_the_full_scores(case):
    model, ids, scores = case
    lens, chances = model.logit_lens(ids), softmax(scores)
    assert lens.dims == ("layer", "position")
    assert near(lens, chances.max(-1)) and near(lens.score, scores.max(-1), 2e-2)
    assert near(lens.entropy, entropy(chances)) and lens.entropy.unit == "nats"
    assert not near(lens, chances.min(-1)) and not near(lens.entropy, 0 * entropy(chances))
    for layer, positions in lens.items():
        for position, best in enumerate(positions):
            assert best[0][0] == scores[layer, position].argmax()


def test_a_followed_tokens_numbers_are_those_of_the_full_scores(case):
    model, ids, scores = case
    chances = softmax(scores)
    wanted = [11, 5, 2]
    lens = model.logit_lens(ids, tokens=wanted)
    assert lens.dims == ("layer", "position", "target") and lens.axes["target"] == (11, 5, 2)
    assert near(lens, chances[..., wanted])
    assert near(lens.score, scores[..., wanted], 2e-2)
    for k, token in enumerate(wanted):
        higher = (scores > scores[..., token, None] + 1e-3).sum(-1)
        at_least = (scores >= scores[..., token, None] - 1e-3).sum(-1)
        ranks = np.asarray(lens.rank)[..., k]
        assert (higher + 1 <= ranks).all() and (ranks <= at_least).all()
    one = model.logit_lens(ids, token=5)
    assert one.dims == ("layer", "position")
    assert near(one, np.asarray(lens)[..., 1], 1e-6) and (one.rank == lens.rank.sel(target=5))


def test_a_position_is_that_part_of_the_whole(case):
    model, ids, _ = case
    for position in (1, -1):
        one = model.logit_lens(ids, position=position, tokens=[5, 6])
        whole = model.logit_lens(ids, tokens=[5, 6])
        assert one.dims == ("layer", "target")
        at = position % len(ids)
        assert near(one, np.asarray(whole.sel(position=at)), 1e-5)
        assert one.attrs == {"at": {"position": at, "token": whole.tokens[at]}}


def test_pieces_of_any_size_say_the_same(monkeypatch):
    scores = mx.random.normal((7, 300), key=mx.random.key(0)) * 3
    whole = distributions(scores, 3, [4, 299])
    chances = softmax(np.array(scores).astype(np.float64))
    assert near(whole.entropy, entropy(chances), 1e-5)
    assert np.allclose(whole.asked_probabilities, chances[:, [4, 299]], rtol=1e-5)
    monkeypatch.setattr(distributions_module, "AT_A_TIME", 1)
    for one, other in zip(whole, distributions(scores, 3, [4, 299]), strict=True):
        assert mx.array_equal(one, other)
    model = MODELS["edited at a position"]()
    before = model.logit_lens(IDS, token=5)
    monkeypatch.setattr(unembed, "MOST_SCORES", 1)
    assert near(model.logit_lens(IDS, token=5), np.asarray(before), 1e-6)


@pytest.mark.parametrize("vocabulary", [1, 5, 127, 128, 129, 40_000])
def test_sums_are_of_the_whole_vocabulary(vocabulary):
    scores = mx.random.normal((3, vocabulary), key=mx.random.key(1))
    found = distributions(scores, 1, [0])
    chances = softmax(np.array(scores).astype(np.float64))
    assert np.allclose(found.probabilities[:, 0], chances.max(-1), rtol=2e-5)
    assert np.allclose(found.entropy, entropy(chances), atol=2e-5)


def test_a_masked_token_has_probability_0_and_what_is_no_number_stays_so():
    scores = mx.array([[0.0, -mx.inf, 0.0], [0.0, mx.nan, 1.0]])
    found = distributions(scores, 1, [1, 2])
    assert found.asked_probabilities[0].tolist() == [0.0, 0.5]
    assert found.asked_ranks[0].tolist() == [3.0, 1.0]
    assert found.entropy[0].item() == pytest.approx(np.log(2), abs=1e-6)
    for part in (found.probabilities, found.entropy, found.asked_ranks, found.asked_probabilities):
        assert bool(mx.all(mx.isnan(part[1])))


def test_equal_scores_share_the_best_rank():
    assert distributions(mx.array([[2.0, 2.0, 1.0]]), 1, [0, 1, 2]).asked_ranks.tolist() == [
        [1.0, 1.0, 3.0]
    ]


def test_layers_in_any_order_keep_their_numbers(tiny):
    whole = tiny.logit_lens(TEXT)
    for layers in ([5, 0], [3, 5, 1], [5], [1, 0]):
        some = tiny.logit_lens(TEXT, layers=layers)
        assert some.axes["layer"] == tuple(layers)
        assert near(some, np.asarray(whole)[layers], 1e-5)
        for layer in layers:
            assert some[layer][-1][0][0] == whole[layer][-1][0][0]


# -- as a result ----------------------------------------------------------------------------------


def test_a_lens_is_a_dict_and_a_result(tiny):
    lens = tiny.logit_lens(TEXT, token=" Paris")
    assert isinstance(lens, dict) and isinstance(lens, mg.Effects)
    assert list(lens) == list(range(6)) and len(lens.values()) == 6
    assert lens.values.shape == (6, 6) and lens.argmax()["layer"] == 5
    assert lens.attrs["at"] == {"target": " Paris"}
    assert lens.sel(layer=5, position=5).item() > 0.9 > lens.sel(layer=0, position=5).item()
    assert mg.Effects.from_json(lens.to_json()).shape == (6, 6)
    assert lens == dict(lens) and lens == tiny.logit_lens(TEXT, token=" Paris")
    assert lens != tiny.logit_lens(TEXT, token=" Rome") and lens != tiny.logit_lens(TEXT, top_k=2)
    for twin in (copy.copy(lens), copy.deepcopy(lens), pickle.loads(pickle.dumps(lens))):
        assert twin == lens and twin.rank == lens.rank and twin.tokens == lens.tokens


def test_a_frame_has_a_row_for_each_cell_and_its_prediction(tiny):
    lens = tiny.logit_lens(TEXT)
    frame = lens.to_frame()
    columns = ["layer", "position", "token", "prediction", "entropy", "score", "probability"]
    assert list(frame.columns) == columns and len(frame) == 36
    for row in frame.itertuples():
        best = lens[row.layer][row.position][0]
        assert (row.prediction, row.score) == (best[2], pytest.approx(best[1]))
        assert row.token == lens.tokens[row.position]
        assert row.entropy == pytest.approx(
            lens.entropy.item(layer=row.layer, position=row.position)
        )
    several = tiny.logit_lens(TEXT, tokens=[" Paris", " Rome"], position=-1, layers=[3, 5])
    frame = several.to_frame()
    assert list(frame.target) == [" Paris", " Rome"] * 2 and list(frame.layer) == [3, 3, 5, 5]
    assert list(frame["rank"])[2] == 1 and set(frame.prediction) == {" Paris"}
    assert frame.probability.tolist() == pytest.approx(np.asarray(several).reshape(-1).tolist())


def test_predictions_of_a_state_are_a_list_and_a_result(tiny):
    with tiny.trace(TEXT):
        state = tiny.layers[4].output[0].save()
        logits = tiny.model.norm(tiny.layers[4].output).save()
    one = tiny.get_token_predictions(state[-1], top_k=3)
    assert isinstance(one, list) and isinstance(one, mg.Effects) and one == list(one)
    chances = softmax(np.array(tiny.module.model.embed_tokens.as_linear(logits)[0]).astype(float))
    assert np.asarray(one).tolist() == list(one), "an array of it is one of ids"
    assert np.allclose(one.values, chances[-1][list(one)], atol=1e-5)
    assert one.axes["rank"] == (1, 2, 3) and one.sel(token=" Paris").item() > 0.9
    assert mx.array(one).tolist() == list(one) and repr(one) == repr(list(one))
    several = tiny.get_token_predictions(state, top_k=2, return_scores=True)
    assert several.dims == ("row", "rank") and several.shape == (6, 2)
    frame = several.to_frame()
    assert list(frame.columns) == ["row", "rank", "token", "id", "score", "probability"]
    assert [tuple(pair) for pair in frame[["id", "score"]].values[-2:]] == several[-1]
    assert np.allclose(frame.probability, chances[frame.row, frame.id], atol=1e-5)
    assert pickle.loads(pickle.dumps(one)) == one


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"token": " Paris", "tokens": [" Rome"]}, InputError, "both given"),
        ({"tokens": " Paris"}, InputError, r"tokens=\[' Paris'\]"),
        ({"tokens": 5}, InputError, r"tokens=\[5\]"),
        ({"layers": []}, InputError, "no layers"),
        ({"tokens": []}, InputError, "no tokens"),
        ({"tokens": [" Paris", " Paris"]}, InputError, "twice"),
        ({"token": " Paris is in France"}, TokenError, "tokens"),
        ({"token": 100_000}, InputError, "no token 100000"),
        ({"token": -1}, InputError, "-1 is no token"),
        ({"token": 1.5}, InputError, "1.5 is no token"),
        ({"color": "colour"}, UnknownNameError, "probability"),
        ({"color": "rank"}, InputError, "token=' Paris'"),
        ({"color": "rank", "tokens": [" Paris", " Rome"]}, InputError, "lens.plot"),
    ],
)
def test_what_cannot_be_followed_says_why(tiny, options, error, says):
    with pytest.raises(error, match=says):
        tiny.logit_lens(TEXT, **options)


def test_a_rank_that_was_not_asked_for_says_how_to_ask(tiny):
    lens = tiny.logit_lens(TEXT)
    with pytest.raises(InputError, match="token=' Paris'"):
        _ = lens.rank
    with pytest.raises(InputError, match="token=' Rome'"):
        lens.plot(token=" Rome")
