"""Forwards that begin at a later token of a text whose first run is known."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph.run.call import describe_call
from mlxgraph.run.prefix import Prefix, prefix_of, why_no_prefix
from mlxgraph.trace.forwards import text_call
from tests import models
from tests.architectures import configs
from tests.architectures.states import first_array

LENGTH = 8
TOKENS = mx.array([[7, 21, 3, 18, 40, 9, 33, 2], [5, 5, 30, 1, 0, 41, 12, 8]])
IDS = st.integers(0, models.VOCABULARY - 1)


def engine_of(module):
    return mg.InterpretableModel(module)._engine


def call_on(tokens):
    return describe_call((tokens,), {}, tokens=tokens, lengths=[tokens.shape[1]] * len(tokens))


def prefix(module, tokens) -> Prefix:
    found = prefix_of(engine_of(module).runner, call_on(tokens))
    assert isinstance(found, Prefix), found
    return found


def off(one, other):
    assert one.shape == other.shape
    return (mx.abs(one - other).max() / mx.abs(other).max()).item()


@given(st.integers(1, LENGTH - 1), st.integers(1, 3), st.lists(IDS, min_size=48, max_size=48))
def test_what_follows_a_prefix_is_as_in_the_whole_text(tied, start, copies, ids):
    module = tied._engine.root
    kept = prefix(module, TOKENS)
    texts = mx.array(ids[: copies * 2 * LENGTH]).reshape(copies * 2, LENGTH)
    texts = mx.concatenate([mx.tile(TOKENS[:, :start], (copies, 1)), texts[:, start:]], axis=1)
    found = module(texts[:, start:], cache=kept.caches(start))
    assert off(found, module(texts)[:, start:]) < 1e-5
    other = prefix(module, TOKENS[::-1]).caches(start)  # positive control: rows are told apart
    assert off(module(texts[:, start:], cache=other), found) > 1e-3


def test_the_run_of_a_prefix_is_the_plain_one(tied):
    kept = prefix(tied._engine.root, TOKENS)
    assert off(kept.output, tied._engine.root(TOKENS)) < 1e-5
    assert (kept.rows, kept.length) == TOKENS.shape
    assert len(kept.arrays) == 2 * models.LAYERS and kept.nbytes == 6 * 2 * 2 * LENGTH * 8 * 4


def test_rows_may_grow_from_layer_to_layer(tied):
    """One row below, two above that differ: as two whole runs."""
    module = tied._engine.root
    text, start = TOKENS[:1], 5
    kept = prefix(module, text)

    class Grows(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self.use_sliding = False

        def __call__(self, x, *args, **kwargs):
            y = self.inner(x, *args, **kwargs)
            return mx.concatenate([y, y.at[:, -1].add(1.0)])

    wanted = []
    for by in (0.0, 1.0):
        with tied.trace(text):
            tied.layers[1].output[:, -1] += by
            wanted.append(tied.output.save())
    block, layers = module.model.layers[1], module.model.layers
    layers[1] = Grows(block)
    try:
        found = module(text[:, start:], cache=kept.caches(start))
    finally:
        layers[1] = block
    assert off(found, mx.concatenate(wanted)[:, start:]) < 1e-5
    assert off(found[:1], found[1:]) > 1e-3


@pytest.mark.parametrize("start", [0, LENGTH, -1])
def test_a_forward_begins_inside_the_text(tied, start):
    with pytest.raises(ValueError, match="cannot begin"):
        prefix(tied._engine.root, TOKENS).caches(start)


def test_half_precision_and_quantised_models():
    half = models.make_llama()
    half.set_dtype(mx.bfloat16)
    found = prefix(half, TOKENS).caches(5)
    whole = half(TOKENS)[:, 5:].astype(mx.float32)
    assert off(half(TOKENS[:, 5:], cache=found).astype(mx.float32), whole) < 0.03
    four = models.make_llama()
    nn.quantize(four, group_size=32, bits=4)
    found = prefix(four, TOKENS).caches(5)
    assert off(four(TOKENS[:, 5:], cache=found), four(TOKENS)[:, 5:]) < 1e-4


# -- where there is none --------------------------------------------------------------------------


def reason(module, call=None):
    return why_no_prefix(engine_of(module).runner, text_call(LENGTH) if call is None else call)


def test_calls_that_are_not_of_tokens_alone(tied):
    module = tied._engine.root
    assert "more than token ids" in reason(module, describe_call((mx.zeros((1, 4, 6)),), {}))
    assert "one token" in reason(module, text_call(1))
    cached = call_on(TOKENS)._replace(kwargs={"cache": None})
    assert "more than token ids" in reason(module, cached)
    assert "several lengths" in reason(module, call_on(TOKENS)._replace(lengths=[8, 3]))


class NotCausal(nn.Module):
    """Takes caches, and gives the last token a mean over all that it is given."""

    def __init__(self):
        super().__init__()
        self.inner = models.make_llama()
        self.layers = self.inner.layers

    def __call__(self, tokens, cache=None):
        y = self.inner(tokens, cache=cache)
        return y + y.mean(axis=1, keepdims=True)


class Forgetful(NotCausal):
    """Takes caches and does not use them."""

    def __call__(self, tokens, cache=None):
        return self.inner(tokens)


class Constant(NotCausal):
    """Gives the same, whatever the tokens are."""

    def __call__(self, tokens, cache=None):
        return 0.0 * self.inner(tokens, cache=cache) + 1.0


class Noisy(NotCausal):
    """Draws numbers in its forward."""

    def __call__(self, tokens, cache=None):
        y = self.inner(tokens, cache=cache)
        return y + mx.random.normal(y.shape)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (NotCausal, "other numbers"),
        (Forgetful, "not run on a part|other numbers"),
        (Constant, "does not tell tokens apart"),
        (Noisy, "random"),
    ],
)
def test_models_for_which_it_is_not_so(kind, said):
    import re

    assert re.search(said, reason(kind()))
    assert not reason(models.make_llama())  # positive control


@pytest.mark.parametrize("name", configs.installed(["mamba", "llama4", "gemma3"]))
def test_models_whose_layers_keep_something_else(name):
    said = {"mamba": "ArraysCache", "llama4": "ChunkedKVCache", "gemma3": "a window of 6"}
    assert said[name] in reason(configs.build(name))


def test_a_window_that_is_long_enough_is_none():
    (name,) = configs.installed(["gemma3"])
    assert not reason(configs.build(name), text_call(6))


@pytest.mark.parametrize("length", [2, 3, 4, 40])
def test_texts_of_any_length(tied, length):
    assert not reason(tied._engine.root, text_call(length))


def test_it_is_tried_once_and_forgotten_with_the_tree(tied, monkeypatch):
    from mlxgraph.run import prefix as page

    tries = []
    real = page._agrees
    monkeypatch.setattr(page, "_agrees", lambda *args: tries.append(1) or real(*args))
    module = models.make_llama()
    runner = engine_of(module).runner
    for _ in range(2):
        assert not why_no_prefix(runner, text_call(LENGTH))
    assert len(tries) == 1
    assert not why_no_prefix(runner, text_call(LENGTH + 1)) and len(tries) == 2
    assert not why_no_prefix(runner, text_call(300)) and len(tries) == 3
    assert not why_no_prefix(runner, text_call(500)) and len(tries) == 3
    module.model.layers[0].mlp.up_proj = nn.Linear(models.WIDTH, 64, bias=False)
    runner.refresh()
    assert not why_no_prefix(runner, text_call(LENGTH)) and len(tries) == 4


# -- all of mlx-lm --------------------------------------------------------------------------------

WITHOUT = """
    baichuan_m1 bailing_hybrid bailing_moe_linear bailing_moe_v3 deepseek_v41 falcon_h1 gemma3n
    granitemoehybrid jamba kimi_k3 kimi_linear lfm2 lfm2-vl lfm2_moe llama4 longcat_flash_ngram
    mamba mamba2 nemotron_h olmo_hybrid plamo2 qwen3_5 qwen3_5_moe qwen3_next recurrent_gemma rwkv7
""".split()
SHORT = 6  # the windows of the test configurations are as long
KNOWN = configs.installed(configs.KNOWN.split())


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_every_architecture_of_mlx_lm(name):
    """Two texts that part at each token, as one batch from there on, are as in whole forwards."""
    module = configs.build(name)
    text = mx.array([[7, 21, 3, 18, 40, 9]])
    found = prefix_of(engine_of(module).runner, call_on(text))
    assert isinstance(found, str) == (name in WITHOUT), found
    if isinstance(found, str):
        return
    for start in range(1, SHORT):
        others = mx.array([[7, 21, 3, 18, 40, 9], [7, 21, 3, 18, 40, 9], [1, 2, 30, 4, 5, 33]])
        texts = mx.concatenate([mx.tile(text[:, :start], (3, 1)), others[:, start:]], axis=1)
        part = first_array(module(texts[:, start:], cache=found.caches(start)))
        for row in range(3):
            whole = first_array(module(texts[row : row + 1]))[0, start:]
            assert off(part[row], whole) < 1e-4


def test_of_how_many_there_is_one():
    assert len(KNOWN) - len(WITHOUT) >= 95
