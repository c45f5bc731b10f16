"""Scores and patterns in blocks of queries: the values are those of the whole square."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.run import query_blocks
from tests.architectures import configs
from tests.inside.test_attention import Masked, drawn
from tests.models import make_llama

LENGTH, HEADS = 11, 4
TOKENS = mx.array([[7, 21, 3, 8, 40, 5, 13, 12, 9, 30, 2]])
SAID = "queries at a time, never whole"
QUERIES, KEYS = mx.array([3, 7, -1, 10, 0]), mx.array([0, -11, 2, 4, 0])
WEIGHTS = mx.random.normal((LENGTH,), key=mx.random.key(1))
SQUARE = mx.random.normal((1, HEADS, LENGTH, LENGTH), key=mx.random.key(2))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Three queries of `TOKENS` in a block."""
    monkeypatch.setattr(query_blocks, "BLOCK", 3 * HEADS * LENGTH)
    monkeypatch.setattr(query_blocks, "FEWEST", 1)


@pytest.fixture(scope="module")
def llama():
    return mg.InterpretableModel(make_llama())


def near(a, b, tolerance=1e-6):
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    return bool(mx.all(mx.abs(a - b) <= tolerance * (1 + mx.abs(b))))


IN_BLOCKS = {
    "the last row": lambda p, s: p[..., -1, :],
    "one query of a slice": lambda p, s: p[:, :, 4:5],
    "a slice": lambda p, s: p[:, :, 5:8],
    "a column": lambda p, s: p[:, :, :, 0],
    "a slice's mean": lambda p, s: p[:, :, 1::2][:, :, :-1].mean(axis=2),
    "a mean": lambda p, s: p.mean(axis=2),
    "a sum of all": lambda p, s: p.sum(),
    "a largest": lambda p, s: mx.max(s, 2, keepdims=True),
    "a smallest": lambda p, s: p.min(axis=(0, -2)),
    "whether any": lambda p, s: (p > 0.3).any(axis=2),
    "whether all": lambda p, s: mx.all(p >= 0, axis=2),
    "how many": lambda p, s: ((p > 0.3) * 0.5).sum(axis=2),
    "an entropy": lambda p, s: -(p * mx.log(p + 1e-9)).sum(axis=-1),
    "a mean of entropies": lambda p, s: (-(p * mx.log(p + 1e-9)).sum(-1))[:, :, 3:7].mean(-1),
    "with something per query": lambda p, s: (p * WEIGHTS[:, None]).sum(axis=2),
    "with a square": lambda p, s: (p * SQUARE + p).sum(axis=(2, 3)),
    "both": lambda p, s: mx.where(p > 0, p * s, 0.0).sum(axis=-1),
    "a head": lambda p, s: p[0, 2],
    "places": lambda p, s: p[:, :, QUERIES, KEYS].mean(axis=-1),
    "some queries": lambda p, s: p[:, :, QUERIES][:, :, 1:4].sum(axis=2),
    "listed queries": lambda p, s: p[:, :, [1, -2]],
    "some keys": lambda p, s: p[:, :, :, KEYS[:2]],
    "most seen": lambda p, s: mx.argmax(p, axis=-1),
    "largest of each": lambda p, s: mx.topk(p, 2),
    "another softmax": lambda p, s: mx.softmax(2 * s, axis=-1).max(axis=-1),
    "turned": lambda p, s: p.transpose(2, 0, 1, 3).mean(axis=0),
    "reshaped": lambda p, s: p.reshape(HEADS, LENGTH, LENGTH)[:, None].sum(axis=2),
    "times a matrix": lambda p, s: p @ SQUARE[0, 0, :, :3],
}  # fmt: skip
WHOLE = {
    "all of it": lambda p, s: p,
    "as large": lambda p, s: p / p.max(),
    "less its mean": lambda p, s: (p - p.mean(axis=2, keepdims=True)).max(axis=2),
    "along queries": lambda p, s: mx.cumsum(p, axis=2)[:, :, 4],
    "backwards": lambda p, s: p[:, :, ::-1].sum(axis=2),
    "any function": lambda p, s: mg.apply(lambda x: x.sum(), p),
}


def read(model, what, **options):
    with model.trace(TOKENS, **options) as trace:
        attn = model.layers[1].self_attn
        value = what(attn.pattern, attn.scores).save("value")
    return value, trace.graph


@pytest.mark.parametrize("what", [*IN_BLOCKS.values(), *WHOLE.values()], ids=[*IN_BLOCKS, *WHOLE])
def test_in_blocks_or_whole_the_values_are_the_same(llama, what):
    whole, _ = read(llama, what, optimize=False)
    value, graph = read(llama, what)
    assert near(value, whole)
    assert (SAID in graph.explain(llama, TOKENS)) == (what in IN_BLOCKS.values())
    assert SAID not in graph.explain(llama, TOKENS, optimize=False)


@pytest.mark.parametrize("name", ["a mean", "an entropy"])
def test_compiled_too(llama, name):
    whole, _ = read(llama, IN_BLOCKS[name], optimize=False)
    assert near(read(llama, IN_BLOCKS[name], compile=True)[0], whole, 1e-5)


def test_what_else_is_read_and_written_stays(llama):
    """Two attentions, a write that takes from a pattern, and the output, which does not change."""

    def both(optimize):
        with llama.trace(TOKENS, optimize=optimize):
            first, last = (llama.layers[k].self_attn for k in (0, 2))
            seen = first.pattern.mean(axis=2)
            llama.layers[1].output[:, -1] *= seen.sum()
            found = seen.save(), last.pattern[:, :, -1].save(), last.heads.save()
            return *found, llama.output.save()

    for value, whole in zip(both(True), both(False), strict=True):
        assert near(value, whole, 1e-5)
    with llama.trace(TOKENS):
        llama.layers[0].self_attn.pattern.mean(axis=2).save()
        output = llama.output.save()
    assert mx.array_equal(output, llama.module(TOKENS))


def test_a_written_pattern_and_a_gradient_are_whole(llama):
    with llama.trace(TOKENS) as written:
        attn = llama.layers[1].self_attn
        attn.pattern = iv.scale(0.5)(attn.pattern)
        mean = attn.pattern.mean(axis=2).save()
        attn.heads.save()
    assert SAID not in written.graph.explain(llama, TOKENS)
    plain, _ = read(llama, IN_BLOCKS["a mean"], optimize=False)
    assert near(mean, 0.5 * plain)
    with llama.trace(TOKENS) as trace:
        pattern = llama.layers[1].self_attn.pattern
        slope = trace.grad(pattern[:, :, -1].max(), pattern)[:, :, -1].sum(axis=-1).save()
    assert SAID not in trace.graph.explain(llama, TOKENS)
    assert near(slope.sum(), mx.array(1.0))


ALLOWED = mx.arange(8, 16)[:, None] >= mx.arange(16)
MASKS = {
    "none": None,
    "causal": "causal",
    "boolean of a batch": mx.stack([ALLOWED, mx.roll(ALLOWED, 1, axis=1)])[:, None],
    "boolean of heads": mx.random.uniform(shape=(1, 6, 8, 16), key=mx.random.key(1)) > 0.4,
    "additive": mx.where(ALLOWED, 0.0, -3.0),
    "of keys": mx.where(mx.arange(16) > 3, 0.0, -3.0)[None],
}


@pytest.mark.parametrize(("sinks", "dtype"), [(False, mx.float32), (True, mx.bfloat16)])
@pytest.mark.parametrize("mask", MASKS.values(), ids=[*MASKS])
def test_masks_sinks_groups_and_half_precision(mask, sinks, dtype):
    sizes = ((6, 8), (2, 16), (2, 16))
    q, k, v = (drawn(2, heads, n, 4, key=n + heads).astype(dtype) for heads, n in sizes)
    if isinstance(mask, mx.array) and mask.dtype != mx.bool_:
        mask = mask.astype(dtype)
    model = mg.InterpretableModel(Masked(drawn(6, key=9).astype(dtype) if sinks else None))

    def seen(optimize):
        with model.trace(q, k, v, mask=mask, optimize=optimize, compile=False) as trace:
            pattern = model["pattern"].output
            saves = [pattern.mean(axis=2), pattern[:, :, -3:].sum(axis=2), pattern[:, :, -1]]
            saves = [one.save() for one in saves]
        told = trace.graph.explain(model, q, k, v, mask=mask, optimize=optimize)
        assert (SAID in told) == optimize
        return saves

    tolerance = 1e-6 if dtype == mx.float32 else 2e-2
    for value, whole in zip(seen(True), seen(False), strict=True):
        assert near(value, whole, tolerance)
    if dtype == mx.bfloat16:  # what is added up in blocks is added up in float32
        with model.trace(q, k, v, mask=mask, optimize=False):
            pattern = model["pattern"].output.save()
        exact = pattern.astype(mx.float32).mean(axis=2).astype(dtype)
        assert near(seen(True)[0], exact, 2**-8)


@pytest.mark.parametrize("name", ["gemma3_text", "gpt_oss"])
def test_windows_of_real_models(name):
    model = mg.InterpretableModel(configs.build(name))
    values = []
    for optimize in (True, False):
        with model.trace(TOKENS, optimize=optimize) as trace:
            pattern = model.layers[0].self_attn.pattern
            values.append((pattern.mean(axis=2).save(), pattern[:, :, :, 2].save()))
        assert (SAID in trace.graph.explain(model, TOKENS, optimize=optimize)) == optimize
    for value, whole in zip(*values, strict=True):
        assert near(value, whole)


def test_rows_of_several_lengths(llama):
    rows = [[7, 21, 3, 8, 40, 5, 13, 12, 9, 30, 2], [4, 9, 1, 30]]
    with llama.trace(rows) as trace:
        last = llama.layers[1].self_attn.pattern[:, :, -2:].mean(axis=2).save()
    assert SAID in trace.graph.explain(llama, rows)
    for k, row in enumerate(rows):
        with llama.trace([row], optimize=False):
            alone = llama.layers[1].self_attn.pattern[:, :, -2:].mean(axis=2).save()
        assert near(last[k : k + 1, :, -len(row) :], alone, 1e-5)


def test_inside_transformations():
    sizes = ((4, 8), (2, 8), (2, 8))
    q, k, v = (drawn(3, 2, heads, n, 4, key=n + heads) for heads, n in sizes)
    model = mg.InterpretableModel(Masked())

    def of(optimize):
        def score(q, k, v):
            with model.trace(q, k, v, mask="causal", optimize=optimize, compile=False):
                pattern = model["pattern"].output
                kept = (pattern * mx.log(pattern + 1e-3)).sum(axis=2).save()
            return kept

        return score

    mapped = [mx.vmap(of(optimize))(q, k, v) for optimize in (True, False)]
    assert near(*mapped)

    def squared(score):
        return lambda q: (score(q, k[0], v[0]) ** 2).sum()

    slopes = [mx.grad(squared(of(optimize)))(q[0]) for optimize in (True, False)]
    assert near(*slopes, 1e-5) and mx.any(slopes[0] != 0)


def test_head_detectors_make_no_square(monkeypatch):
    asked = []
    real = query_blocks.find_blocks

    def spy(*args):
        found = real(*args)
        asked.append(len(found))
        return found

    monkeypatch.setattr("mlxgraph.run.plan.find_blocks", spy)
    kinds = ("induction", "previous token", "first token")
    found = []
    for block in (10**9, 500):
        monkeypatch.setattr(query_blocks, "BLOCK", block)
        model = mg.InterpretableModel(make_llama())
        found.append(model.head_scores(kinds, length=8, samples=2).values)
    assert max(asked[: len(asked) // 2]) == 0 and max(asked) == 3
    assert near(mx.array(found[0]), mx.array(found[1]))


@pytest.mark.parametrize("name", ["a mean", "a column", "an entropy", "the last row"])
@pytest.mark.thin(3)
def test_few_blocks_are_held_at_once(monkeypatch, name):
    """A square of 8 MiB, in blocks of 128 KiB."""
    monkeypatch.setattr(query_blocks, "BLOCK", 2**15)
    q, k, v = (drawn(1, 2, 1024, 4, key=key) for key in (1, 2, 3))
    model, peaks = mg.InterpretableModel(Masked()), []
    mx.eval(q, k, v)
    for optimize in (True, False):
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        with model.trace(q, k, v, mask="causal", optimize=optimize, compile=False):
            value = IN_BLOCKS[name](model["pattern"].output, None).save()
        mx.eval(value)
        peaks.append(mx.get_peak_memory() - before)
    assert peaks[0] < 3 * 2**20 and peaks[1] > 8 * 2**20
