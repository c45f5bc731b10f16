"""What a trace costs: a warm traced pass, block included, against the bare model.

Predicted (aims): the host time of a block beyond that of the bare compiled call is at most 150 us
at 64 x 4 and 400 us at 64 x 80, that of `model.run` 60, of a compiled pass 40 and of `@model.pass_`
50; a traced pass takes 1.15, 1.02 and 1.01 times the bare compiled model at 64 x 4, 512 x 12 and
1024 x 16.  300 recorded operations take 1.2 ms, 100 indexed saves 0.9 ms.  A save at layer k of n
costs (k + 1)/n of the forward.  1,000 traces that differ in a vector and a number compile once for
each length.  `import mlxgraph` takes 0.25 s.

    python benchmarks/trace_overhead.py            # all sizes, a few minutes
    python benchmarks/trace_overhead.py --quick    # the smallest size, few rounds
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from llamas import llama
from report import main, markdown, middle, milliseconds

import mlxgraph as mg
from mlxgraph.analysis.in_turns import Times, differences, in_turns, once, ratios, spread

SIZES = {  # width, layers, rounds
    "64 x 4": (64, 4, 300),
    "64 x 16": (64, 16, 200),
    "64 x 80": (64, 80, 80),
    "512 x 12": (512, 12, 80),
    "1024 x 16": (1024, 16, 40),
}
RATIOS = {"64 x 4": 1.15, "512 x 12": 1.02, "1024 x 16": 1.01}
HOST = {  # microseconds beyond the bare compiled call
    ("traced block", "64 x 4"): 150,
    ("traced block", "64 x 80"): 400,
    ("model.run", "64 x 4"): 60,
    ("compiled pass", "64 x 4"): 40,
    ("@model.pass_", "64 x 4"): 50,
}
OURS = ("traced block", "model.run", "compiled pass", "@model.pass_")
LENGTH = 16
OPERATIONS, SAVES = 300, 100
IMPORT = (
    "import time; start = time.perf_counter(); import mlxgraph; print(time.perf_counter() - start)"
)


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


def ways_of(module: nn.Module, width: int, layers: int) -> dict[str, Callable[[], mx.array]]:
    """One edited forward, to the logits, in every way that there is."""
    model, peer = mg.InterpretableModel(module), EagerPeer(module)
    tokens = mx.arange(LENGTH)[None]
    steer = mx.random.normal((width,))
    middle, later = layers // 2, layers // 2 + 1
    compiled = mx.compile(module, inputs=module.state)

    def edited(m: Any, vector: Any) -> Any:
        m.layers[middle].output[:, -1] += 4.0 * vector
        m.layers[later].mlp.output *= 0.5
        return m.output.save("logits")

    def block() -> mx.array:
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

    with model.trace(tokens) as trace:
        edited(model, steer)
    graph, run, function = trace.graph, model.compile(trace.graph), model.pass_(edited)
    return {
        "bare eager": lambda: module(tokens),
        "bare compiled": lambda: compiled(tokens),
        "traced block": block,
        "model.run": lambda: model.run(graph, tokens).saves["logits"],
        "compiled pass": lambda: run(tokens).saves["logits"],
        "@model.pass_": lambda: function(tokens, steer),
        "eager peer": wrapped,
    }


def whole_pass(size: str, quick: bool) -> dict[str, Any]:
    """Every way's times, and what each takes beyond the bare compiled call."""
    width, layers, rounds = SIZES[size]
    ways = ways_of(llama(width, layers), width, layers)
    logits = ways["eager peer"]()
    for name in OURS:
        assert mx.allclose(ways[name](), logits, atol=1e-3), f"{name} must agree"
    times = in_turns(ways, 40 if quick else rounds)
    base = times["bare compiled"]
    return {
        name: {
            "host": spread(found.host),
            "together": spread(found.together),
            "host beyond": differences(found.host, base.host),
            "ratio": ratios(found.together, base.together),
        }
        for name, found in times.items()
    }


def recording(rounds: int) -> dict[str, float]:
    """Seconds of recording, and of further operations and saves."""
    model = mg.InterpretableModel(llama(64, 4))
    tokens = mx.arange(LENGTH)[None]

    def saving(count: int) -> Callable[[], list]:
        def go() -> list:
            with model.trace(tokens, compile=True):
                h = model.layers[1].output
                kept = [h[:, i % LENGTH].save() for i in range(count)]
            return kept

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

    blocks = in_turns({"none": only_record(0), "many": only_record(OPERATIONS)}, rounds)
    saves = in_turns({"one": saving(1), "many": saving(1 + SAVES)}, rounds)
    return {
        "block": spread(blocks["none"].host).median,
        "operations": differences(blocks["many"].host, blocks["none"].host).median,
        "saves": differences(saves["many"].host, saves["one"].host).median,
        "saves, computed": differences(saves["many"].together, saves["one"].together).median,
    }


def early_saves(rounds: int) -> dict[str, list[float]]:
    """A save at layer k costs the layers up to k: share of the layers, and of the time."""
    width, layers, _ = SIZES["512 x 12"]
    model = mg.InterpretableModel(llama(width, layers))
    tokens = mx.arange(LENGTH)[None]

    def saving(site: Callable[[], Any]) -> Callable[[], mx.array]:
        def go() -> mx.array:
            with model.trace(tokens):
                h = site().save()
            return h

        return go

    marks = [0, 2, 5, 8, layers - 1]
    ways = {str(k): saving(lambda k=k: model.layers[k].output) for k in marks}
    times: dict[str, Times] = in_turns({"all": saving(lambda: model.output), **ways}, rounds)
    whole = times["all"].together
    return {
        f"layer {k}": [(k + 1) / layers, ratios(times[str(k)].together, whole).median]
        for k in marks
    }


def compilations(traces: int) -> dict[str, list[int]]:
    """How often traces compile that differ only in a vector and a number, for each length."""
    model = mg.InterpretableModel(llama(64, 4))
    found = {}
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
        found[str(length)] = [traces, len(set(last)), model.compilations - before]
    return found


def cold(times: int) -> dict[str, float]:
    """Seconds of the import, in a process of its own, and of a first forward, bare and traced."""
    command = [sys.executable, "-c", IMPORT]
    imports = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(times)
    ]
    module = llama(*SIZES["64 x 80"][:2])
    model = mg.InterpretableModel(module)
    tokens = mx.arange(LENGTH)[None]

    def traced() -> mx.array:
        with model.trace(tokens):
            logits = model.output.save()
        return logits

    return {
        "import": statistics.median(imports),
        "forward": sum(once(lambda: module(tokens))),
        "traced": sum(once(traced)),
    }


def measured(quick: bool) -> dict[str, Any]:
    return {
        "sizes": {size: whole_pass(size, quick) for size in list(SIZES)[: 1 if quick else None]},
        "recording": recording(30 if quick else 200),
        "early saves": early_saves(8 if quick else 40),
        "compilations": compilations(100 if quick else 1000),
        "cold": cold(1 if quick else 5),
    }


def tables(found: dict[str, Any]) -> str:
    sizes, recorded, first = found["sizes"], found["recording"], found["cold"]
    ways = list(next(iter(sizes.values())))
    return "\n\n".join(
        [
            "Milliseconds of one forward to the logits (batch 1, length 16), computed; medians:",
            markdown(
                ["model", *ways],
                [
                    [size, *(milliseconds(row[way]["together"][1]) for way in ways)]
                    for size, row in sizes.items()
                ],
            ),
            "The same over the bare compiled model, round by round; medians and quartiles:",
            markdown(
                ["model", *OURS, "eager peer", "aim for the block"],
                [
                    [size, *(middle(row[way]["ratio"], "{:.3f}") for way in (*OURS, "eager peer")),
                     f"{RATIOS[size]:.2f}" if size in RATIOS else ""]
                    for size, row in sizes.items()
                ],
            ),
            untold(sizes),
            "Microseconds of host time beyond the bare compiled call, round by round; medians and"
            " quartiles, and the aim where there is one:",
            markdown(
                ["model", "of the bare call itself", *OURS],
                [
                    [size, middle(row["bare compiled"]["host"], "{:.0f}", 1e6),
                     *(_beyond(row[way]["host beyond"], HOST.get((way, size))) for way in OURS)]
                    for size, row in sizes.items()
                ],
            ),
            markdown(
                ["recording, 64 x 4", "measured", "aim"],
                [
                    ["a block with one read, which is not run", _us(recorded["block"]), ""],
                    [f"{OPERATIONS} operations", _us(recorded["operations"]), "1,200 us"],
                    [f"{SAVES} indexed saves, host", _us(recorded["saves"]), "900 us"],
                    ["the same, computed", _us(recorded["saves, computed"]), ""],
                ],
            ),
            markdown(
                ["a save at", "share of the layers", "time / whole traced forward"],
                [[at, *(f"{x:.2f}" for x in row)] for at, row in found["early saves"].items()],
            ),
            markdown(
                ["tokens", "traces", "different results", "compilations"],
                [[n, *(f"{x:,}" for x in row)] for n, row in found["compilations"].items()],
            ),
            markdown(
                ["the first time", "measured"],
                [
                    ["`import mlxgraph` (aim 0.25 s)", f"{first['import']:.2f} s"],
                    ["a forward of 64 x 80", f"{milliseconds(first['forward'])} ms"],
                    ["a traced forward of 64 x 80", f"{milliseconds(first['traced'])} ms"],
                ],
            ),
        ]
    )  # fmt: skip


def untold(sizes: dict[str, Any]) -> str:
    """Which ratios the machine was too noisy to tell from one."""
    found = {
        size: [
            way
            for way in (*OURS, "eager peer")
            if row[way]["ratio"][0] <= 1 <= row[way]["ratio"][2]
        ]
        for size, row in sizes.items()
    }
    said = [f"at {size} {', '.join(ways)}" for size, ways in found.items() if ways]
    return f"Too noisy to tell from the bare compiled model: {'; '.join(said) or 'nothing'}."


def _beyond(found: list[float], aim: int | None) -> str:
    shown = middle(found, "{:.0f}", 1e6)
    return shown if aim is None else f"{shown}, aim {aim}"


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:,.0f} us"


if __name__ == "__main__":
    main(__doc__, measured, tables)
