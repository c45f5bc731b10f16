"""Methods on models that edits stay on, stopped half way, and given what they cannot use."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import (
    BaselineError,
    DecompositionError,
    GradientError,
    InputError,
    MissingParamError,
    ScoreError,
    ShapeError,
    SweepStopped,
    UnboundParamError,
    UnknownLabelError,
    UnknownSiteError,
)
from tests.architectures import configs

CLEAN, CORRUPTED = "The capital of France is", "The capital of England is"
VECTOR = mx.arange(128) / 64 - 1


@pytest.fixture(scope="module")
def tiny():
    return mg.tiny()


def at_a_position(model):
    """An edit of a position that texts of one token do not have."""
    return model.edit(mg.edit("layers.1.mlp", iv.scale(3.0), positions=4))


def test_direct_attribution_where_an_edit_asks_for_a_position(tiny):
    edited = at_a_position(tiny)
    found = edited.direct_logit_attribution(CLEAN, " Paris")
    with edited.trace(CLEAN):
        logits = edited.output[0, -1].save()
    wanted = logits[tiny.single_token(" Paris")].item()
    assert float(np.asarray(found).sum()) == pytest.approx(wanted, abs=1e-3)
    assert abs(wanted - tiny.direct_logit_attribution(CLEAN, " Paris").attrs["logit"]) > 0.01


def test_head_scores_where_an_edit_asks_for_a_position(tiny):
    edited = at_a_position(tiny)
    found, plain = (one.head_scores(length=4, samples=2) for one in (edited, tiny))
    assert found.axes == plain.axes
    assert found != plain


def test_composition_is_of_weights(tiny):
    with pytest.raises(DecompositionError, match="without_edits"):
        at_a_position(tiny).composition_scores()


METHODS = {
    "activation_patching": lambda m: m.activation_patching(CLEAN, CORRUPTED, "attn"),
    "attribution_patching": lambda m: m.attribution_patching(CLEAN, CORRUPTED, "attn"),
    "causal_trace": lambda m: m.causal_trace(CLEAN, " France", samples=1),
    "ablation": lambda m: m.ablation(CLEAN, "attn"),
    "path_patching": lambda m: m.path_patching(CLEAN, CORRUPTED, "attn"),
    "head_scores": lambda m: m.head_scores(length=2, samples=1),
    "direct_logit_attribution": lambda m: m.direct_logit_attribution(CLEAN),
    "steering_vector": lambda m: mg.steering_vector(m, [CLEAN], [CORRUPTED], layers=3),
    "collect": lambda m: mg.collect_activations(m, CLEAN, ["layers.3"]),
}


@pytest.mark.parametrize("method", METHODS)
def test_an_edit_that_waits_for_a_param_is_said(tiny, method):
    edited = tiny.edit(mg.edit("layers.1", iv.scale(mg.param("a"))))
    with pytest.raises((UnboundParamError, MissingParamError), match=r"param '?a") as caught:
        METHODS[method](edited)
    assert "bind(a=...)" in str(caught.value)
    assert caught.traceback[-1].path.name == "test_hard_use.py"


@pytest.mark.parametrize("method", ["ablation", "steering_curves"])
def test_a_stopped_score_keeps_what_is_done(tiny, method):
    """The unedited run comes last, and changes are changes from it."""

    def given(metric):
        if method == "ablation":
            return tiny.ablation(CLEAN, "attn", positions="all", metric=metric)
        return tiny.steering_curves(CLEAN, VECTOR, strengths=[-1.0, 0.0, 1.0], metric=metric)

    count = 0

    def stopped(logits):
        nonlocal count
        count += 1
        if count == 8:
            raise KeyboardInterrupt
        return logits[5]

    whole = np.asarray(given(lambda logits: logits[5]))
    with pytest.raises(SweepStopped) as caught:
        given(stopped)
    found = np.asarray(caught.value.result)
    there = ~np.isnan(found)
    assert 0 < there.sum() < found.size
    np.testing.assert_allclose(found[there], whole[there], atol=1e-3)
    assert caught.value.result.attrs["unedited"] == pytest.approx(
        tiny(CLEAN)[0, -1, 5].item(), abs=1e-3
    )


def patched(**given):
    return lambda m: m.activation_patching(CLEAN, CORRUPTED, "attn", **given)


def attributed(metric):
    return lambda m: m.attribution_patching(CLEAN, CORRUPTED, "attn", layers=[2], metric=metric)


def vector(**given):
    return lambda m: mg.steering_vector(m, [CLEAN], [CORRUPTED], **given)


WRONG = {
    "a vector of heads": (vector(layers="layers.3.attn.heads"), ShapeError, r"\(8, 16\)"),
    "no positions": (vector(layers=3, positions=[]), InputError, "positions=-1"),
    "half a position": (vector(layers=3, positions=[1.5]), InputError, "no whole number"),
    "all layers": (patched(layers="all"), InputError, "leave layers out"),
    "a truth as a layer": (patched(layers=True), InputError, "True is no layer"),
    "a truth as a token": (
        patched(metric="logit_diff", targets=(True, False)), InputError, "not True"
    ),
    "a complex metric": (patched(metric=lambda logits: mx.array(1j)), ScoreError, "one number"),
    "no number": (
        patched(metric=lambda logits: mx.array(float("nan"))), BaselineError, "metric of your own"
    ),
    "one pair of several": (
        lambda m: m.activation_patching([CLEAN, CLEAN], [CORRUPTED, CLEAN], "attn"),
        BaselineError,
        "pair 1: both texts",
    ),
    "a function of mx itself": (attributed(mx.max), GradientError, "lambda logits: mx.max"),
    "a constant": (attributed(lambda logits: mx.array(1.0)), GradientError, "a constant"),
    "an axis by number": (
        lambda m: m.ablation(CLEAN, "attn").mean(0), UnknownLabelError, "no axis 0"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_on_the_users_line(tiny, name):
    call, error, said = WRONG[name]
    with pytest.raises(error, match=said) as caught:
        call(tiny)
    assert caught.traceback[-1].path.name == "test_hard_use.py"


def test_a_component_that_a_layer_lacks_is_not_proposed_for_itself():
    model = mg.InterpretableModel(configs.build("mamba"))
    with pytest.raises(UnknownSiteError) as caught:
        model.activation_patching([1, 2], [1, 3], "mlp")
    assert "Did you mean 'mlp'" not in str(caught.value)


def test_paths_of_a_layer_that_gives_much_more_than_it_is_given_in_half_precision():
    """What is given goes under in the rounding of what is added, and still is passed on."""
    one, other, found = [1, 7, 3, 9, 4], [1, 7, 5, 8, 4], []
    for dtype in (mx.float32, mx.bfloat16):
        module = configs.build("olmo2")
        module.set_dtype(dtype)
        model = mg.InterpretableModel(module)
        given = {"metric": lambda logits: logits[3], "normalize": False}
        found.append(model.path_patching(one, other, "layers.0.attn", "layers.1.mlp", **given))
    assert float(found[1]) == pytest.approx(float(found[0]), abs=0.05)
    assert abs(float(found[0]) - found[0].attrs["corrupted"]) > 0.1


def test_a_vector_of_all_positions_is_of_their_mean(tiny):
    texts = [CLEAN], [CORRUPTED]
    every = mg.steering_vector(tiny, *texts, layers=3, positions="all")
    some = mg.steering_vector(tiny, *texts, layers=3, positions=range(6))
    assert mx.allclose(every, some, atol=1e-4).item()
