"""Law: scores in blocks are the scores; of a long text and a large vocabulary few are held at once.

The blocks are made small here.  What they bound is measured against the bare forward, whose logits
are the control, and the models are ones whose head is not the last word too.
"""

from __future__ import annotations

import gc

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models import llama

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.analysis import unembed, written_stream
from mlxgraph.run import prefix
from mlxgraph.trace import reuse_layers
from tests.analysis.test_patching_maps import made
from tests.models import make_llama

IDS = [3, 17, 5, 9, 22, 4]
MIB = 1 << 20
LENGTH, VOCABULARY = 512, 8192  # logits of 16 MiB, squares of one


class MixesLate(nn.Module):
    """A Llama behind whose layers each position hears of the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.model = make_llama()
        self.layers = self.model.layers
        self.norm = nn.RMSNorm(32)

    def __call__(self, tokens: mx.array) -> mx.array:
        h = self.model.model.embed_tokens(tokens)
        for layer in self.layers:
            h = layer(h, "causal")
        h = h + mx.pad(h[:, :-1], [(0, 0), (1, 0), (0, 0)])
        return self.model.model.embed_tokens.as_linear(self.norm(h))


def edited(path: str, positions: list[int] | None = None) -> mg.InterpretableModel:
    model = mg.InterpretableModel(make_llama())
    return model.edit(mg.edit(path, iv.scale(-0.5), positions=positions))


MODELS = {
    "tied": lambda: mg.InterpretableModel(make_llama()),
    "untied": lambda: mg.InterpretableModel(make_llama(tied=False)),
    "capped": lambda: made("gemma2"),
    "edited at positions": lambda: edited("layers.0.mlp", [1, 4]),
    "with an edit of its norm": lambda: edited("model.norm"),
    "mixing late": lambda: mg.InterpretableModel(MixesLate(), layer_attr="layers"),
}


@pytest.fixture
def few(monkeypatch):
    """Blocks of two rows of 50 scores."""

    def few() -> None:
        monkeypatch.setattr(unembed, "MOST_SCORES", 100)
        monkeypatch.setattr(written_stream, "MOST_SCORES", 100)

    return few


LENSES = {
    "all": {},
    "one position": {"position": 2},
    "some": {"position": [4, 0, 2], "layers": [2, 0], "token": 7},
    "the last layer": {"layers": [-1], "top_k": 3},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_lens_in_blocks_is_the_lens(few, name):
    model = MODELS[name]()
    whole = {asked: model.logit_lens(IDS, **given) for asked, given in LENSES.items()}
    with model.trace(mx.array([IDS])):
        logits = model.output[0].save()
    few()
    for asked, given in LENSES.items():
        found = model.logit_lens(IDS, **given)
        assert list(found) == list(whole[asked])
        for numbers in ("score", "probability", "entropy"):
            own, known = (np.asarray(getattr(e, numbers)) for e in (found, whole[asked]))
            assert np.allclose(own, known, rtol=1e-4, atol=1e-5)
    own = model.logit_lens(IDS, layers=[-1])
    last = [best[0][1] for best in next(iter(own.values()))]
    assert np.allclose(last, np.array(logits).max(axis=-1), rtol=1e-5)


def test_what_mixes_positions_behind_the_layers_is_found_out():
    model = MODELS["mixing late"]()
    with model.trace(mx.array([IDS])):
        state = model.layers[-1].output[0, -1].save()
        logits = model.output[0, -1].save()
    assert not unembed.are_scores_of(model, state, logits)
    plain = MODELS["tied"]()
    with plain.trace(mx.array([IDS])):
        state = plain.layers[-1].output[0, -1].save()
        logits = plain.output[0, -1].save()
    assert unembed.are_scores_of(plain, state, logits)
    assert not unembed.are_scores_of(plain, state, logits + 0.1)


@pytest.mark.parametrize("position", [-1, "all", [4, 1]])
def test_direct_attribution_in_blocks_is_that_of_all_logits(few, position):
    for name in ("untied", "capped", "edited at positions"):
        model = MODELS[name]()
        whole = model.direct_logit_attribution(IDS, [7, 8], position=position)
        few()
        found = model.direct_logit_attribution(IDS, [7, 8], position=position)
        assert found.axes == whole.axes
        assert np.allclose(np.asarray(found), np.asarray(whole), atol=1e-5)
        assert np.allclose(found.attrs["model_logit"], whole.attrs["model_logit"], atol=1e-5)


def test_predictions_of_many_states_are_each_ones(few):
    model = MODELS["untied"]()
    states = mx.random.normal((7, 32), key=mx.random.key(0))
    whole = model.get_token_predictions(states, top_k=3, return_scores=True)
    few()
    for one, other in zip(model.get_token_predictions(states, 3, True), whole, strict=True):
        assert [token for token, _ in one] == [token for token, _ in other]
        assert [score for _, score in one] == pytest.approx([s for _, s in other], abs=1e-4)


@pytest.fixture(scope="module")
def large() -> mg.InterpretableModel:
    """Two layers of width 16, one head, a large vocabulary."""
    mx.random.seed(0)
    module = llama.Model(
        llama.ModelArgs(
            model_type="llama", hidden_size=16, num_hidden_layers=2, intermediate_size=32,
            num_attention_heads=1, num_key_value_heads=1, rms_norm_eps=1e-5, vocab_size=VOCABULARY,
        )
    )  # fmt: skip
    mx.eval(module.parameters())
    return mg.InterpretableModel(module)


TEXT = [*range(LENGTH)]
STATES = mx.random.normal((LENGTH, 16), key=mx.random.key(1))
BOUNDED = {
    "a lens": lambda m: m.logit_lens(TEXT, top_k=2),
    "a lens at one position": lambda m: m.logit_lens(TEXT, position=-1),
    "a lens at two": lambda m: m.logit_lens(TEXT, position=[0, -1]),
    "predictions": lambda m: m.get_token_predictions(STATES, top_k=3),
    "direct attribution": lambda m: m.direct_logit_attribution(TEXT, 7),
    "direct attribution at all": lambda m: m.direct_logit_attribution(TEXT, 7, position="all"),
    "patching": lambda m: m.activation_patching(
        TEXT, [*TEXT[:-1], 0], layers=[1], positions=[-1], normalize=False
    ),
    "an edit behind a kept beginning": lambda m: mx.eval(
        m.run(
            mg.edit("layers.1", iv.scale(0.5), positions=-1) >> mg.read("layers.1", "h"),
            mx.array([TEXT]), reuse=True,
        ).saves["h"]
    ),
}  # fmt: skip


def peak(use) -> int:
    """Bytes at most above what is held before."""
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    use()
    return mx.get_peak_memory() - before


@pytest.mark.parametrize("name", BOUNDED)
def test_of_a_long_text_not_all_logits_are_held(large, monkeypatch, name):
    """Control: the bare forward does hold them."""
    for module in (unembed, written_stream):
        monkeypatch.setattr(module, "MOST_SCORES", 2**17)
    for module in (prefix, reuse_layers):
        monkeypatch.setattr(module, "LARGE", 2**17)
    model = mg.InterpretableModel(large.module)  # nothing is known of it yet
    assert peak(lambda: BOUNDED[name](model)) < 9 * MIB
    if name == "a lens":
        assert peak(lambda: mx.eval(large.module(mx.array([TEXT])))) > 16 * MIB


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba", "gemma3_text"])
def test_whether_a_beginning_is_kept_does_not_depend_on_how_it_is_tried(monkeypatch, name):
    reasons = []
    for count in (2**22, 0):
        monkeypatch.setattr(prefix, "LARGE", count)
        model = made(name) if name != "llama" else mg.InterpretableModel(make_llama())
        runner = model._engine.runner
        with model.trace(mx.array([IDS])) as trace:
            pass
        reasons.append(prefix.why_no_prefix(runner, trace._call))
    assert reasons[0] == reasons[1]
    assert (reasons[0] == "") == (name != "mamba")
