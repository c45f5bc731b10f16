"""Long prompts: what is held and how long it takes, of patterns in blocks and whole, of methods.

A random mlx-lm Llama, 4 layers x width 64, 8 heads on 4, float32.  A pattern has 8 x length x
length numbers: 32 MiB at 1,024 tokens, 512 MiB at 4,096 and 8 GiB at 16,384.  Peaks are MLX's,
above what was held before; one run of each, eager, for at 16,384 tokens one takes minutes.  On the
CPU MLX has no fused attention, so that whatever runs a layer to its end makes one square in there;
the values of the first layer's pattern come before it.

Predictions, written after a look at 4,096 tokens and before 16,384 were tried:

1. The last row takes no square at all: a few MiB more than queries, keys and values, at any length.
2. In blocks of 16 MiB a column, a mean over queries, or an entropy peaks below 128 MiB at any
   length; whole, at one square or two.
3. Time in blocks is that of the whole square, within a fifth: the numbers are the same.
4. Means of all layers' patterns peak where the bare forward does, for MLX's own square is in there;
   whole, at one square for each layer.

Then the methods, on a model of 2 layers x width 64 with one head and a vocabulary of 32,000, whose
logits take 500 MiB at 4,096 tokens and 2 GiB at 16,384, and a square of it 64 MiB and 1 GiB.
Predictions, after a look at 2,048 tokens and a vocabulary of 8,000:

5. No method holds all logits.  The lens, direct attribution, head scores and patching peak at two
   squares, where a trace does that keeps its last logits alone, and at less than a fifth more;
   token predictions of as many states, which run no layer, below 64 MiB at any length.
6. A text in steps of 2,048, as `generate` reads it, takes a strip of 2,048 queries, not a square.
7. Two texts of almost one length take twice the squares, and a mask of a byte for each pair beside.

    python benchmarks/long_prompts.py [--quick]
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import mlx.core as mx
from llamas import llama
from report import main, markdown

import mlxgraph as mg

WIDTH, LAYERS, HEADS = 64, 4, 8
LENGTHS = (1_024, 4_096, 16_384)
TO_THE_END = 4_096  # of longer texts nothing is made whole: minutes, and 8 GiB
MIB = 1 << 20


def _entropy(pattern: mx.array) -> mx.array:
    return -(pattern * mx.log(pattern + 1e-9)).sum(axis=-1)


ROW, MEAN = "last row", "mean over queries"
FIRST: dict[str, Callable[[Any], Any]] = {
    ROW: lambda pattern: pattern[:, :, -1],
    "first column": lambda pattern: pattern[..., 0],
    MEAN: lambda pattern: pattern.mean(axis=2),
    "entropy of each query": _entropy,
}
MEANS = "means of all layers"
BARE = "bare forward, last logits"
BARE_LOGITS = "bare forward, all logits"
WORDS, FEW_LAYERS = 32_000, 2
QUICK = (  # of the methods, at the longest texts
    BARE_LOGITS, "lens, last position", "predictions of as many states", "direct attribution",
    "generation of 4 tokens, edited",
)  # fmt: skip


def measured(quick: bool) -> dict[str, Any]:
    """For each length and value: seconds and peak in blocks and whole, and how far they differ."""
    lengths = (64, 128) if quick else LENGTHS
    patterns = {str(length): dict(rows(length)) for length in lengths}
    words = 500 if quick else WORDS
    long = (64,) if quick else (TO_THE_END, LENGTHS[-1])
    return {"patterns": patterns, "methods": {str(n): dict(methods(n, words)) for n in long}}


def rows(length: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is measured with so many tokens, row by row."""
    module = llama(WIDTH, LAYERS, heads=HEADS)
    model = mg.InterpretableModel(module)
    tokens = mx.arange(length)[None] * 7 % 1000

    def traced(what: Callable[[Any], Any], layers: range, optimize: bool) -> list[mx.array]:
        with model.trace(tokens, optimize=optimize, compile=False):
            saves = [what(model.layers[k].attn.pattern).save() for k in layers]
        return saves

    traced(FIRST[ROW], range(1), True)  # what is worked out once is not what is measured
    short = length <= TO_THE_END
    for name, what in FIRST.items():
        if short or name in (ROW, MEAN):
            yield name, _both(partial(traced, what, range(1)), short)
    if short:
        yield MEANS, _both(partial(traced, FIRST[MEAN], range(LAYERS)), True)
        yield BARE, {"whole": _cost(lambda: [module(tokens)[:, -1]])[0]}


def methods(length: int, words: int) -> Iterator[tuple[str, dict[str, float]]]:
    """What methods take on so many tokens, one by one; at 16,384 those that take little time."""
    module = llama(WIDTH, FEW_LAYERS, words, heads=1, key_value_heads=1)
    ids = [k * 7 % words for k in range(length)]
    states = mx.random.normal((length, WIDTH), key=mx.random.key(0))
    mx.eval(states)
    asked = {
        BARE_LOGITS: lambda m: module(mx.array([ids])),
        BARE: lambda m: _last(m, ids),
        "lens": lambda m: m.logit_lens(ids),
        "lens, last position": lambda m: m.logit_lens(ids, position=-1),
        "predictions of as many states": lambda m: m.get_token_predictions(states),
        "direct attribution": lambda m: m.direct_logit_attribution(ids, 5),
        "direct attribution, all positions": lambda m: m.direct_logit_attribution(
            ids, 5, position="all"
        ),
        "head scores": lambda m: m.head_scores(length=min(length, words) // 2, samples=1),
        "patching, one cell": lambda m: m.activation_patching(
            ids, [*ids[:-1], 3], layers=[1], positions=[-1], normalize=False
        ),
        "generation of 4 tokens, edited": _generated(ids),
        "two texts of two lengths": lambda m: _ragged(m, ids),
    }
    for name, use in asked.items():
        if length <= TO_THE_END or name in QUICK:
            model = mg.InterpretableModel(module)
            yield name, _cost(lambda model=model, use=use: _arrays(use(model)))[0]


def _arrays(found: Any) -> list[mx.array]:
    return [found] if isinstance(found, mx.array) else []


def _generated(ids: list[int]) -> Callable[[Any], Any]:
    def use(model: Any) -> Any:
        with model.generate(ids, max_tokens=4) as trace:
            model.layers[1].output[:, -1] += 1.0
        return trace.tokens

    return use


def _last(model: Any, ids: list[int]) -> mx.array:
    with model.trace(mx.array([ids]), compile=False):
        logits = model.output[:, -1].save()
    return logits


def _ragged(model: Any, ids: list[int]) -> mx.array:
    with model.trace([ids, ids[:-5]], compile=False):
        logits = model.output[:, -1].save()
    return logits


def _both(run: Callable[[bool], list[mx.array]], whole: bool) -> dict[str, Any]:
    """In blocks, and whole if that is asked for."""
    cost, values = _cost(partial(run, True))
    if not whole:
        return {"blocks": cost}
    square, known = _cost(partial(run, False))
    gaps = [mx.abs(a - b).max().item() for a, b in zip(values, known, strict=True)]
    return {"blocks": cost, "whole": square, "gap": max(gaps)}


def _cost(run: Callable[[], list[mx.array]]) -> tuple[dict[str, float], list[mx.array]]:
    """Seconds and peak bytes of one run, and what it gave."""
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    start = time.perf_counter()
    values = run()
    mx.eval(values)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak": mx.get_peak_memory() - before}, values


def tables(found: dict[str, Any]) -> str:
    if "patterns" not in found:  # before methods were measured
        return _of_patterns(found)
    rows = [
        [f"{int(length):,}", name, f"{cost['peak'] / MIB:,.1f}", f"{cost['seconds']:.2f}"]
        for length, of_length in found["methods"].items()
        for name, cost in of_length.items()
    ]
    said = markdown(["tokens", "what is done", "peak", "seconds"], rows)
    return f"{_of_patterns(found['patterns'])}\n\nMethods:\n\n{said}"


def _of_patterns(found: dict[str, Any]) -> str:
    rows = []
    for length, of_length in found.items():
        for name, row in of_length.items():
            cells = []
            for way in ("blocks", "whole"):
                cost = row.get(way)
                cells.append(f"{cost['peak'] / MIB:,.1f}" if cost else "")
            for way in ("blocks", "whole"):
                cost = row.get(way)
                cells.append(f"{cost['seconds']:.2f}" if cost else "")
            gap = f"{row['gap']:.0e}" if "gap" in row else ""
            rows.append([f"{int(length):,}", name, *cells, gap])
    return "Peaks in MiB, seconds of one run:\n\n" + markdown(
        [
            "tokens", "what is saved", "peak, in blocks", "peak, whole", "seconds, in blocks",
            "seconds, whole", "largest difference",
        ],
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    main(__doc__, measured, tables)
