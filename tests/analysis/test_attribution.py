"""Attribution: gradient times difference, against a forward written by hand and the sweep."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.analysis.recovery import Recovery
from mlxgraph.errors import (
    BaselineError,
    GradientError,
    LengthsError,
)
from tests import models
from tests.analysis.llama_by_hand import by_hand, score
from tests.analysis.test_patching_maps import (
    CLEAN,
    CORRUPTED,
    MODELS,
    SOME,
    TARGETS,
    TEXTS,
    diff,
    made,
    near,
    site,
)

EVERY = ["output", "resid_pre", "attn", "mlp", "heads", "queries", "keys", "values", "pattern"]


@pytest.fixture(scope="module", params=SOME)
def model(request: Any) -> mg.InterpretableModel:
    return MODELS[request.param]()


@pytest.fixture(scope="module")
def tiny() -> mg.InterpretableModel:
    return mg.tiny()


def kept(model: Any, text: list[int], component: str) -> list[mx.array]:
    with model.trace(mx.array([text])):
        found = [site(model, k, component).save() for k in range(len(model.layers))]
    mx.eval(found)
    return found


def shifted(model: Any, component: str, layer: int, index: Any, step: mx.array) -> float:
    """The score with a step added to a part of one value."""
    with model.trace(mx.array([CORRUPTED])):
        there = site(model, layer, component)
        there[index] = there[index] + step[index]
        logits = model.output[0, -1].astype(mx.float32).save()
    return diff(logits)


@pytest.mark.parametrize("component", [*EVERY, "resid_mid", "scores"])
@pytest.mark.thin(3)
def test_it_is_what_mx_grad_gives_of_a_forward_written_by_hand(component):
    module = models.make_llama()
    _, own = by_hand(module, CORRUPTED, {})
    best, other = by_hand(module, CLEAN, {})
    named = {key: mx.zeros(v.shape) for key, v in own.items() if key[0] == component}
    slopes = mx.grad(lambda steps: by_hand(module, CORRUPTED, steps)[0])(named)
    found = mg.InterpretableModel(module).attribution_patching(
        CLEAN, CORRUPTED, component, metric=score, normalize=False
    )
    layers = []
    for layer in range(len(module.layers)):
        key = component, layer
        product = np.array(slopes[key] * (other[key] - own[key]))
        inside = product.ndim == 4
        layers.append(product.sum(-1)[0].T if inside else product.sum(-1)[0])
    assert found.dims == ("layer", "position", *(["head"] if inside else []))
    expected = np.stack(layers)
    assert np.abs(expected).max() > 0.05
    assert np.abs(np.asarray(found) - expected).max() < 2e-4 * max(1, np.abs(expected).max())
    assert found.attrs["clean"] == pytest.approx(best.item(), abs=1e-3)


# -- laws ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("component", EVERY)
@pytest.mark.thin(6)
def test_the_first_order_is_the_difference_quotient(model, component):
    found = model.attribution_patching(
        CLEAN, CORRUPTED, component, positions=None, heads=None, metric=score, normalize=False
    )
    clean, own = kept(model, CLEAN, component), kept(model, CORRUPTED, component)
    for layer in (0, len(model.layers) - 1):
        step = clean[layer] - own[layer]
        small = 0.02 / max(1.0, mx.abs(step).max().item())
        ends = [shifted(model, component, layer, ..., s * small * step) for s in (1, -1)]
        quotient = (ends[0] - ends[1]) / (2 * small)
        effect = np.asarray(found)[layer].sum()
        assert effect == pytest.approx(quotient, abs=0.02 * max(0.2, abs(quotient)))


def without_norm(tied: bool = True) -> mg.InterpretableModel:
    module = models.make_llama(tied)
    module.model.norm = nn.Identity()
    return mg.InterpretableModel(module)


@pytest.mark.parametrize("component", ["output", "mlp", "resid_mid", "mlp.down_proj"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.thin(3)
def test_it_is_exact_where_the_rest_is_linear(component, direction):
    model = without_norm()
    given = {"positions": "all", "direction": direction, "metric": score}
    found = model.attribution_patching(CLEAN, CORRUPTED, component, **given)
    exact = model.activation_patching(CLEAN, CORRUPTED, component, **given)
    assert found.axes == exact.axes
    last, rest = np.asarray(found)[-1], np.abs(np.asarray(found) - np.asarray(exact))
    if component != "resid_mid":  # an MLP follows it
        near(last, np.asarray(exact)[-1])
        assert rest[-1].max() < 1e-2
    assert np.ptp(last) > 1 and rest[0].max() > 1, "earlier layers are no straight way"
    raw = model.attribution_patching(CLEAN, CORRUPTED, component, normalize=False, **given)
    start = raw.attrs["corrupted" if direction == "denoise" else "clean"]
    whole = raw.attrs["clean"] - raw.attrs["corrupted"]
    near(100 * (start + np.asarray(raw) - raw.attrs["corrupted"]) / whole, found)


@pytest.mark.thin(3)
def test_a_text_against_itself_has_no_effect(model):
    for metric in ("l2", "kl", score):
        for method in ("attribution", "atp*"):
            found = model.attribution_patching(
                CLEAN, CLEAN, ["queries", "keys", "mlp"], metric=metric, method=method,
                normalize=False, heads=None,
            )  # fmt: skip
            assert np.nanmax(np.abs(np.asarray(found))) == 0
    with pytest.raises(BaselineError):
        model.attribution_patching(CLEAN, CLEAN, metric=score)


@pytest.mark.parametrize("component", ["output", "attn", "heads", "values", "pattern"])
@pytest.mark.parametrize("metric", [score, "l2", "kl"])
@pytest.mark.thin(4)
def test_axes_are_those_of_the_sweep(tiny, component, metric):
    inside = component in ("heads", "values", "pattern")
    for asked in (
        {"positions": None},
        {"positions": [-1, 4], "layers": [3, 2], **({"heads": [1, 0]} if inside else {})},
        {"positions": 4, **({"heads": 2} if inside else {})},
    ):
        given = {"metric": metric, **asked}
        found = tiny.attribution_patching(*TEXTS, component, **given)
        exact = tiny.activation_patching(*TEXTS, component, **given)
        assert found.axes == exact.axes and found.coords == exact.coords
        assert found.unit == exact.unit and isinstance(found, dict) == isinstance(exact, dict)
        assert found.attrs["clean"] == pytest.approx(exact.attrs["clean"], abs=1e-4)
        assert found.attrs["corrupted"] == pytest.approx(exact.attrs["corrupted"], abs=1e-3)


def test_a_distance_is_a_metric_too(tiny):
    def gap(logits: mx.array, reference: mx.array) -> mx.array:
        return mx.sqrt(mx.sum(mx.square(logits - reference)))

    named = tiny.attribution_patching(*TEXTS, "mlp", metric="l2", normalize=False)
    near(tiny.attribution_patching(*TEXTS, "mlp", metric=gap, normalize=False), named)
    reference = tiny(TEXTS[0])[0, -1]
    with tiny.trace(TEXTS[1]) as trace:
        h = tiny.layers[3].mlp.output
        slope = trace.grad(gap(tiny.output[0, -1], reference), h).save()
        own = h.save()
    step = kept(tiny, tiny.encode(TEXTS[0]), "mlp")[3] - own
    near(named.sel(layer=3), np.array(mx.sum(slope * step, axis=-1))[0])
    assert np.abs(np.asarray(named)).max() > 0.1


def test_it_follows_the_sweep(tiny):
    given = {"metric": "logit_diff", "targets": TARGETS, "positions": "all"}
    for component in ("output", "attn", "mlp"):
        pair = [
            np.asarray(ask(*TEXTS, component, **given)).ravel()
            for ask in (tiny.attribution_patching, tiny.activation_patching)
        ]
        assert np.corrcoef(*pair)[0, 1] > 0.9
        other = np.random.default_rng(0).permutation(pair[0])
        assert np.corrcoef(other, pair[1])[0, 1] < 0.6, "a shuffled map does not"


def test_several_components_and_all_layers_come_from_one_pass(tiny, monkeypatch):
    runs = []
    kind = type(tiny)
    trace = kind.trace

    def counted(self, *inputs, **given):
        opened = trace(self, *inputs, **given)
        runs.append(opened)
        return opened

    monkeypatch.setattr(kind, "trace", counted)
    found = tiny.attribution_patching(*TEXTS, ["attn", "mlp"], metric=score)
    assert sum(bool(opened.saved_values) for opened in runs) == 2
    for component in ("attn", "mlp"):
        alone = tiny.attribution_patching(*TEXTS, component, metric=score)
        near(found.sel(component=component), alone)


def test_positions_of_texts_of_other_lengths(tiny):
    clean, corrupted = tiny.encode(TEXTS[0]), tiny.encode("The big capital of England is")
    for align, shift in (("start", 0), ("end", 1)):
        found = tiny.attribution_patching(
            clean, corrupted, "output", metric=score, align=align, normalize=False
        )
        assert found.axes["position"] == tuple(range(shift, shift + len(clean)))
        with tiny.trace(mx.array([corrupted])) as trace:
            h = tiny.layers[2].output
            logits = tiny.output[0, -1]
            slope, own = trace.grad(score(logits), h).save(), h.save()
        step = kept(tiny, clean, "output")[2][0] - own[0, shift : shift + len(clean)]
        expected = mx.sum(slope[0, shift : shift + len(clean)] * step, axis=-1)
        near(found.sel(layer=2), np.array(expected))
        pattern = tiny.attribution_patching(clean, corrupted, "pattern", metric=score, align=align)
        exact = tiny.activation_patching(
            clean, corrupted, "pattern", metric=score, align=align, positions="all"
        )
        assert pattern.axes == exact.axes
        with pytest.raises(GradientError, match="patch 'pattern'"):
            tiny.attribution_patching(clean, corrupted, "scores", metric=score, align=align)
    with pytest.raises(LengthsError):
        tiny.attribution_patching(clean, corrupted)


def test_several_pairs_are_averaged_or_kept(tiny):
    clean = ["The capital of France is", "The capital of Japan is"]
    corrupted = ["The capital of England is", "The capital of Italy is"]
    targets = [(" Paris", " London"), (" Tokyo", " Rome")]
    given = {"metric": "logit_diff", "positions": None}
    alone = [
        np.asarray(tiny.attribution_patching(a, b, "attn", targets=t, **given))
        for a, b, t in zip(clean, corrupted, targets, strict=True)
    ]
    whole = tiny.attribution_patching(clean, corrupted, "attn", targets=targets, **given)
    each = tiny.attribution_patching(
        clean, corrupted, "attn", targets=targets, average=False, **given
    )
    assert isinstance(whole, Recovery) and each.dims == ("pair", "layer")
    near(whole, np.mean(alone, axis=0))
    near(each, np.stack(alone))


def test_edits_that_stay_are_in_both_runs(tiny):
    with tiny.edit() as edited:
        tiny.layers[1].mlp.output *= 0.5
    found = edited.attribution_patching(CLEAN, CORRUPTED, "mlp", metric=score, normalize=False)
    with edited.trace(mx.array([CORRUPTED])) as trace:
        h = edited.layers[1].mlp.output
        slope, own = trace.grad(score(edited.output[0, -1]), h).save(), h.save()
    step = kept(edited, CLEAN, "mlp")[1] - own
    near(found.sel(layer=1), np.array(mx.sum(slope * step, axis=-1))[0])
    plain = tiny.attribution_patching(CLEAN, CORRUPTED, "mlp", metric=score, normalize=False)
    assert np.abs(np.asarray(plain) - np.asarray(found)).max() > 1e-3


def test_models_of_arrays_of_states_and_of_objects():
    chain = mg.InterpretableModel(models.Chain())
    rows = [mx.random.normal((1, 4, 6), key=mx.random.key(k)) for k in (0, 1)]
    found = chain.attribution_patching(*rows, metric=lambda o: o[0])
    assert found.coords == {} and np.abs(np.asarray(found)[:, :3]).max() == 0
    other, own = (kept_of_arrays(chain, row)[0, 3, 0].item() for row in rows)
    raw = chain.attribution_patching(*rows, metric=lambda o: o[0], normalize=False)
    expected = (1 - np.tanh(own) ** 2) * (other - own)
    assert raw.item(layer=2, position=3) == pytest.approx(expected, abs=1e-5)
    states = made("mamba").attribution_patching(CLEAN, CORRUPTED, metric=score)
    assert states.dims == ("layer", "position") and np.abs(np.asarray(states)).max() > 1

    from tests import object_models

    llama = models.make_llama()
    both = [mg.InterpretableModel(m) for m in (llama, object_models.Assistant(llama))]
    near(*[m.attribution_patching(CLEAN, CORRUPTED, "attn", metric=score) for m in both])


class Sorting(nn.Module):
    """A forward that picks entries by whole numbers, of which MLX has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.layers = [nn.Linear(8, 8) for _ in range(2)]
        self.head = nn.Linear(8, 50)

    def __call__(self, tokens: mx.array) -> mx.array:
        x = self.layers[0](self.embed(tokens))
        x = x + mx.take_along_axis(x, mx.argsort(x, axis=-1), axis=-1)
        return self.head(mx.cumsum(mx.tanh(self.layers[1](x)), axis=1))


def test_what_has_no_gradient_in_mlx_raises_and_what_comes_after_it_does_not():
    mx.random.seed(0)
    model = mg.InterpretableModel(Sorting())
    for ask in (model.attribution_patching, model.integrated_gradients):
        with pytest.raises(GradientError, match="MLX has no gradient") as caught:
            ask(CLEAN, CORRUPTED, layers=[0], metric=score)
        assert caught.traceback[-1].path.name == "test_attribution.py"
        after = ask(CLEAN, CORRUPTED, layers=[1], metric=score)
        assert np.abs(np.asarray(after)).max() > 1


def test_the_compiled_answers_are_the_first_one(model):
    given = {"metric": score, "normalize": False}
    first, *others = (model.attribution_patching(CLEAN, CORRUPTED, **given) for _ in range(3))
    for other in others:
        near(other, first)
    moved = [*CORRUPTED[:-1], 6]
    assert np.abs(
        np.asarray(model.attribution_patching(CLEAN, moved, **given)) - np.asarray(first)
    ).max() > 1e-3  # fmt: skip


def kept_of_arrays(model: Any, row: mx.array) -> mx.array:
    with model.trace(row):
        found = model.layers[2].output.save()
    return found


def test_a_model_of_half_precision_is_near(tiny):
    half = mg.tiny()
    half.module.set_dtype(mx.bfloat16)
    given = {"metric": "logit_diff", "targets": TARGETS}
    found = half.attribution_patching(*TEXTS, "attn", **given)
    exact = np.asarray(tiny.attribution_patching(*TEXTS, "attn", **given))
    assert np.abs(np.asarray(found) - exact).max() < 0.1 * np.abs(exact).max()


def test_the_bars_by_layer_say_what_they_are(tiny):
    pytest.importorskip("matplotlib")
    found = tiny.attribution_patching(*TEXTS, "attn", metric=score, positions=None)
    assert "Attribution patching of attn" in found.plot().axes[0].get_title()
    assert tiny.attribution_patching(*TEXTS, "attn", metric=score).plot().axes
