"""Which axis positions are is found: not by its place, and not because the numbers agree.

The reference is the edit by hand in a block, or each text alone.  Gemma 3n passes on several
streams, stacked: (streams, batch, length, width).
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import ShapeError
from tests.architectures import configs
from tests.models import HEADS, make_llama, same

ROWS = [[7, 21, 3, 88, 40], [5, 63], [12, 9, 4]]
TWO = [[7, 21], [5, 63]]  # two streams, two texts, two tokens: all sizes agree


@pytest.fixture(scope="module")
def stacked() -> mg.InterpretableModel:
    if not configs.installed(["gemma3n"]):
        pytest.skip("this mlx-lm has no Gemma 3n")
    return mg.InterpretableModel(configs.build("gemma3n"))


@pytest.mark.parametrize("rows", [ROWS[:1], [ROWS[0], ROWS[0][::-1]], TWO])
@pytest.mark.parametrize("positions", [-1, [0, -1], slice(1, None)])
def test_an_edit_at_positions_of_stacked_streams(
    stacked: mg.InterpretableModel, rows: Any, positions: Any
):
    graph = mg.edit("layers.0", iv.scale(3.0), positions=positions)
    with stacked.trace(rows):
        stacked.layers[0].output[:, :, positions] *= 3
        by_hand = stacked.output.save()
    found = stacked.run(graph, rows).output
    assert same(found, by_hand)
    assert not same(found, stacked(mx.array(rows)), 1e-3)


@pytest.mark.parametrize("positions", [-1, 1, [0, -1], slice(1, None)])
def test_an_edit_at_positions_of_stacked_streams_of_several_lengths(
    stacked: mg.InterpretableModel, positions: Any
):
    graph = mg.edit("layers.0", iv.scale(3.0), positions=positions)
    together = stacked.run(graph, ROWS).output
    for k, row in enumerate(ROWS):
        assert same(together[k, -len(row) :], stacked.run(graph, [row]).output[0], 1e-5)


@pytest.mark.parametrize("rows", [TWO, ROWS])
def test_activations_of_stacked_streams(stacked: mg.InterpretableModel, rows: Any):
    for positions in (-1, [0, -1]):
        found = mg.get_activations(stacked, rows, [0], positions)["layer_0"]
        for k, row in enumerate(rows):
            with stacked.trace([row]):
                alone = stacked.layers[0].output[:, 0].save()
            wanted = alone[:, positions] if positions == -1 else alone[:, positions].swapaxes(0, 1)
            assert same(found[k], wanted, 1e-5)


@pytest.mark.parametrize("align", [None, "start", "end"])
@pytest.mark.parametrize("layers", [[0, 1], None])
@pytest.mark.thin(3)
def test_patching_stacked_streams(stacked: mg.InterpretableModel, align: Any, layers: Any):
    clean, corrupted = [7, 21, 3], [9, 4, 12] if align is None else [9, 4, 12, 8]
    found = stacked.activation_patching(clean, corrupted, "block", layers, align=align)
    with stacked.trace([clean]):
        kept = [layer.output.save() for layer in stacked.layers]
        right = stacked.output[0, -1].save()
    whole = mx.linalg.norm(stacked(mx.array([corrupted]))[0, -1] - right).item()
    start = 1 if align == "end" else 0
    for layer, recovery in found.items():
        with stacked.trace([corrupted]):
            stacked.layers[layer].output[:, :, start : start + 3] = kept[layer]
            logits = stacked.output[0, -1].save()
        apart = mx.linalg.norm(logits - right).item()
        assert recovery == pytest.approx(100 * (whole - apart) / whole, abs=1e-2)


def test_a_lens_on_stacked_streams_says_so(stacked: mg.InterpretableModel):
    with pytest.raises(ShapeError, match="several stacked ones"):
        stacked.logit_lens([7, 21, 3])


@pytest.mark.parametrize("length", [HEADS, HEADS + 1])
def test_heads_before_positions_in_as_many_tokens(length: int):
    """The rotary embedding is given (batch, heads, length, head dimension)."""
    model = mg.InterpretableModel(make_llama())
    rows = [list(range(3, 3 + length)), list(range(20, 20 + length))]
    with model.trace(rows):
        model.layers[1].attn.rope.output[:, :, 1] *= 3
        by_hand = model.output.save()
    graph = mg.edit("layers.1.attn.rope", iv.scale(3.0), positions=1)
    assert same(model.run(graph, rows).output, by_hand)
    ragged = [rows[0], rows[1][1:], rows[0][2:]]
    together = model.run(graph, ragged).output
    for k, row in enumerate(ragged):
        assert same(together[k, -len(row) :], model.run(graph, [row]).output[0], 1e-5)
    at = mg.get_activations(model, rows, ["layers.1.attn.rope"], 1)["layers.1.attn.rope"]
    assert at.shape == (2, HEADS, 8)


def test_a_value_with_two_axes_of_positions_has_no_one(stacked: mg.InterpretableModel):
    model = mg.InterpretableModel(make_llama())
    with pytest.raises(ShapeError, match="several axes of positions"):
        mg.get_activations(model, [[1, 2, 3]], ["layers.1.attn.pattern"])
    graph = mg.edit("layers.1.attn.ops.softmax", iv.scale(2.0), positions=0)
    heads = mg.InterpretableModel(configs.build("gemma2"))
    with pytest.raises(ShapeError, match="no one axis of positions"):
        heads.run(graph, [[1, 2, 3]])


@pytest.mark.parametrize("rows", [TWO, ROWS, [ROWS[0], ROWS[1]]])
def test_prompts_of_stacked_streams(stacked: mg.InterpretableModel, rows: Any):
    """Edits, saves, gradients, and values that flow from one prompt to the next."""

    def edited(t: Any, k: int, clean: Any) -> Any:
        stream = stacked.layers[0].output
        stream[:, :, -1] *= k + 2
        if clean is not None:
            stream[:, :, 0] = clean
        logits = stacked.output
        return logits.save(), stream.save(), t.grad(logits.sum(), stacked.layers[1].output).save()

    with stacked.trace() as t:
        found, clean = [], None
        for k, row in enumerate(rows):
            with t.invoke([row]):
                found.append(edited(t, k, clean))
                clean = stacked.layers[0].output[:, :, -1]
    clean = None
    for k, row in enumerate(rows):
        with stacked.trace([row]) as t:
            alone = edited(t, k, clean)
            clean = stacked.layers[0].output[:, :, -1].save()
        for mine, its in zip(found[k], alone, strict=True):
            assert same(mine, its, 1e-4)
        assert not same(alone[0], stacked(mx.array([row])), 1e-3)


def test_texts_in_one_prompt_of_stacked_streams(stacked: mg.InterpretableModel):
    with stacked.trace() as t:
        with t.invoke(ROWS):
            several = stacked.layers[1].output.save()
        with t.invoke([ROWS[0] + [1, 2]]):
            one = stacked.layers[1].output.save()
    for k, row in enumerate(ROWS):
        with stacked.trace([row]):
            alone = stacked.layers[1].output.save()
        assert same(several[:, k, -len(row) :], alone[:, 0], 1e-5)
    with stacked.trace([ROWS[0] + [1, 2]]):
        assert one.shape == stacked.layers[1].output.shape
