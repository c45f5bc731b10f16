"""What a trace costs: a warm traced pass, block included, against the bare model.

Everything is measured in turns (a, b, c, a, b, c, ...) in one process and reported as a median, so
that a busy moment of the machine hits all ways alike; ratios are medians of per-turn ratios.

    python benchmarks/trace_overhead.py            # all sizes, a few minutes
    python benchmarks/trace_overhead.py --quick    # the smallest size, few rounds
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.llama import Model, ModelArgs

import mlxgraph as mg

SIZES = {"64 x 4": (64, 4), "512 x 12": (512, 12), "1024 x 16": (1024, 16)}
AIMS = {"64 x 4": 1.15, "512 x 12": 1.02, "1024 x 16": 1.01}
VOCABULARY = 1000
LENGTH = 16

Ways = dict[str, Callable[[], Any]]


def llama(width: int, layers: int) -> nn.Module:
    """A random mlx-lm Llama, grouped queries, tied embeddings."""
    mx.random.seed(0)
    made = Model(
        ModelArgs(
            model_type="llama",
            hidden_size=width,
            num_hidden_layers=layers,
            intermediate_size=3 * width,
            num_attention_heads=8,
            num_key_value_heads=4,
            rms_norm_eps=1e-5,
            vocab_size=VOCABULARY,
        )
    )
    mx.eval(made.parameters())
    return made


class Wrapped:
    """A module that hands its output to the trace that wrapped it."""

    def __init__(self, module: nn.Module, name: str, kept: dict, edit: Callable | None):
        self.module, self.name, self.kept, self.edit = module, name, kept, edit

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out = self.module(*args, **kwargs)
        self.kept[self.name] = out = out if self.edit is None else self.edit(out)
        return out

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


class EagerPeer:
    """What an eager library does: wrap every module anew for each trace, and keep every output.

    A few lines of ours that stand for the approach, not for any one library's code.
    """

    def __init__(self, model: nn.Module):
        self.model = model

    def trace(self, tokens: mx.array, edits: dict[str, Callable[[mx.array], mx.array]]) -> dict:
        kept: dict[str, Any] = {}
        undo: list[tuple[Any, Any, nn.Module]] = []
        self._wrap(self.model, "", kept, edits, undo)
        try:
            kept["__model_output__"] = self.model(tokens)
        finally:
            for holder, key, module in undo:
                holder[key] = module
        return kept

    def _wrap(self, holder: Any, prefix: str, kept: dict, edits: dict, undo: list) -> None:
        items = list(enumerate(holder) if isinstance(holder, list) else holder.items())
        for key, value in items:
            if isinstance(value, (nn.Module, list)):
                name = f"{prefix}{key}"
                self._wrap(value, f"{name}.", kept, edits, undo)
                if isinstance(value, nn.Module):
                    undo.append((holder, key, value))
                    holder[key] = Wrapped(value, name, kept, edits.get(name))


def in_turns(ways: Ways, rounds: int, warm: int = 4) -> dict[str, list[float]]:
    """Seconds of each way, round by round."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds + warm):
            for name, way in ways.items():
                start = time.perf_counter()
                mx.eval(way())
                taken = time.perf_counter() - start
                if number >= warm:
                    times[name].append(taken)
    finally:
        gc.enable()
    return times


def ratio(times: dict[str, list[float]], way: str, base: str) -> float:
    """Median of the per-round ratios of two ways."""
    pairs = zip(times[way], times[base], strict=True)
    return statistics.median(a / b for a, b in pairs)


def whole_pass(size: str, rounds: int) -> None:
    """Bare eager, bare compiled, traced, and the eager peer, on one model."""
    width, layers = SIZES[size]
    module = llama(width, layers)
    model, peer = mg.InterpretableModel(module), EagerPeer(module)
    tokens = mx.arange(LENGTH)[None] % VOCABULARY
    steer = mx.random.normal((width,))
    middle, later = layers // 2, layers // 2 + 1
    compiled = mx.compile(module, inputs=module.state)

    def traced() -> mx.array:
        with model.trace(tokens):
            model.layers[middle].output[:, -1] += 4.0 * steer
            model.layers[later].mlp.output *= 0.5
            logits = model.output.save()
        return logits

    def wrapped() -> mx.array:
        def add(h: mx.array) -> mx.array:
            h[:, -1] += 4.0 * steer
            return h

        edits = {f"model.layers.{middle}": add, f"model.layers.{later}.mlp": lambda h: h * 0.5}
        return peer.trace(tokens, edits)["__model_output__"]

    assert mx.allclose(traced(), wrapped(), atol=1e-3), "the two ways must agree"
    times = in_turns(
        {
            "bare eager": lambda: module(tokens),
            "bare compiled": lambda: compiled(tokens),
            "traced": traced,
            "eager peer": wrapped,
        },
        rounds,
    )
    medians = {name: 1e3 * statistics.median(taken) for name, taken in times.items()}
    print(
        f"| {size} | {medians['bare eager']:.2f} | {medians['bare compiled']:.2f} "
        f"| {medians['traced']:.2f} | {medians['eager peer']:.2f} "
        f"| **{ratio(times, 'traced', 'bare compiled'):.3f}** (aim {AIMS[size]}) "
        f"| {ratio(times, 'traced', 'bare eager'):.3f} "
        f"| {ratio(times, 'eager peer', 'bare eager'):.3f} |"
    )


def recording(rounds: int) -> None:
    """Microseconds for each further recorded operation and each further save (nothing runs)."""
    model = mg.InterpretableModel(llama(64, 4))
    tokens = mx.arange(LENGTH)[None]

    def block(operations: int, saves: int) -> Callable[[], list]:
        def go() -> list:
            with model.trace(tokens, compile=True):
                h = model.layers[1].output
                x = h
                for _ in range(operations):
                    x = x * 0.5
                kept = [h[:, i % LENGTH].save() for i in range(saves)]
                last = x[0, -1].save()
            return [last, kept]

        return go

    def only_record(operations: int) -> Callable[[], list]:
        class Stop(Exception):
            pass

        def go() -> list:
            try:
                with model.trace(tokens):
                    x = model.layers[1].output
                    for _ in range(operations):
                        x = x * 0.5
                    raise Stop  # the block raises, so nothing runs
            except Stop:
                return []

        return go

    times = in_turns({"0": only_record(0), "100": only_record(100)}, rounds)
    each = _slope(times, "0", "100", 100)
    print(f"| one recorded operation | {1e6 * each:.1f} us |")
    empty = statistics.median(times["0"])
    print(
        f"| opening and closing a block, with nothing in it but one read | {1e6 * empty:.0f} us |"
    )
    times = in_turns({"1": block(3, 1), "33": block(3, 33)}, rounds)
    print(f"| one further save (an index and its save, evaluated) "
          f"| {1e6 * _slope(times, '1', '33', 32):.1f} us |")  # fmt: skip


def _slope(times: dict[str, list[float]], low: str, high: str, steps: int) -> float:
    pairs = zip(times[low], times[high], strict=True)
    return statistics.median(b - a for a, b in pairs) / steps


def early_saves(rounds: int) -> None:
    """A save at layer k costs the layers up to k, not the whole forward."""
    width, layers = SIZES["512 x 12"]
    module = llama(width, layers)
    model = mg.InterpretableModel(module)
    tokens = mx.arange(LENGTH)[None]

    def save_at(k: int) -> Callable[[], mx.array]:
        def go() -> mx.array:
            with model.trace(tokens):
                h = model.layers[k].output.save()
            return h

        return go

    def whole() -> mx.array:
        with model.trace(tokens):
            out = model.output.save()
        return out

    marks = [0, 2, 5, 8, layers - 1]
    times = in_turns({"all": whole, **{str(k): save_at(k) for k in marks}}, rounds)
    for k in marks:
        part = (k + 1) / layers
        print(f"| layer {k} | {part:.2f} | {ratio(times, str(k), 'all'):.2f} |")


def compilations(traces: int) -> None:
    """How often 1,000 traces compile that differ only in a vector and a number."""
    model = mg.InterpretableModel(llama(64, 4))
    for length in (8, 16):
        tokens = mx.arange(length)[None]
        before = model.compilations
        last: list[float] = []
        for number in range(traces):
            steer = mx.full((64,), number / traces)
            with model.trace(tokens):
                model.layers[2].output[:, -1] += (0.1 * number) * steer
                logits = model.output[0, -1].save()
            last.append(logits[0].item())
        count = model.compilations - before
        print(f"| {length} | {traces} | {len(set(last))} | {count} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the smallest size, few rounds")
    quick = parser.parse_args().quick
    print("Milliseconds for one forward (batch 1, length 16) to the logits.\n")
    print("| model | bare eager | bare compiled | traced | eager peer "
          "| traced / compiled | traced / eager | peer / eager |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for size in list(SIZES)[: 1 if quick else None]:
        rounds = {"64 x 4": 300, "512 x 12": 120, "1024 x 16": 60}[size]
        whole_pass(size, 40 if quick else rounds)
    print("\n| recording | |\n|---|---|")
    recording(30 if quick else 200)
    print("\n| a save at | share of the layers | time / whole traced forward |\n|---|---|---|")
    early_saves(8 if quick else 40)
    print("\n| tokens | traces | different results | compilations |\n|---|---|---|---|")
    compilations(100 if quick else 1000)


if __name__ == "__main__":
    main()
