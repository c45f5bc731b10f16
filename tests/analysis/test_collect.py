"""Collection: every prompt's own positions, whatever else is in its batch."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlxgraph import batch_get_activations, get_activations
from mlxgraph.errors import (
    BoundsError,
    InputError,
    NoTokenizerError,
    PositionError,
    ShapeError,
)
from tests.models import WIDTH, same

PROMPTS = ["The capital of France is", "Hello", "I love this movie a lot", "The cat sleeps"]
ROWS = [[1, 7, 3, 9, 4], [2, 5], [8, 8, 1], [3]]


@pytest.mark.parametrize("positions", [-1, 0, [0, -1], [-1], [-2, 1, 0]])
def test_each_row_is_its_prompt_alone(tiny, positions):
    prompts = [p for p in PROMPTS if len(tiny.encode(p)) > 1]
    together = get_activations(tiny, prompts, positions=positions)
    assert list(together) == [f"layer_{n}" for n in range(6)]
    for row, prompt in enumerate(prompts):
        with tiny.trace(prompt) as trace:
            pass
        for layer in (0, 3, 5):
            alone = trace.activations[f"layers.{layer}"][0]
            wanted = alone[positions] if isinstance(positions, int) else alone[mx.array(positions)]
            assert same(together[f"layer_{layer}"][row], wanted, 1e-5)


def test_shapes_are_as_documented(tiny):
    assert get_activations(tiny, "Hello world", layers=[3])["layer_3"].shape == (1, 128)
    assert get_activations(tiny, PROMPTS, layers=[5])["layer_5"].shape == (4, 128)
    both = get_activations(tiny, "Test prompt", layers=[3], positions=[0, -1])["layer_3"]
    assert both.shape == (1, 2, 128)
    assert get_activations(tiny, "Hello", layers=[2, -1]).keys() == {"layer_2", "layer_5"}


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
@pytest.mark.parametrize("positions", [-1, [0, -1]])
def test_batches_give_what_one_forward_gives_in_the_order_given(llama, batch_size, positions):
    whole = get_activations(llama, ROWS, positions=positions)
    parts = batch_get_activations(llama, ROWS, positions=positions, batch_size=batch_size)
    assert whole.keys() == parts.keys()
    for name in whole:
        assert same(whole[name], parts[name], 1e-5)
    first = whole["layer_0"]
    assert not same(first[0], first[1], 1e-2), "rows must differ for the order to show"


def test_ids_rows_and_arrays_are_prompts(llama):
    row = get_activations(llama, ROWS[0])["layer_1"]
    for given in ([ROWS[0]], mx.array(ROWS[0]), mx.array([ROWS[0]]), np.array([ROWS[0]])):
        assert same(get_activations(llama, given)["layer_1"], row)


def test_float_inputs_of_custom_models(chain, x):
    found = get_activations(chain, x, positions=[0, -1])["layer_2"]
    with chain.trace(x):
        expected = chain.layers[2].output.save()
    assert same(found, expected[:, mx.array([0, -1])])
    assert same(batch_get_activations(chain, x, batch_size=1)["layer_2"], expected[:, -1], 1e-6)
    with pytest.raises(ShapeError, match="no positions"):
        get_activations(chain, [mx.ones((6,))])


def test_nothing_is_left_to_compute(llama):
    """The arrays are computed, so that no batch's forward hangs on to its memory."""
    found = batch_get_activations(llama, ROWS, batch_size=2)
    before = mx.get_active_memory()
    mx.eval(found)
    assert mx.get_active_memory() == before
    with llama.trace(ROWS):  # the control: what a block saves is still to be computed
        lazy = [layer.output[:, -1].save() for layer in llama.layers]
    before = mx.get_active_memory()
    mx.eval(lazy)
    assert mx.get_active_memory() > before


def test_a_position_that_a_prompt_lacks_raises_before_anything_runs(llama, monkeypatch):
    calls = []
    real = nn.Embedding.__call__
    monkeypatch.setattr(
        nn.Embedding, "__call__", lambda self, ids: calls.append(ids.shape) or real(self, ids)
    )
    with pytest.raises(PositionError, match="position 2 is outside prompt 1, which has 2 tokens"):
        get_activations(llama, ROWS, positions=[0, 2])
    with pytest.raises(IndexError, match="prompt 3"):
        batch_get_activations(llama, ROWS, positions=-2, batch_size=2)
    assert not calls
    llama.refresh()  # the control: nothing is known of the model, and so it runs in Python
    batch_get_activations(llama, ROWS, batch_size=2)
    assert calls


def test_arguments_without_meaning_raise(llama):
    with pytest.raises(InputError, match="no prompts"):
        get_activations(llama, [])
    with pytest.raises(InputError, match="batch_size is 0"):
        batch_get_activations(llama, ROWS, batch_size=0)
    with pytest.raises(BoundsError):
        get_activations(llama, ROWS, layers=[3])
    with pytest.raises(NoTokenizerError):
        get_activations(llama, "text")


def test_the_bar_comes_when_asked_and_stays_away_from_pipes(llama, capsys):
    batch_get_activations(llama, ROWS * 4, batch_size=2)
    assert capsys.readouterr().err == ""
    batch_get_activations(llama, ROWS, batch_size=2, progress=True)
    shown = capsys.readouterr()
    assert "4/4" in shown.err and shown.out == ""
    get_activations(llama, ROWS * 8)
    assert capsys.readouterr().err == ""


def test_memory_does_not_grow_with_the_number_of_prompts(llama):
    """Peak memory above the result itself, for 16 and for 256 prompts."""
    rows = [[(7 * n + k) % 50 for k in range(24)] for n in range(256)]

    def peak(count):
        batch_get_activations(llama, rows[:count], batch_size=8)  # compile first
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        found = batch_get_activations(llama, rows[:count], batch_size=8)
        result = sum(array.nbytes for array in found.values())
        return mx.get_peak_memory() - before, result

    few, _ = peak(16)
    many, result = peak(256)
    assert result == 256 * 3 * WIDTH * 4
    assert many - 2 * result < 1.5 * few, (few, many, result)
