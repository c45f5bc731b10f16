"""Attention patterns of long prompts: what is held and how long it takes, in blocks and whole.

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


def measured(quick: bool) -> dict[str, Any]:
    """For each length and value: seconds and peak in blocks and whole, and how far they differ."""
    lengths = (64, 128) if quick else LENGTHS
    return {str(length): dict(rows(length)) for length in lengths}


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
