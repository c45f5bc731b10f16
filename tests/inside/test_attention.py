"""Inside attention: the laws that its values obey, on real architectures."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models.cache import KVCache, make_prompt_cache

import mlxgraph as mg
from mlxgraph import interventions as iv
from tests.architectures import configs

TOKENS = [7, 21, 3, 88, 40, 5, 63, 12, 9, 30]
LENGTH = len(TOKENS)
NAMES = ("queries", "keys", "values", "scores", "pattern", "heads")
# name -> a layer with attention, and what its output projection is called
ARCHITECTURES = {
    "llama": (1, "o_proj"),
    "qwen3": (1, "o_proj"),
    "gemma2": (1, "o_proj"),  # written out by hand, with soft caps
    "gemma3_text": (0, "o_proj"),  # a sliding window
    "olmo2": (1, "o_proj"),
    "phi3": (1, "o_proj"),
    "gpt_oss": (0, "o_proj"),  # sinks, and a sliding window
    "deepseek_v2": (1, "o_proj"),  # latent attention
    "deepseek_v3": (1, "o_proj"),
    "granitemoehybrid": (1, "o_proj"),
    "lfm2": (1, "out_proj"),
    "jamba": (1, "o_proj"),
}
WINDOWED = ("gemma3_text", "gpt_oss")
SINKS = ("gpt_oss",)


class Case:
    def __init__(self, name: str):
        self.name = name
        self.layer, self.projection = ARCHITECTURES[name]
        self.module = configs.build(name)
        self.model = mg.InterpretableModel(self.module)
        self.tokens = mx.array([TOKENS])
        self.plain = self.module(self.tokens)

    @property
    def attn(self):
        return self.model.layers[self.layer].attn

    def trace(self, **options):
        return self.model.trace(self.tokens, **options)


@pytest.fixture(scope="module", params=[*ARCHITECTURES])
def case(request) -> Case:
    return Case(request.param)


def same(a, b):
    return a.shape == b.shape and bool(mx.array_equal(a, b))


def close(a, b, tolerance=2e-6):
    return a.shape == b.shape and bool(mx.all(mx.abs(a - b) <= tolerance * (1 + mx.abs(b))))


def shared(values, heads):
    """Key-value heads, each as often as queries share it."""
    return mx.repeat(values, heads // values.shape[1], axis=1)


def read(case, **options):
    with case.trace(**options) as t:
        found = {name: getattr(case.attn, name).save() for name in NAMES}
        found["attn"] = case.attn.output.save()
        found["logits"] = case.model.output.save()
    assert t.graph.saves
    return found


@pytest.mark.thin(3)
def test_reading_changes_nothing_bit_for_bit(case):
    for name in NAMES:
        with case.trace():
            getattr(case.attn, name).save()
            logits = case.model.output.save()
        assert same(logits, case.plain), name
    assert same(read(case)["logits"], case.plain)


def test_shapes_are_batch_heads_query_key(case):
    found = read(case)
    batch, heads, length, keys = found["pattern"].shape
    assert (batch, length, keys) == (1, LENGTH, LENGTH)
    assert found["scores"].shape == found["pattern"].shape
    assert found["queries"].shape[:3] == found["heads"].shape[:3] == (batch, heads, length)
    assert found["keys"].shape[:3] == found["values"].shape[:3]
    assert heads % found["keys"].shape[1] == 0 and found["keys"].shape[2] == keys


def test_rows_sum_to_one_or_with_a_sink_to_less_and_respect_the_mask(case):
    pattern = read(case)["pattern"]
    rows = pattern.sum(axis=-1)
    if case.name in SINKS:
        assert bool(mx.all(rows < 1)) and bool(mx.all(rows > 0))
    else:
        assert close(rows, mx.ones_like(rows))
    query, key = mx.arange(LENGTH)[:, None], mx.arange(LENGTH)
    seen = key <= query
    if case.name in WINDOWED:
        seen = seen & (query - key < case.module.args.sliding_window)
        assert not bool(mx.all(seen == (key <= query)))
    assert bool(mx.all(mx.where(seen, 0.0, pattern) == 0))
    assert bool(mx.all(mx.where(seen, pattern, 1.0) > 0))


def test_the_softmax_of_scores_is_the_pattern(case):
    found = read(case)
    scores = found["scores"]
    if case.name in SINKS:
        sinks = case.module.layers[case.layer].self_attn.sinks
        column = mx.broadcast_to(sinks[:, None, None], (*scores.shape[:-1], 1))
        scores = mx.concatenate([scores, column], axis=-1)
        assert close(mx.softmax(scores, axis=-1)[..., :-1], found["pattern"])
    else:
        assert close(mx.softmax(scores, axis=-1), found["pattern"])
    assert not close(mx.softmax(2 * scores, axis=-1)[..., :LENGTH], found["pattern"], 1e-3)


def test_the_pattern_on_values_is_heads(case):
    found = read(case)
    heads = found["pattern"] @ shared(found["values"], found["pattern"].shape[1])
    assert close(heads, found["heads"])
    assert not close(heads[:, ::-1], found["heads"], 1e-3)


def test_heads_through_the_output_projection_are_the_output(case):
    found = read(case)
    flat = found["heads"].transpose(0, 2, 1, 3).reshape(1, LENGTH, -1)
    projection = getattr(case.attn, case.projection)
    assert close(projection(flat), found["attn"])
    assert not close(projection(flat[..., ::-1]), found["attn"], 1e-3)


def test_scores_are_scaled_products_of_queries_and_keys_where_the_mask_lets_them(case):
    if case.name == "gemma2" or case.name.startswith("deepseek"):
        pytest.skip("soft caps, or a positional part, come between")
    found = read(case)
    keys = shared(found["keys"], found["queries"].shape[1])
    module = case.module.layers[case.layer].self_attn
    scale = getattr(module, "scale", None) or module.sm_scale
    scores = scale * found["queries"] @ keys.swapaxes(-1, -2)
    seen = found["pattern"] > 0
    assert close(mx.where(seen, scores, 0), mx.where(seen, found["scores"], 0), 1e-5)
    assert bool(mx.all(mx.where(seen, -mx.inf, found["scores"]) < -1e30))


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.thin(4)
def test_zeroing_a_head_is_zeroing_its_columns_of_the_output_projection(case, compile):
    twin = configs.build(case.name)
    projection = getattr(twin.layers[case.layer].self_attn, case.projection)
    with case.trace(compile=compile):
        width = case.attn.heads.shape[-1]
        case.attn.heads[:, 1] = 0
        edited = case.model.output.save()
    projection.weight[:, width : 2 * width] = 0
    assert close(edited, twin(case.tokens), 1e-5)
    assert not close(edited, case.plain, 1e-3)
    graph = mg.edit(f"layers.{case.layer}.attn", iv.zero_out, heads=1)
    assert close(case.model.run(graph, case.tokens).output, edited, 1e-5)


@pytest.mark.parametrize("name", ["keys", "values"])
def test_editing_a_key_value_head_changes_exactly_its_group(case, name):
    found = read(case)
    groups, heads = found[name].shape[1], found["heads"].shape[1]
    with case.trace():
        getattr(case.attn, name)[:, groups - 1] *= -1.5
        edited = case.attn.heads.save()
    each = heads // groups
    mine = slice(heads - each, heads)
    assert same(edited[:, : heads - each], found["heads"][:, : heads - each])
    for head in range(*mine.indices(heads)):
        assert not close(edited[:, head], found["heads"][:, head], 1e-4)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.thin(6)
def test_what_is_written_is_what_follows_is_computed_from(case, name, compile):
    with case.trace(compile=compile):
        attn = case.attn
        factor = mx.linspace(0.4, 0.9, getattr(attn, name).shape[1])[:, None, None]
        setattr(attn, name, getattr(attn, name) * factor)
        written = getattr(attn, name).save()
        scores, pattern = attn.scores.save(), attn.pattern.save()
        values, heads = attn.values.save(), attn.heads.save()
        logits = case.model.output.save()
    found = read(case)
    assert close(written, factor * found[name])
    assert not close(logits, case.plain, 1e-4)
    if name != "heads":
        assert close(pattern @ shared(values, pattern.shape[1]), heads, 1e-5)
    if name == "pattern" or case.name in SINKS:
        return
    assert close(mx.softmax(scores, axis=-1), pattern, 1e-5)
    if name in ("queries", "keys") and case.name != "gemma2" and "deepseek" not in case.name:
        seen = found["pattern"] > 0
        factor = mx.repeat(factor, scores.shape[1] // factor.shape[0], axis=0)
        assert close(mx.where(seen, scores, 0), mx.where(seen, factor * found["scores"], 0), 1e-5)


@pytest.mark.thin(3)
def test_writing_back_what_was_read_changes_nothing(case):
    for name in NAMES:
        with case.trace(optimize=False):
            value = getattr(case.attn, name)
            value[...] = value * 1.0
            logits = case.model.output.save()
        assert close(logits, case.plain, 1e-5), name


def test_knocking_a_key_out_is_attending_elsewhere(case):
    with case.trace():
        case.attn.scores[..., 2] = -math.inf if case.name not in SINKS else -1e9
        pattern = case.attn.pattern.save()
        logits = case.model.output.save()
    assert not bool(mx.any(pattern[:, :, 3:, 2]))
    if case.name not in SINKS:
        rows = pattern[:, :, 3:].sum(axis=-1)
        assert close(rows, mx.ones_like(rows))
    assert close(logits[:, :2], case.plain[:, :2], 1e-5)
    assert not close(logits[:, 3:], case.plain[:, 3:], 1e-4)


@pytest.mark.thin(3)
def test_gradients_reach_the_pattern(case):
    with case.trace() as t:
        pattern = case.attn.pattern
        loss = case.model.output[0, -1, 3]
        slope = t.grad(loss, pattern).save()
    nudge = 1e-2

    def loss_at(step):
        with case.trace():
            case.attn.pattern[0, 1, -1, 1] += step
            out = case.model.output[0, -1, 3].save()
        return out.item()

    measured = (loss_at(nudge) - loss_at(-nudge)) / (2 * nudge)
    assert abs(slope[0, 1, -1, 1].item() - measured) <= 0.02 * abs(measured) + 1e-3
    assert bool(mx.any(slope != 0))


@pytest.mark.thin(3)
def test_in_four_bits_the_same_holds(case):
    module = configs.build(case.name)
    nn.quantize(module, group_size=32, bits=4, class_predicate=_fits)
    model = mg.InterpretableModel(module)
    plain = module(case.tokens)
    with model.trace(case.tokens):
        attn = model.layers[case.layer].attn
        pattern, values, heads = attn.pattern.save(), attn.values.save(), attn.heads.save()
        logits = model.output.save()
    assert same(logits, plain)
    assert close(pattern @ shared(values, pattern.shape[1]), heads)
    with model.trace(case.tokens):
        model.layers[case.layer].attn.pattern *= 0
        silent = model.layers[case.layer].attn.heads.save()
    assert not bool(mx.any(silent))


def _fits(path, module):
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0


# -- masks of every kind --------------------------------------------------------------------------

LLAMA = Case("llama")
QWEN = Case("qwen3")


@pytest.mark.parametrize(
    "name", ["llama", "qwen3", "gemma2", "gemma3_text", "gpt_oss", "deepseek_v3", "jamba"]
)
@pytest.mark.thin(3)
def test_a_padded_row_is_its_own_run(name):
    case = Case(name)
    rows = [[5, 6, 7], TOKENS]
    with case.model.trace(rows):
        pattern, heads = case.attn.pattern.save(), case.attn.heads.save()
    pad = LENGTH - 3
    with case.model.trace(rows[:1]):
        alone, own = case.attn.pattern.save(), case.attn.heads.save()
    assert close(pattern[:1, :, pad:, pad:], alone, 1e-5)
    assert close(heads[:1, :, pad:], own, 1e-5)
    assert not bool(mx.any(pattern[0, :, pad:, :pad]))
    assert bool(mx.any(pattern[1, :, pad:, :pad]))
    with case.model.trace() as t:
        with t.invoke(rows[0]):
            first = mx.array(case.attn.pattern).save()
            case.attn.pattern[:, :, -1] = 0
            silent = case.attn.heads.save()
        with t.invoke(rows[1]):
            second = case.attn.heads.save()
    assert close(first, alone, 1e-5)
    assert not bool(mx.any(silent[:, :, -1])) and bool(mx.all(second[:, :, -1] != 0))


def test_with_a_cache_a_step_is_the_last_row_of_the_whole():
    whole = read(QWEN)
    cache = make_prompt_cache(QWEN.module)
    QWEN.module(QWEN.tokens[:, :-1], cache=cache)
    with QWEN.model.trace(QWEN.tokens[:, -1:], cache=cache):
        pattern, keys = QWEN.attn.pattern.save(), QWEN.attn.keys.save()
        logits = QWEN.model.output.save()
    assert pattern.shape == (1, 4, 1, LENGTH)
    assert close(pattern, whole["pattern"][:, :, -1:], 1e-5)
    assert close(keys, whole["keys"], 1e-5)
    assert close(logits, whole["logits"][:, -1:], 1e-5)
    assert cache[0].offset == LENGTH


def test_a_prefill_in_chunks_has_the_rows_of_the_whole():
    whole = read(LLAMA)
    cache = make_prompt_cache(LLAMA.module)
    LLAMA.module(LLAMA.tokens[:, :6], cache=cache)
    with LLAMA.model.trace(LLAMA.tokens[:, 6:], cache=cache):
        pattern = LLAMA.attn.pattern.save()
    assert close(pattern, whole["pattern"][:, :, 6:], 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_quantised_cache_is_read_as_it_is_and_written_past_it(name):
    whole = read(WIDE)
    with WIDE.model.trace(WIDE.tokens, cache=quantised_cache(WIDE)):
        plain = WIDE.model.output.save()
    bare = WIDE.module(WIDE.tokens, cache=quantised_cache(WIDE))
    assert same(plain, bare)
    with WIDE.model.trace(WIDE.tokens, cache=quantised_cache(WIDE)):
        value, logits = getattr(WIDE.attn, name).save(), WIDE.model.output.save()
    assert same(logits, bare)
    assert close(value, whole[name], 0.05) and value.shape == whole[name].shape
    with WIDE.model.trace(WIDE.tokens, cache=quantised_cache(WIDE)):
        setattr(WIDE.attn, name, getattr(WIDE.attn, name) * 1.0)
        same_again = WIDE.model.output.save()
    assert close(same_again, bare, 1e-4)
    with WIDE.model.trace(WIDE.tokens, cache=quantised_cache(WIDE)):
        getattr(WIDE.attn, name)[:, 0] *= -1
        pattern, heads = WIDE.attn.pattern.save(), WIDE.attn.heads.save()
        values = WIDE.attn.values.save()
        changed = WIDE.model.output.save()
    assert not close(changed, bare, 1e-3)
    if name != "heads":
        assert close(pattern @ shared(values, pattern.shape[1]), heads, 1e-3)


def quantised_cache(case):
    return [KVCache().to_quantized(group_size=64, bits=8) for _ in case.module.layers]


class _Wide(Case):
    """A model whose heads are wide enough for a group of quantised numbers."""

    def __init__(self):
        from mlx_lm.models import llama

        self.name, self.layer, self.projection = "llama", 1, "o_proj"
        mx.random.seed(5)
        self.module = llama.Model(
            llama.ModelArgs(
                model_type="llama", hidden_size=128, num_hidden_layers=2, intermediate_size=64,
                num_attention_heads=4, num_key_value_heads=2, head_dim=64, rms_norm_eps=1e-5,
                vocab_size=100,
            )
        )  # fmt: skip
        self.model = mg.InterpretableModel(self.module)
        self.tokens = mx.array([TOKENS])
        self.plain = self.module(self.tokens)


WIDE = _Wide()


class Masked(nn.Module):
    """One attention with whatever mask it is given."""

    def __init__(self, sinks=None):
        super().__init__()
        self.sinks = sinks

    def __call__(self, q, k, v, mask=None):
        extra = {} if self.sinks is None else {"sinks": self.sinks}
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=0.3, mask=mask, **extra)


def drawn(*shape, key):
    return mx.random.normal(shape, key=mx.random.key(key))


ALLOWED = mx.arange(3, 8)[:, None] >= mx.arange(8)
MASKS = {
    "none": None,
    "causal": "causal",
    "boolean": ALLOWED,
    "boolean of a batch": mx.stack([ALLOWED, mx.roll(ALLOWED, 1, axis=1)])[:, None],
    "boolean of heads": mx.random.uniform(shape=(1, 6, 5, 8), key=mx.random.key(1)) > 0.4,
    "additive": mx.where(ALLOWED, 0.0, -3.0),
    "additive of heads": drawn(2, 6, 5, 8, key=2),
}


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("mask", MASKS.values(), ids=[*MASKS])
def test_every_mask_is_that_of_the_kernel(mask, sinks, dtype):
    q, k, v = (
        drawn(2, heads, n, 16, key=n + heads).astype(dtype) for heads, n in ((6, 5), (2, 8), (2, 8))
    )
    if isinstance(mask, mx.array) and mask.dtype != mx.bool_:
        mask = mask.astype(dtype)
    module = Masked(drawn(6, key=9).astype(dtype) if sinks else None)
    model = mg.InterpretableModel(module)
    plain = module(q, k, v, mask)
    with model.trace(q, k, v, mask=mask):
        pattern = model["pattern"].output.save()
        read_only = model.output.save()
    assert same(read_only, plain)
    with model.trace(q, k, v, mask=mask, optimize=False):
        model["pattern"].output = model["pattern"].output * 1.0
        written = model.output.save()
    tolerance = {mx.float32: 1e-6, mx.bfloat16: 2e-2, mx.float16: 2e-3}[dtype]
    assert written.dtype == plain.dtype == pattern.dtype == dtype
    assert close(written.astype(mx.float32), plain.astype(mx.float32), tolerance)
    by_hand = naive(q, k, v, mask, module.sinks)
    assert close(written.astype(mx.float32), by_hand, 10 * tolerance)


def naive(q, k, v, mask, sinks):
    """Head by head and row by row, in float32."""
    q, k, v = (a.astype(mx.float32) for a in (q, k, v))
    out = []
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            scores = 0.3 * q[b, h] @ k[b, h // 3].T
            if isinstance(mask, str):
                scores = mx.where(ALLOWED, scores, -mx.inf)
            elif mask is not None:
                own = mx.broadcast_to(mask, (*q.shape[:3], k.shape[2]))[b, h]
                own = own if mask.dtype == mx.bool_ else own.astype(mx.float32)
                shown = mask.dtype == mx.bool_
                scores = mx.where(own, scores, -mx.inf) if shown else scores + own
            weights = mx.exp(scores)
            total = weights.sum(-1, keepdims=True)
            if sinks is not None:
                total = total + mx.exp(sinks.astype(mx.float32)[h])
            out.append(weights / total @ v[b, h // 3])
    return mx.stack(out).reshape(q.shape)
