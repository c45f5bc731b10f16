"""R16: rows of several lengths in one batch equal their single runs, or the batch is refused."""

from __future__ import annotations

import importlib

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import llama as llama_models

import mlxgraph as mg
from mlxgraph.errors import InputError
from tests import models

ROWS = [[1, 2, 3, 4, 5], [7, 8], [9, 10, 11]]
COMMON = dict(
    hidden_size=32,
    num_hidden_layers=2,
    intermediate_size=64,
    num_attention_heads=4,
    num_key_value_heads=3 - 1,
    rms_norm_eps=1e-5,
    vocab_size=50,
)
KINDS = {
    "llama": COMMON,
    "gemma2": {**COMMON, "head_dim": 8},
    "gemma3_text": {**COMMON, "head_dim": 8, "sliding_window": 4, "sliding_window_pattern": 2},
    "mamba": dict(
        vocab_size=50, hidden_size=32, intermediate_size=64, state_size=8, num_hidden_layers=2,
        conv_kernel=4, use_bias=False, use_conv_bias=True, time_step_rank=4,
    ),
    "gpt2": dict(
        n_ctx=32, n_embd=32, n_head=4, n_layer=2, n_positions=32, layer_norm_epsilon=1e-5,
        vocab_size=50,
    ),
}  # fmt: skip


def make(kind: str):
    module = importlib.import_module(f"mlx_lm.models.{kind}")
    mx.random.seed(0)
    model = module.Model(module.ModelArgs.from_dict({"model_type": kind, **KINDS[kind]}))
    mx.eval(model.parameters())
    return mg.InterpretableModel(model, layer_attr="h" if kind == "gpt2" else "layers")


class Encoder(nn.Module):
    """Every token sees every other: what comes after a row is in its numbers."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.layers = [nn.Linear(8, 8)]

    def __call__(self, tokens, cache=None):
        h = self.embed(tokens)
        return self.layers[0](h) + h.mean(axis=1, keepdims=True)


def apart(model, out, rows):
    """How far each row of a padded batch is from its single run."""
    alone = [model.module(mx.array([row]))[0] for row in rows]
    return [
        float(mx.abs(out[k, -len(row) :] - want).max())
        for k, (row, want) in enumerate(zip(rows, alone, strict=True))
    ]


@pytest.mark.parametrize("rows", [ROWS[:2], ROWS])
@pytest.mark.parametrize("kind", KINDS)
def test_each_row_equals_its_single_run(kind, rows):
    model = make(kind)
    with model.trace(rows) as t:
        out = model.output.save()
    assert list(t.lengths) == [len(row) for row in rows]
    assert max(apart(model, out, rows)) < 1e-4


def test_a_batch_that_a_model_can_neither_mask_nor_turn_is_refused():
    model = mg.InterpretableModel(Encoder())
    with pytest.raises(InputError, match="one by one, or give texts of one length"):
        with model.trace(ROWS):
            model.output.save()
    with model.trace(ROWS[:1]):
        assert model.output.shape == (1, 5, 8)


class Gated(nn.Module):
    """Positions that see all others, times a weight that is 0 at first."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 8), nn.Linear(8, 50)
        self.layers = [nn.Linear(8, 8)]
        self.gate = mx.zeros((1,))

    def __call__(self, ids, cache=None):
        x = mx.tanh(self.layers[0](self.embed(ids)))
        return self.head(x + self.gate * x.mean(axis=1, keepdims=True))


def test_a_weight_of_zeros_hides_no_padding():
    """It is asked once, and weights change, in place too: then rows would see their padding."""
    model = mg.InterpretableModel(Gated())
    for _ in range(2):
        with pytest.raises(InputError, match="one by one, or give texts of one length"):
            with model.trace(ROWS):
                model.output.save()
        model.module.gate[:] = 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_mask_the_rows_are_wrong(kind):
    """The control: of each model, the padded rows with nothing hidden give other numbers."""
    model = make(kind)
    padded = mx.array([[0] * (5 - len(row)) + row for row in ROWS])
    assert min(apart(model, model.module(padded), ROWS)[1:]) > 1e-2


def test_the_last_position_is_every_rows_last_token(tied):
    with tied.trace(ROWS) as t:
        h = tied.layers[1].output[:, -1].save()
        logits = tied.output[:, -1].save()
    assert t.tokens.shape == (3, 5)
    for k, row in enumerate(ROWS):
        with tied.trace(row):
            alone = tied.layers[1].output[:, -1].save()
            alone_logits = tied.output[:, -1].save()
        assert models.same(h[k : k + 1], alone, 1e-4)
        assert models.same(logits[k : k + 1], alone_logits, 1e-4)


def test_one_compiled_pass_serves_every_mixture_of_lengths(tied):
    before = tied.compilations
    for rows in (ROWS, [ROWS[1], ROWS[0], ROWS[2]], [[3, 4], [5, 6, 7, 8, 9], [1]]):
        with tied.trace(rows, compile=True):
            tied.layers[0].output[:, -1] += 1.0
            out = tied.output[:, -1].save()
        for k, row in enumerate(rows):
            with tied.trace(row, compile=False):
                tied.layers[0].output[:, -1] += 1.0
                alone = tied.output[:, -1].save()
            assert models.same(out[k : k + 1], alone, 1e-4)
    assert tied.compilations == before + 1


def test_lengths_without_a_cache_to_hide_them_are_refused():
    model = mg.InterpretableModel(models.make_llama(True))
    with pytest.raises(InputError) as caught:
        with model.trace(ROWS, cache=[None] * 3):
            raise AssertionError("the block must not begin")
    assert "cache" in str(caught.value) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize("how", ["vmap", "compile", "grad"])
def test_whether_a_model_masks_is_asked_later_where_its_weights_are_followed(fresh, how):
    rows, norm = ROWS[:2], fresh.module.model.norm
    weight = norm.weight * 2

    def total(given):
        kept, norm.weight = norm.weight, given
        try:
            with fresh.trace(rows):
                out = fresh.output[:, -1].save()
            return out.sum()
        finally:
            norm.weight = kept

    given = weight[None] if how == "vmap" else weight
    inside = {"vmap": mx.vmap(total), "compile": mx.compile(total)}.get(
        how, lambda w: mx.value_and_grad(total)(w)[0]
    )(given)
    assert mx.allclose(inside, total(weight), rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_of_the_text_alone_has_the_slopes_of_single_runs(kind):
    """A loss of all columns counts the padding in, whose values mean nothing."""
    model = make(kind)

    def slope(rows, masked=True):
        with model.trace(rows) as t:
            logits, length = model.output, max(t.lengths)
            is_text = mx.arange(length) >= length - mx.array(t.lengths)[:, None]
            kept = mx.where(is_text[..., None], logits, 0) if masked else logits
            return t.grad((kept * kept).sum(), model.layers[0].output).save()

    together = slope(ROWS)
    for k, row in enumerate(ROWS):
        alone = slope([row], masked=False)[0]
        size = mx.abs(alone).max().item()
        assert size > 0
        assert mx.abs(together[k, -len(row) :] - alone).max().item() < 1e-4 * size


def test_positions_that_depend_on_the_longest_text_share_no_batch():
    args = llama_models.ModelArgs(
        model_type="llama", hidden_size=32, num_hidden_layers=2, intermediate_size=64,
        num_attention_heads=4, num_key_value_heads=4, rms_norm_eps=1e-5, vocab_size=50,
        max_position_embeddings=20, rope_scaling={"rope_type": "dynamic", "factor": 4.0},
    )  # fmt: skip
    model = mg.InterpretableModel(llama_models.Model(args))
    short, long = [1, 2, 3, 4, 5], [k % 49 + 1 for k in range(30)]
    alone = mg.batch_get_activations(model, [short], [1], positions="all")["layer_1"][0]
    rows = [short, long[:20]]
    near = mg.batch_get_activations(model, rows, [1], positions="all", batch_size=2)["layer_1"]
    assert mx.allclose(near[0], alone, atol=1e-4)
    for refused in (
        lambda: model.trace([short, long]),
        lambda: mg.batch_get_activations(model, [short, long], [1], positions="all", batch_size=2),
    ):
        with pytest.raises(InputError, match="beyond 20 this model's positions depend"):
            refused()
    each = mg.batch_get_activations(model, [short, long], [1], positions="all", batch_size=1)
    assert mx.allclose(each["layer_1"][0], alone, atol=1e-4)
