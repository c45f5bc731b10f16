"""What traces and collections hold: MLX's peak, and what is left, with Python's collector off.

    peak    the most that was held at a time, above what was held before
    left    what is held when the work is over: nothing but what it returned, in *kept* rows

The collector is off so that nothing depends on when it comes by: what a circle of objects keeps is
left.  Random mlx-lm Llamas, 12 layers, width 256, 8 rows of 64 tokens (0.5 MiB for one layer's
output), float32.  "bare" rows run the model without the library.

Predictions and aims, written before the first measurement, with what came of them; the table has
them in bytes, worked out from the rows that they name:

1. 40 traces take the peak of one, eager or compiled, looks and `t.activations` among them; nothing
   is left.  It came so, within half a layer's output: which buffers are free again in time differs
   from call to call.
2. A saved position of each of 12 layers holds 12 x 8 x 256 numbers, 0.1 MiB, and not 12 layers'.
   It came so, to the byte.
3. Collecting one position of every layer has the peak of the bare stack of layers, within 10 %,
   since each layer is let go before the next; `batch_get_activations` as well, and 1,024 prompts
   have, above the result, the peak of 16.  It came so, 8 % below the bare stack for all layers of
   one batch and 7 % above it for a few layers of many.  Saves of a block that are evaluated at once
   peak 40 % above it: MLX orders that.
4. `collect_activations` leaves nothing behind when its result is gone.  It came so.
5. The lens at 2^22 scores a time holds 4 x 16 MiB at most, and takes the time of 2^26.  It came so,
   with a tenth of the memory of 2^26.

    python benchmarks/memory.py [--quick]
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import mlx.core as mx
from llamas import llama
from report import main, markdown, middle

import mlxgraph as mg
from mlxgraph.analysis import unembed
from mlxgraph.analysis.in_turns import in_turns, ratios

MIB = 1 << 20
WITHIN = 1.1  # of the bare stack's peak
WARM = 2  # what is compiled and cached once is not what is measured
TURNS = 3  # which buffers are free again in time is not the same for all
Row = dict[str, Any]


class Size(NamedTuple):
    """How much is measured: a model, prompts, and how often.

    Attributes:
        length, rows: of the batch that is traced; traces, looked: how many of them.
        batch, prompt, prompts: how many prompts at a time are collected, the tokens in one, and how
            many there are, few and many.
        lens_width, lens_length, vocabulary, rounds: of the lens, which has a model of its own.
    """

    layers: int = 12
    width: int = 256
    length: int = 64
    rows: int = 8
    traces: int = 40
    looked: int = 10
    batch: int = 16
    prompt: int = 24
    prompts: tuple[int, int] = (16, 1_024)
    lens_width: int = 64
    lens_length: int = 128
    vocabulary: int = 32_000
    rounds: int = 7

    def model(self) -> mg.InterpretableModel:
        """4 heads on 2."""
        return mg.InterpretableModel(llama(self.width, self.layers, heads=4, key_value_heads=2))


QUICK = Size(3, 32, 16, 2, 4, 2, 2, 8, (2, 8), 16, 16, 2_000, 3)


def prompts(count: int, length: int) -> list[list[int]]:
    """Token rows of one length."""
    return [[(31 * n + 7 * k) % 1_000 for k in range(length)] for n in range(count)]


@contextmanager
def without_the_collector() -> Iterator[None]:
    """What is garbage before is gone; what becomes garbage stays."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def row(
    name: str,
    way: Callable[[], Any],
    calls: int = 1,
    kept: bool = False,
    turns: int = TURNS,
) -> Row:
    """Bytes of some work: the most of some turns, each of one call or more.

    Args: kept: whether what a call returned is held on to when what is left is asked.
    """
    for _ in range(min(WARM, turns)):
        way()
    peaks, lefts = [], []
    for _ in range(turns):
        mx.clear_cache()
        with without_the_collector():
            before = mx.get_active_memory()
            mx.reset_peak_memory()
            for _ in range(calls):
                result = way()
                if not kept:
                    result = None
            peaks.append(mx.get_peak_memory() - before)
            lefts.append(mx.get_active_memory() - before)
        del result
    return {"name": name, "peak": max(peaks), "left": max(lefts)}


def with_aims(found: Row, peak: float | None = None, left: float = 0) -> Row:
    """A row with the bytes that were predicted of it."""
    return {**found, "peak aim": peak, "left aim": left}


def traces(model: mg.InterpretableModel, tokens: mx.array, size: Size) -> list[Row]:
    """Blocks that are opened again and again."""
    middle, last = model.layers[size.layers // 2].path, model.layers[-1].path

    def plain(compile: bool) -> None:
        with model.trace(tokens, compile=compile):
            model.layers[1].output[:, -1] += 1.0
            out = model.layers[-1].output[:, -1].save()
        mx.eval(out)

    def looks() -> None:
        with model.trace(tokens):
            h = model.layers[1].output
            h *= 2 if h.sum() > 0 else 3
            out = model.layers[-1].output[:, -1].save()
        mx.eval(out)

    def looked_up() -> None:
        with model.trace(tokens) as t:
            model.layers[1].output[:, -1] += 1.0
        mx.eval(t.activations[middle], t.activations[last])

    ways = {
        "{} eager {}": (lambda: plain(False), size.traces),
        "{} compiled {}": (lambda: plain(True), size.traces),
        "{} {} with a look": (looks, size.looked),
        "{} {}, two activations after each": (looked_up, size.looked),
    }
    found = []
    for name, (way, times) in ways.items():
        one = row(name.format(1, "trace").replace("each", "it"), way)
        many = row(name.format(times, "traces"), way, times, turns=1)
        found += [with_aims(one), with_aims(many, one["peak"])]
    return found


def saved(model: mg.InterpretableModel, tokens: mx.array, size: Size) -> list[Row]:
    """The last position of every layer, held on to."""

    def positions(compile: bool) -> list[mx.array]:
        with model.trace(tokens, compile=compile):
            kept = [layer.output[:, -1].save() for layer in model.layers]
        mx.eval(kept)
        return kept

    found = []
    for compile, how in ((False, "eager"), (True, "compiled")):
        name = f"a position of {size.layers} layers, {how} (kept)"
        numbers = size.layers * size.rows * size.width
        one = row(name, lambda compile=compile: positions(compile), kept=True)
        found.append(with_aims(one, left=4 * numbers))
    return found


def collections(model: mg.InterpretableModel, rows: list[list[int]], size: Size) -> list[Row]:
    """Activations of a batch, and of many."""
    tokens, stack = mx.array(rows), model.module.model
    bare = row("bare: the stack of layers", lambda: mx.eval(stack(tokens)))
    one = row("get_activations, all layers, a position", lambda: mg.get_activations(model, rows))

    def collect() -> None:
        mg.collect_activations(model, tokens)

    found = [
        with_aims(bare),
        with_aims(one, WITHIN * bare["peak"]),
        with_aims(row("collect_activations, everything", collect)),
    ]
    batch = mx.array(prompts(size.batch, size.prompt))
    bare = row(f"bare: the stack of layers, {size.batch} prompts", lambda: mx.eval(stack(batch)))
    found.append(with_aims(bare))
    wanted = [size.layers // 2, size.layers - 1]
    aim = WITHIN * bare["peak"]
    for count in size.prompts:
        many, result = prompts(count, size.prompt), 4 * len(wanted) * count * size.width

        def way(many: list[list[int]] = many) -> Any:
            return mg.batch_get_activations(model, many, layers=wanted, batch_size=size.batch)

        name = f"batch_get_activations, {count:,} prompts, {size.batch} at a time (kept)"
        turns = TURNS if count == size.batch else 1
        found.append(with_aims(row(name, way, kept=True, turns=turns), aim + result, result))
    return found


POWERS = (26, 24, 22, 21, 20)


def lenses(size: Size) -> tuple[list[Row], dict[str, Any]]:
    """The lens of all layers and positions, some scores at a time: bytes, and times over the first.

    The times are taken in turns.
    """
    module = llama(size.lens_width, size.layers, size.vocabulary, heads=4, key_value_heads=2)
    model = mg.InterpretableModel(module)
    (tokens,) = prompts(1, size.lens_length)
    usual, found, ways = unembed.MOST_SCORES, [], {}

    def at_most(count: int) -> None:
        unembed.MOST_SCORES = count
        model.logit_lens(tokens)

    try:
        for power in POWERS:
            mark = ", as it is" if usual == 1 << power else ""
            name = f"2^{power} scores a time{mark}"
            ways[name] = way = lambda count=1 << power: at_most(count)
            aim = 4 * 4 * usual if mark else None
            found.append(with_aims(row(f"logit_lens, {name}", way), aim))
        times = {name: one.together for name, one in in_turns(ways, size.rounds, warm=1).items()}
    finally:
        unembed.MOST_SCORES = usual
    first = next(iter(times.values()))
    return found, {name: ratios(one, first) for name, one in times.items()}


def measured(quick: bool) -> dict[str, Any]:
    """Bytes of each row, and the lens's times."""
    size = QUICK if quick else Size()
    model, rows = size.model(), prompts(size.rows, size.length)
    tokens = mx.array(rows)
    found = traces(model, tokens, size) + saved(model, tokens, size)
    found += collections(model, rows, size)
    of_lens, times = lenses(size)
    return {"rows": found + of_lens, "lens times": times}


def mib(count: float | None) -> str:
    return "" if count is None else f"{count / MIB:.2f}"


def tables(found: dict[str, Any]) -> str:
    head = ["MiB", "peak", "peak, aim at most", "left", "left, aim"]
    shown = ("peak", "peak aim", "left", "left aim")
    rows = [[one["name"], *(mib(one[what]) for what in shown)] for one in found["rows"]]
    times = [[name, middle(one, "{:.2f}")] for name, one in found["lens times"].items()]
    return "\n\n".join(
        [
            markdown(head, rows),
            f"Time of a lens, over that of {times[0][0]}, in turns; medians and quartiles:",
            markdown(["", "ratio"], times[1:]),
        ]
    )


if __name__ == "__main__":
    main(__doc__, measured, tables)
