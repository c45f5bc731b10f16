"""Patching maps: each cell equals the run that a user writes by hand."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph.analysis.patching import Recovery
from mlxgraph.errors import (
    BaselineError,
    InputError,
    LengthsError,
    SweepStopped,
    UnknownSiteError,
)
from tests.architectures import configs
from tests.dear import dear
from tests.models import make_quantised_llama

CLEAN, CORRUPTED = [3, 17, 5, 9, 22, 4], [3, 17, 31, 9, 22, 4]
TEXTS = "The capital of France is", "The capital of England is"
TARGETS = (" Paris", " London")


def quantised() -> mg.InterpretableModel:
    model = mg.tiny()
    nn.quantize(model.module)
    return model


def made(name: str) -> mg.InterpretableModel:
    if not configs.installed([name]):
        pytest.skip(f"this mlx-lm has no {name}")
    return mg.InterpretableModel(configs.build(name))


MODELS = {
    "tiny": mg.tiny,
    "4-bit": lambda: mg.InterpretableModel(make_quantised_llama()),
    "tiny in 4 bits": quantised,
    "gpt2": lambda: made("gpt2"),
    "qwen2_moe": lambda: made("qwen2_moe"),
    "gemma2": lambda: made("gemma2"),
}


DEAR = {"tiny", "tiny in 4 bits"}  # six layers, and so many cells


def sorted_out(names: Any) -> list[Any]:
    """These names of models, the dear ones for the slow tests alone."""
    return [*(name for name in names if name not in DEAR), *dear(*sorted(DEAR))]


SOME = sorted_out(MODELS)


@pytest.fixture(scope="module", params=SOME)
def model(request: Any) -> mg.InterpretableModel:
    return MODELS[request.param]()


@pytest.fixture(scope="module")
def tiny() -> mg.InterpretableModel:
    return mg.tiny()


def site(model: Any, layer: int, component: str) -> Any:
    """The value by hand; of "resid_pre" the layer's input."""
    block = model.layers[layer]
    if component == "output":
        return block.output
    if component == "resid_pre":
        return block.input
    if component in ("heads", "queries", "keys", "values", "pattern"):
        return getattr(block.attn, component)
    return getattr(block, component).output


def first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def runs(model: Any, component: str, clean=CLEAN, corrupted=CORRUPTED) -> Any:
    """The clean values by layer, and the last logits of both runs."""
    with model.trace(mx.array([clean])):
        kept = [site(model, k, component).save() for k in range(len(model.layers))]
        best = model.output[0, -1].save()
    with model.trace(mx.array([corrupted])):
        worst = model.output[0, -1].save()
    return kept, best, worst


def by_hand(model: Any, component: str, layer: int, index: Any, value: Any, text=CORRUPTED):
    with model.trace(mx.array([text])):
        there = site(model, layer, component)
        there[index] = value[index]
        logits = model.output[0, -1].save()
    return logits


def diff(logits: mx.array) -> float:
    return (logits[7] - logits[11]).item()


def near(found: Any, expected: Any) -> None:
    found, expected = np.asarray(found), np.asarray(expected, dtype=np.float32)
    assert found.shape == expected.shape
    scale = max(1.0, float(np.abs(expected).max()))
    assert np.abs(found - expected).max() <= 2e-4 * scale


@pytest.mark.parametrize("component", ["output", "resid_pre", "attn", "mlp"])
@pytest.mark.thin(4)
def test_layer_by_position_equals_the_loop(model, component):
    positions = [2, 4, 5]
    found = model.activation_patching(
        CLEAN, CORRUPTED, component, positions=positions, metric="logit_diff", targets=(7, 11)
    )
    kept, best, worst = runs(model, component)
    expected = [
        [
            100
            * (diff(by_hand(model, component, k, (slice(None), p), kept[k])) - diff(worst))
            / (diff(best) - diff(worst))
            for p in positions
        ]
        for k in range(len(model.layers))
    ]
    assert found.dims == ("layer", "position") and found.axes["position"] == (2, 4, 5)
    near(found, expected)
    assert np.abs(np.asarray(found)).max() > 1, "some cell must matter"
    assert not isinstance(found, dict)


@pytest.mark.parametrize("component", ["heads", "queries", "keys", "values", "pattern"])
@pytest.mark.thin(4)
def test_layer_by_head_equals_the_loop(model, component):
    found = model.activation_patching(CLEAN, CORRUPTED, component, normalize=False, metric=diff)
    kept, _, worst = runs(model, component)
    heads = range(kept[0].shape[1])
    expected = [
        [diff(by_hand(model, component, k, (slice(None), h), kept[k])) for h in heads]
        for k in range(len(model.layers))
    ]
    assert found.dims == ("layer", "head")
    near(found, expected)
    assert np.abs(np.asarray(found) - diff(worst)).max() > 1e-4, "some head must matter"


def test_layer_by_position_by_head(tiny):
    found = tiny.activation_patching(
        *TEXTS, "heads", positions=[-1, 4], heads=[0, 3], metric="logit_diff", targets=TARGETS,
        normalize=False,
    )  # fmt: skip
    clean, corrupted = (tiny.encode(text) for text in TEXTS)
    kept, _, _ = runs(tiny, "heads", clean, corrupted)
    paris, london = (tiny.single_token(token) for token in TARGETS)
    assert found.dims == ("layer", "position", "head") and found.axes["position"] == (5, 4)
    assert found.coords["token"] == ("position", (" is", " England"))
    for layer in range(6):
        for position in (5, 4):
            for head in (0, 3):
                index = (slice(None), head, position)
                logits = by_hand(tiny, "heads", layer, index, kept[layer], corrupted)
                expected = (logits[paris] - logits[london]).item()
                one = found.item(layer=layer, position=position, head=head)
                assert one == pytest.approx(expected, abs=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    component=st.sampled_from(["output", "resid_pre", "attn", "mlp", "heads", "keys", "pattern"]),
    position=st.integers(-6, 5),
    layers=st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True),
    head=st.integers(0, 3),
    direction=st.sampled_from(["denoise", "noise"]),
)
def test_any_cell_equals_the_run_by_hand(tiny, component, position, layers, head, direction):
    inside = component in ("heads", "keys", "pattern")
    found = tiny.activation_patching(
        CLEAN, CORRUPTED, component, layers, diff, positions=[position], direction=direction,
        heads=[head] if inside else None, normalize=False,
    )  # fmt: skip
    run, other = (CORRUPTED, CLEAN) if direction == "denoise" else (CLEAN, CORRUPTED)
    kept, _, _ = runs(tiny, component, other, run)
    index = (slice(None), head, position) if inside else (slice(None), position)
    expected = [diff(by_hand(tiny, component, k, index, kept[k], run)) for k in layers]
    assert found.axes["layer"] == tuple(layers) and found.axes["position"] == (position % 6,)
    near(np.asarray(found).reshape(-1), expected)


def test_models_of_arrays_take_rows_of_them():
    from tests.models import Chain

    model = mg.InterpretableModel(Chain())
    clean, corrupted = (mx.random.normal((1, 4, 6), key=mx.random.key(k)) for k in (0, 1))
    found = model.activation_patching(clean, corrupted, "output", positions="all")
    assert found.dims == ("layer", "position") and found.coords == {}
    assert np.abs(np.asarray(found)[:, :3]).max() < 0.1, "positions do not mix"
    assert np.abs(np.asarray(found)[:, 3]).min() > 1
    with model.trace(clean):
        kept = model.layers[1].output.save()
        best = model.output[0, -1].save()
    with model.trace(corrupted):
        model.layers[1].output[:, 3] = kept[:, 3]
        logits = model.output[0, -1].save()
    worst = model(corrupted)[0, -1]
    norm = mx.linalg.norm
    expected = 100 * (1 - norm(logits - best).item() / norm(worst - best).item())
    assert found.item(layer=1, position=3) == pytest.approx(expected, abs=1e-2)


def test_a_map_is_drawn_where_it_is_asked_for(tiny, monkeypatch):
    pytest.importorskip("matplotlib")
    shown = []
    monkeypatch.setattr("mlxgraph.analysis.patching.show", shown.append)
    tiny.activation_patching(*TEXTS, "attn", positions="all", plot=True)
    tiny.activation_patching(*TEXTS, "attn", plot=True, normalize=False)
    assert len(shown) == 2 and all(figure.axes for figure in shown)


def test_the_noise_direction_runs_the_clean_text(model):
    found = model.activation_patching(
        CLEAN, CORRUPTED, "attn", direction="noise", normalize=False, metric=diff
    )
    kept, _, _ = runs(model, "attn", CORRUPTED, CLEAN)
    whole = (slice(None),)
    expected = [
        diff(by_hand(model, "attn", k, whole, kept[k], CLEAN)) for k in range(len(model.layers))
    ]
    near(found, expected)
    assert isinstance(found, Recovery) and list(found) == list(range(len(model.layers)))


@pytest.mark.parametrize("component", ["output", "resid_pre", "resid_mid"])
@pytest.mark.parametrize(("direction", "end"), [("denoise", 100), ("noise", 0)])
@pytest.mark.parametrize("metric", ["l2", "kl", "cosine", diff])
@pytest.mark.thin(6)
def test_patching_everything_gives_the_other_run(model, component, direction, end, metric):
    try:
        found = model.activation_patching(
            CLEAN, CORRUPTED, component, direction=direction, metric=metric
        )
    except UnknownSiteError:
        assert component == "resid_mid"
        pytest.skip("no such state is certain")
    assert np.abs(np.asarray(found) - end).max() < 0.5


def test_where_the_state_after_attention_is_certain():
    for name in ("gpt2", "qwen2_moe", "gemma2", "llama"):
        found = made(name).activation_patching(CLEAN, CORRUPTED, "resid_mid")
        assert np.abs(np.asarray(found) - 100).max() < 0.5, name
    parallel = made("gpt_neox")  # attention and MLP side by side
    with pytest.raises(UnknownSiteError, match="side by side"):
        parallel.activation_patching(CLEAN, CORRUPTED, "resid_mid")


@pytest.mark.thin(3)
def test_a_text_against_itself(model):
    for metric in ("l2", "kl", diff):
        with pytest.raises(BaselineError):
            model.activation_patching(CLEAN, CLEAN, "attn", positions="all", metric=metric)
    raw = model.activation_patching(
        CLEAN, CLEAN, ["attn", "mlp"], positions="all", normalize=False, metric="l2"
    )
    size = mx.linalg.norm(model(mx.array([CLEAN]))[0, -1]).item()
    assert np.asarray(raw).max() < 1e-4 * size, "zero everywhere"


def test_components_are_an_axis(tiny):
    found = tiny.activation_patching(*TEXTS, ["attn", "mlp"], positions="all")
    assert found.dims == ("component", "layer", "position")
    for component in ("attn", "mlp"):
        alone = tiny.activation_patching(*TEXTS, component, positions="all")
        near(found.sel(component=component), alone)
    single = tiny.activation_patching(*TEXTS, ["attn"])
    assert single.dims == ("component", "layer") and not isinstance(single, dict)


def test_components_with_other_numbers_of_heads(tiny):
    found = tiny.activation_patching(*TEXTS, ["heads", "keys"])
    assert found.dims == ("component", "layer", "head") and found.shape == (2, 6, 8)
    keys = np.asarray(found.sel(component="keys"))
    assert np.isnan(keys[:, 4:]).all() and not np.isnan(keys[:, :4]).any()
    near(keys[:, :4], tiny.activation_patching(*TEXTS, "keys"))
    mixed = tiny.activation_patching(*TEXTS, ["heads", "attn"])
    assert mixed.dims == ("component", "layer"), "all heads at once beside what has none"
    near(mixed.sel(component="heads"), tiny.activation_patching(*TEXTS, "attn.heads"))


def test_a_list_of_one_is_a_list(tiny):
    alone = tiny.activation_patching(*TEXTS, "attn")
    found = tiny.activation_patching([TEXTS[0]], TEXTS[1], "attn", average=False)
    assert found.dims == ("pair", "layer")
    near(found.isel(pair=0), alone)


def test_one_position_makes_no_axis(tiny):
    found = tiny.activation_patching(*TEXTS, "output", positions=-1)
    everywhere = tiny.activation_patching(*TEXTS, "output", positions="all")
    assert isinstance(found, Recovery) and found.attrs["at"] == {"position": 5}
    assert dict(found) == pytest.approx(
        {k: everywhere.item(layer=k, position=5) for k in range(6)}, abs=1e-2
    )


def test_several_pairs_are_averaged_or_kept(tiny):
    clean = ["The capital of France is", "The capital of Japan is"]
    corrupted = ["The capital of England is", "The capital of Italy is"]
    targets = [(" Paris", " London"), (" Tokyo", " Rome")]
    alone = [
        tiny.activation_patching(a, b, "attn", metric="logit_diff", targets=t)
        for a, b, t in zip(clean, corrupted, targets, strict=True)
    ]
    given = {"metric": "logit_diff", "targets": targets}
    kept = tiny.activation_patching(clean, corrupted, "attn", average=False, **given)
    mean = tiny.activation_patching(clean, corrupted, "attn", **given)
    assert kept.dims == ("pair", "layer") and isinstance(mean, Recovery)
    near(kept, np.stack([np.asarray(one) for one in alone]))
    near(mean, np.mean([np.asarray(one) for one in alone], axis=0))
    with pytest.raises(InputError, match="2 clean texts and 1"):
        tiny.activation_patching(clean, corrupted[:1], "attn")
    columns = np.array(clean), np.array(corrupted, dtype=object)
    assert tiny.activation_patching(*columns, "attn", **given) == mean
    ids = mx.array([[tiny.single_token(word) for word in pair] for pair in targets])
    given["targets"] = ids
    as_array = tiny.activation_patching(clean, corrupted, "attn", **given, average=False)
    assert as_array.isel(pair=1).values.tolist() == alone[1].values.tolist()
    with pytest.raises(InputError, match="1 pairs of targets for 2"):
        tiny.activation_patching(clean, corrupted, "attn", metric="logit_diff", targets=targets[:1])
    longer = ["The big capital of France is", clean[1]], ["The big capital of England is", clean[0]]
    with pytest.raises(InputError, match="different lengths"):
        tiny.activation_patching(*longer, "attn", positions="all")
    assert tiny.activation_patching(*longer, "attn", positions=-1).dims == ("layer",)


@pytest.mark.parametrize("align", ["start", "end"])
def test_positions_of_texts_of_other_lengths(tiny, align):
    clean, corrupted = tiny.encode(TEXTS[0]), tiny.encode("The big capital of England is")
    found = tiny.activation_patching(clean, corrupted, "output", positions="all", align=align)
    shift = 1 if align == "end" else 0
    assert found.axes["position"] == tuple(range(shift, shift + len(clean)))
    kept, best, worst = runs(tiny, "output", clean, corrupted)
    norm = mx.linalg.norm
    whole = norm(worst - best).item()
    for layer in (1, 4):
        for position in found.axes["position"]:
            with tiny.trace(mx.array([corrupted])):
                own = kept[layer][:, position - shift]
                tiny.layers[layer].output[:, position] = own
                logits = tiny.output[0, -1].save()
            expected = 100 * (whole - norm(logits - best).item()) / whole
            assert found.item(layer=layer, position=position) == pytest.approx(expected, abs=1e-2)
    with pytest.raises(LengthsError):
        tiny.activation_patching(clean, corrupted, "output", positions="all")
    with pytest.raises(InputError, match="no counterpart"):
        tiny.activation_patching(
            clean, corrupted, positions=[0 if align == "end" else -1], align=align
        )


def test_edits_that_stay_are_made_once(tiny):
    with tiny.edit() as edited:
        tiny.layers[1].mlp.output *= 0.5
    clean, corrupted = (tiny.encode(text) for text in TEXTS)
    found = edited.activation_patching(*TEXTS, "attn", normalize=False, metric=diff)
    kept, _, _ = runs(edited, "attn", clean, corrupted)
    whole = (slice(None),)
    expected = [diff(by_hand(edited, "attn", k, whole, kept[k], corrupted)) for k in range(6)]
    near(found, expected)
    plain = tiny.activation_patching(*TEXTS, "attn", normalize=False, metric=diff)
    assert np.abs(np.asarray(plain) - np.asarray(found)).max() > 1e-3


def test_a_model_that_returns_an_object_is_scored_by_its_logits():
    from tests import models, object_models

    llama = models.make_llama()
    plain, model = (
        mg.InterpretableModel(llama),
        mg.InterpretableModel(object_models.Assistant(llama)),
    )
    given = {"positions": "all", "metric": diff, "normalize": False}
    near(
        model.activation_patching(CLEAN, CORRUPTED, "attn", **given),
        plain.activation_patching(CLEAN, CORRUPTED, "attn", **given),
    )


def test_a_stopped_map_keeps_what_is_done(tiny, monkeypatch):
    seen = []

    def stop(logits):
        seen.append(logits)
        return logits[0]

    whole = tiny.activation_patching(*TEXTS, "attn", positions="all", metric=stop, normalize=False)

    from mlxgraph.sweep.schedule import Schedule

    done = Schedule.steps

    def one_step(self):
        yield next(done(self))
        raise KeyboardInterrupt

    monkeypatch.setattr(Schedule, "steps", one_step)
    with pytest.raises(SweepStopped) as caught:
        tiny.activation_patching(
            *TEXTS, "attn", positions="all", metric=stop, normalize=False, batch_size=4
        )
    found = np.asarray(caught.value.result)
    there = ~np.isnan(found)
    assert found.shape == (6, 6) and 0 < there.sum() < 36
    assert np.abs(found - np.asarray(whole))[there].max() < 1e-3


def test_the_result_is_a_dict_and_effects(tiny):
    found = tiny.activation_patching(*TEXTS, "attn")
    assert isinstance(found, dict) and isinstance(found, mg.Effects)
    assert [*found.values()] == found.values.tolist() == [found[k] for k in range(6)]
    assert found.unit == "%" and found.name == "recovery" and found.dims == ("layer",)
    assert found.sel(layer=2) is not None and float(found.sel(layer=2)) == found[2]
    assert found.argmax() == {"layer": max(found, key=found.get)}
