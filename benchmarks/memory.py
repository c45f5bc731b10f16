"""What traces and collections hold: MLX's peak, and what is left, with Python's collector off.

    peak    the most that was held at a time, above what was held before
    left    what is still held when the results are gone too; `kept` counts the results in

The collector is off so that nothing depends on when it comes by: what a circle of objects keeps is
left.  Random mlx-lm Llamas, 12 layers, width 256, 8 rows of 64 tokens (0.5 MiB for one layer's
output), float32.  "bare" rows run the model without the library.

Predictions, written before the first measurement:

1. 40 traces take the peak of one, eager or compiled, looks and `t.activations` among them; nothing
   is left.
2. A saved position of each of 12 layers holds 12 x 8 x 256 numbers, 0.1 MiB, and not 12 layers'.
3. Collecting one position of every layer has the peak of the bare stack of layers, within 10 %,
   since each layer is let go before the next; and 1,024 prompts have, above the
   result, the peak of 16.
4. The lens at 2^22 scores a time holds 4 x 16 MiB at most and takes the time of 2^26.

The measured figures stand in benchmarks/README.md.

    python benchmarks/memory.py
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
from llamas import llama as made

import mlxgraph as mg
from mlxgraph.analysis import lens

LAYERS, LENGTH, ROWS = 12, 64, 8
MIB = 1 << 20


def llama(width: int = 256, vocabulary: int = 1_000) -> Any:
    """The model of this page: 12 layers, 4 heads on 2."""
    return made(width, LAYERS, vocabulary, heads=4, key_value_heads=2)


def prompts(count: int, length: int = LENGTH) -> list[list[int]]:
    """Token rows of one length."""
    return [[(31 * n + 7 * k) % 1_000 for k in range(length)] for n in range(count)]


def measure(
    name: str, way: Callable[[], Any], times: int = 1, kept: bool = False, warm: int = 3
) -> None:
    """Print one row.  Args: kept: whether results are held on to when what is left is asked."""
    for _ in range(warm):  # what is compiled and cached once is not what is measured
        way()
    gc.collect()
    mx.clear_cache()
    gc.disable()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    seconds, result = [], None
    try:
        for _ in range(times):
            start = time.perf_counter()
            result = way()
            seconds.append(time.perf_counter() - start)
            if not kept:
                result = None
        peak, left = mx.get_peak_memory() - before, mx.get_active_memory() - before
    finally:
        gc.enable()
    del result
    took = statistics.median(seconds) * 1e3
    print(f"| {name} | {peak / MIB:.2f} | {left / MIB:.2f} | {took:.0f} |", flush=True)


def traces(model: mg.InterpretableModel, tokens: mx.array) -> None:
    """Blocks that are opened again and again."""

    def plain(compile: bool) -> None:
        with model.trace(tokens, compile=compile):
            model.layers[2].output[:, -1] += 1.0
            out = model.layers[5].output[:, -1].save()
        mx.eval(out)

    def looks() -> None:
        with model.trace(tokens):
            h = model.layers[2].output
            h *= 2 if h.sum() > 0 else 3
            out = model.layers[5].output[:, -1].save()
        mx.eval(out)

    def looked_up() -> None:
        with model.trace(tokens) as t:
            model.layers[2].output[:, -1] += 1.0
        mx.eval(t.activations["layers.4"], t.activations["layers.6"])

    def positions(compile: bool) -> list[mx.array]:
        with model.trace(tokens, compile=compile):
            kept = [layer.output[:, -1].save() for layer in model.layers]
        mx.eval(kept)
        return kept

    measure("40 eager traces", lambda: plain(False), 40)
    measure("40 compiled traces", lambda: plain(True), 40)
    measure("10 traces with a look", looks, 10)
    measure("10 traces, two activations after each", looked_up, 10)
    measure("a position of 12 layers, eager (kept)", lambda: positions(False), kept=True)
    measure("a position of 12 layers, compiled (kept)", lambda: positions(True), kept=True)


def collections(model: mg.InterpretableModel, rows: list[list[int]]) -> None:
    """Activations of a batch, and of many."""
    tokens, stack = mx.array(rows), model.module.model
    measure("bare: the stack of layers", lambda: mx.eval(stack(tokens)))
    measure("get_activations, all layers, one position", lambda: mg.get_activations(model, rows))
    measure("collect_activations, everything", lambda: collect(model, tokens))
    for count in (16, 1_024):
        many = prompts(count, 24)
        name = f"batch_get_activations, {count} prompts (kept)"
        measure(name, lambda many=many: batches(model, many), kept=True, warm=1)


def collect(model: mg.InterpretableModel, tokens: mx.array) -> None:
    """Every module's output, let go at once."""
    mg.collect_activations(model, tokens)


def batches(model: mg.InterpretableModel, rows: list[list[int]]) -> Any:
    """The last position of two layers, 16 prompts at a time."""
    return mg.batch_get_activations(model, rows, layers=[5, 11], batch_size=16)


def lens_of(model: mg.InterpretableModel, row: list[int]) -> None:
    """One lens, let go at once."""
    model.logit_lens(row)


def lenses() -> None:
    """The lens of all layers and 128 positions, over 32,000 tokens."""
    model = mg.InterpretableModel(llama(64, 32_000))
    (row,) = prompts(1, 128)
    usual = lens.MOST_SCORES
    for power in (26, 24, 22, 20):
        lens.MOST_SCORES = 1 << power
        mark = ", as it is" if usual == 1 << power else ""
        measure(f"logit_lens, 2^{power} scores a time{mark}", lambda: lens_of(model, row), 3)
    lens.MOST_SCORES = usual


def main() -> None:
    """Print the table."""
    print("| | peak MiB | left MiB | ms each |\n|---|---|---|---|")
    model = mg.InterpretableModel(llama())
    rows = prompts(ROWS)
    traces(model, mx.array(rows))
    collections(model, rows)
    lenses()


if __name__ == "__main__":
    main()
