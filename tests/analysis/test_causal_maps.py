"""Causal traces, ablation maps, steering curves: each cell equals the run that a user writes."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import (
    BaselineError,
    BoundsError,
    HeadsError,
    InputError,
    LengthsError,
    NoLayerError,
    PositionError,
    ShapeError,
    TokenError,
    UnknownNameError,
    UnknownSiteError,
)
from tests.analysis.test_patching_maps import CLEAN, MODELS, SOME, by_hand, diff, near, runs, site

OTHERS = [[8, 17, 2, 9, 30, 4], [1, 2, 3, 4, 5, 6]]
TEXT = "The capital of France is"


@pytest.fixture(scope="module", params=SOME)
def model(request: Any) -> mg.InterpretableModel:
    return MODELS[request.param]()


@pytest.fixture(scope="module")
def tiny() -> mg.InterpretableModel:
    return mg.tiny()


# -- causal traces ---------------------------------------------------------------------------------


def embedding(model: Any) -> Any:
    names = [name for name, _ in model.named_modules()]
    return model["model.embed_tokens" if "model.embed_tokens" in names else "model.wte"]


def noised_runs(model: Any, noise: float, where: list[int], samples: int, seed: int, edit: Any):
    """The last logits of each sample, with an edit beside the noise."""
    with model.trace(mx.array([CLEAN])):
        width = embedding(model).output.shape[-1]
    drawn = noise * mx.random.normal((samples, len(where), width), key=mx.random.key(seed))
    found = []
    for sample in range(samples):
        with model.trace(mx.array([CLEAN])):
            states = embedding(model).output
            for k, position in enumerate(where):
                states[:, position] = states[:, position] + drawn[sample, k].astype(states.dtype)
            edit(model)
            logits = model.output[0, -1].save()
        found.append(diff(logits))
    return float(np.mean(found))


@pytest.mark.parametrize(("component", "window"), [("output", None), ("mlp", 1), ("attn", 2)])
@pytest.mark.thin(4)
def test_a_causal_trace_equals_the_loop(model, component, window):
    found = model.causal_trace(
        CLEAN, [1, 2], component, positions=[1, 5], samples=3, seed=4, noise=1.5, window=window,
        metric=diff, normalize=False,
    )  # fmt: skip
    kept, best, _ = runs(model, component)
    count, width = len(model.layers), window or 1

    def restored(layer, position):
        def edit(model):
            for k in range(max(0, layer - width // 2), min(count, layer + (width + 1) // 2)):
                site(model, k, component)[:, position] = kept[k][:, position]

        return noised_runs(model, 1.5, [1, 2], 3, 4, edit)

    expected = [[restored(layer, position) for position in (1, 5)] for layer in range(count)]
    near(found, expected)
    corrupted = noised_runs(model, 1.5, [1, 2], 3, 4, lambda model: None)
    assert found.attrs["clean"] == pytest.approx(diff(best), abs=1e-3)
    assert found.attrs["corrupted"] == pytest.approx(corrupted, abs=1e-3)
    assert np.abs(np.asarray(found) - corrupted).max() > 1e-3, "something is restored"


def test_restoring_everything_is_the_clean_run(model):
    found = model.causal_trace(CLEAN, [1, 2], "output", positions=None, samples=2, noise=1.0)
    assert np.abs(np.asarray(found) - 100).max() < 0.5
    by_token = model.causal_trace(CLEAN, [1, 2], "output", samples=2, noise=1.0)
    assert np.abs(np.asarray(by_token)[:, 0]).max() < 1e-2, "nothing is noised before the subject"


def test_a_seed_is_a_result(tiny):
    given = {"samples": 2, "normalize": False}
    one, same, other = (tiny.causal_trace(TEXT, " France", seed=s, **given) for s in (0, 0, 1))
    assert one == same and one != other


def test_the_story_of_the_paper(tiny):
    found = tiny.causal_trace(TEXT, " France", samples=4)
    assert found.dims == ("layer", "position") and found.unit == "%"
    assert found.attrs["subject"] == (4,) and found.attrs["metric"] == "probability"
    assert found.item(layer=0, token=" France") > 95 and found.item(layer=5, token=" is") > 95
    assert found.item(layer=0, token=" is") < 20 and found.item(layer=5, token=" France") < 20
    answer = tiny.causal_trace(TEXT, " France", samples=4, targets=" Paris")
    assert answer == found, "Paris is what it says"
    assert tiny.causal_trace("The Eiffel Tower is in", "Eiffel Tower").attrs["subject"] == (2, 3)


WRONG_TRACES = [
    ({"subject": " Spain"}, TokenError, "Spain"),
    ({"subject": [9]}, PositionError, "6 tokens"),
    ({"subject": None}, InputError, "needs a subject"),
    ({"samples": 0}, InputError, "at least once"),
    ({"noise": 0}, InputError, "standard deviation"),
    ({"window": 0}, InputError, "at least one layer"),
    ({"targets": (" Paris", " Rome")}, InputError, "of one token"),
    ({"component": "wkv"}, UnknownSiteError, "resid_pre"),
    ({"heads": [1]}, HeadsError, "Leave heads out"),
    ({"embedding": "embd"}, UnknownSiteError, "embed"),
    ({"metric": "probabilty"}, UnknownNameError, "logit_diff"),
    ({"positions": [6]}, PositionError, "6 tokens"),
]


@pytest.mark.parametrize(("given", "error", "said"), WRONG_TRACES)
def test_wrong_arguments_of_a_trace(tiny, given, error, said):
    subject = given.get("subject", " France")
    rest = {name: value for name, value in given.items() if name != "subject"}
    with pytest.raises(error, match=said) as caught:
        tiny.causal_trace(TEXT, subject, **rest)
    assert caught.traceback[-1].path.name == "test_causal_maps.py"


def test_noise_that_changes_nothing_leaves_nothing_to_recover(tiny):
    with pytest.raises(BaselineError, match="noised"):
        tiny.causal_trace(TEXT, " France", noise=1e-30)


# -- ablation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("component", ["attn", "mlp", "heads"])
@pytest.mark.thin(4)
def test_zero_ablation_equals_the_loop(model, component):
    found = model.ablation(CLEAN, component, metric=diff)
    kept, best, _ = runs(model, component)
    parts = [(slice(None),)]
    if component == "heads":
        parts = [(slice(None), head) for head in range(kept[0].shape[1])]
    expected = [
        [
            diff(by_hand(model, component, k, index, mx.zeros_like(kept[k]), CLEAN)) - diff(best)
            for index in parts
        ]
        for k in range(len(model.layers))
    ]
    near(found, expected if component == "heads" else np.asarray(expected)[:, 0])
    assert np.abs(np.asarray(found)).max() > 1e-3


@pytest.mark.parametrize("component", ["mlp", "heads"])
@pytest.mark.thin(3)
def test_mean_ablation_equals_the_loop(model, component):
    dataset = [*OTHERS, [5, 6, 7]]
    found = model.ablation(CLEAN, component, "mean", dataset=dataset, metric=diff, positions=[2])
    kept, best, _ = runs(model, component)
    axis = 2 if component == "heads" else 1
    every = [runs(model, component, text, CLEAN)[0] for text in dataset]
    expected = []
    for k in range(len(model.layers)):
        values = mx.concatenate([values[k].astype(mx.float32) for values in every], axis=axis)
        mean = mx.broadcast_to(mx.mean(values, axis=axis, keepdims=True), kept[k].shape)
        if component == "heads":
            parts = [(slice(None), head, 2) for head in range(kept[k].shape[1])]
        else:
            parts = [(slice(None), 2)]
        mean = mean.astype(kept[k].dtype)
        expected.append(
            [diff(by_hand(model, component, k, at, mean, CLEAN)) - diff(best) for at in parts]
        )
    near(np.asarray(found)[:, 0], np.asarray(expected).reshape(np.asarray(found)[:, 0].shape))
    assert np.abs(np.asarray(found)).max() > 1e-4


def test_resampling_is_patching_from_each_text(model):
    found = model.ablation(CLEAN, "attn", "resample", dataset=OTHERS, metric=diff, positions=[1, 3])
    plain = model.trace(mx.array([CLEAN]))
    with plain:
        best = model.output[0, -1].save()
    single = [
        model.activation_patching(
            other, CLEAN, "attn", positions=[1, 3], metric=diff, normalize=False
        )
        for other in OTHERS
    ]
    near(found, np.mean([np.asarray(one) for one in single], axis=0) - diff(best))
    assert np.abs(np.asarray(found)).max() > 1e-3


def test_a_distance_is_from_the_unedited_run(tiny):
    found = tiny.ablation(TEXT, "attn", metric="l2")
    for layer in range(6):
        with tiny.trace(TEXT):
            best = tiny.output[0, -1].save()
        with tiny.trace(TEXT):
            tiny.layers[layer].attn.output = tiny.layers[layer].attn.output * 0
            logits = tiny.output[0, -1].save()
        assert found.item(layer=layer) == pytest.approx(
            mx.linalg.norm(logits - best).item(), rel=1e-3
        )


WRONG_ABLATIONS = [
    ({"how": "zeros"}, UnknownNameError, "'zero'"),
    ({"how": "mean"}, InputError, "dataset="),
    ({"dataset": ["The capital of Italy is"]}, InputError, "how='zero'"),
    ({"how": "resample", "dataset": ["Paris"]}, LengthsError, "tokens"),
    ({"how": "mean", "dataset": [TEXT], "component": "pattern"}, ShapeError, "resample"),
    ({"component": "mpl"}, UnknownSiteError, "'mlp'"),
    ({"positions": [8]}, PositionError, "6 tokens"),
    ({"component": "heads", "heads": [12]}, BoundsError, "size 8"),
    ({"text": [TEXT, TEXT]}, InputError, "one text at a time"),
]


@pytest.mark.parametrize(("given", "error", "said"), WRONG_ABLATIONS)
def test_wrong_arguments_of_an_ablation(tiny, given, error, said):
    rest = {name: value for name, value in given.items() if name != "text"}
    with pytest.raises(error, match=said) as caught:
        tiny.ablation(given.get("text", TEXT), **rest)
    assert caught.traceback[-1].path.name == "test_causal_maps.py"


# -- steering --------------------------------------------------------------------------------------


def test_steering_curves_equal_the_loop(model):
    with model.trace(mx.array([CLEAN])):
        width = model.layers[0].output.shape[-1]
    vector = mx.random.normal((width,), key=mx.random.key(1))
    strengths = [0.0, -1.5, 3.0]
    found = model.steering_curves(CLEAN, vector, strengths=strengths, metric=diff)
    expected = []
    for layer in range(len(model.layers)):
        row = []
        for strength in strengths:
            with model.trace(mx.array([CLEAN])):
                there = model.layers[layer].output
                there += (strength * vector).astype(there.dtype)
                model.layers[layer].output = there
                logits = model.output[0, -1].save()
            row.append(diff(logits))
        expected.append(row)
    assert found.dims == ("layer", "strength") and found.axes["strength"] == (0.0, -1.5, 3.0)
    near(found, expected)
    unedited = found.attrs["unedited"]
    assert np.abs(np.asarray(found)[:, 0] - unedited).max() < 1e-3 * max(1, abs(unedited))
    assert np.abs(np.asarray(found)[:, 1:] - unedited).max() > 1e-2


def test_vectors_by_layer(tiny):
    vectors = mx.random.normal((6, 128), key=mx.random.key(2))
    every = tiny.steering_curves(TEXT, vectors, strengths=[2.0], positions=[-1])
    some = tiny.steering_curves(TEXT, {4: vectors[4], 1: vectors[1]}, strengths=2.0, positions=[-1])
    rows = vectors[mx.array([4, 1])]
    listed = tiny.steering_curves(TEXT, rows, layers=[4, 1], strengths=2.0, positions=[-1])
    assert listed == some
    assert some.axes["layer"] == (4, 1) and every.dims == ("layer", "position", "strength")
    for layer in (1, 4):
        near(some.sel(layer=layer), every.sel(layer=layer))
    assert np.asarray(every).min() > 0, "a distance from the unsteered run"


WRONG_CURVES = [
    ({"vectors": mx.zeros((64,))}, ShapeError, "128 wide"),
    ({"vectors": mx.zeros((3, 128))}, ShapeError, "6 layers"),
    ({"vectors": "up"}, InputError, "steering vector"),
    ({"vectors": {}}, InputError, "are none"),
    ({"vectors": {1: mx.zeros((128,))}, "layers": [2]}, InputError, "no vector for layer 2"),
    ({"vectors": {9: mx.zeros((128,))}}, NoLayerError, "no layer 9"),  # it was layer 3 once
    ({"vectors": {3: mx.zeros((128,)), -3: mx.zeros((128,))}}, InputError, "two for layer 3"),
    ({"strengths": []}, InputError, "no numbers"),
    ({"strengths": ["a"]}, InputError, "no numbers"),
    ({"strengths": [float("nan")]}, InputError, "no numbers"),
    ({"component": "mpl"}, UnknownSiteError, "'mlp'"),
]


@pytest.mark.parametrize(("given", "error", "said"), WRONG_CURVES)
def test_wrong_arguments_of_curves(tiny, given, error, said):
    rest = {name: value for name, value in given.items() if name != "vectors"}
    with pytest.raises(error, match=said) as caught:
        tiny.steering_curves(TEXT, given.get("vectors", mx.zeros((128,))), **rest)
    assert caught.traceback[-1].path.name == "test_causal_maps.py"
