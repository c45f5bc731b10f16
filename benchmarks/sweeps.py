"""Sweeps: many variants of an edit, against the loop of bare compiled forwards, one a variant.

Variants of activation patching, on random mlx-lm Llamas (width x layers, float32, one text):

    layers               the attention's output of each layer
    layers x positions   the stream after each layer, at each position
    layers x heads       each head's output, in each layer
    strengths            a vector added after the middle layer, 32 strengths

The loop is of the bare model under `mx.compile`, to the logits of the last position, on the same
text: no edit, and so less than any loop of edited runs.  Its time is that of a few forwards times
the number of variants.  `model.sweep` gets graphs that are made before, and gives one number for
each; "with the graphs" is all of it, graphs and clean values included.

Aims, written before the first measurement of this script, at 512 x 12 with 12 tokens: 5.5 times
(layers), 11 (layers x positions), 6 (layers x heads); never below 1, and the values of a loop.

    python benchmarks/sweeps.py [--quick]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from llamas import llama
from report import main, markdown, milliseconds

import mlxgraph as mg
from mlxgraph.analysis.in_turns import in_turns, peak_memory, spread

MIB = 1 << 20
SAMPLE = 6  # forwards of the loop that are timed, and variants whose values are compared
ENOUGH = 3.0  # seconds of one sweep from which on it is measured once
ROUNDS, MANY = 2, 9  # beside the first
SHORT = 0.5  # seconds of one sweep up to which there are many rounds
STRENGTHS = 32
LIMIT = 64  # MiB
Row = dict[str, Any]


class Case(NamedTuple):
    """One line of the table.  Attributes: every: of positions, one in so many."""

    width: int
    layers: int
    length: int
    what: str
    every: int = 1


CASES = (
    Case(512, 12, 12, "layers"),
    Case(512, 12, 12, "layers x positions"),
    Case(512, 12, 48, "layers x positions"),
    Case(512, 12, 256, "layers x positions", every=64),
    Case(512, 12, 12, "layers x heads"),
    Case(512, 12, 12, "strengths"),
    Case(64, 4, 12, "layers"),
    Case(64, 4, 12, "layers x positions"),
    Case(64, 4, 12, "layers x heads"),
    Case(1024, 16, 12, "layers"),
    Case(1024, 16, 12, "layers x positions"),
    Case(1024, 16, 12, "layers x heads"),
)
QUICK = (
    Case(64, 4, 6, "layers"),
    Case(64, 4, 6, "layers x positions", every=2),
    Case(64, 4, 6, "layers x heads"),
    Case(64, 4, 6, "strengths"),
)


def score(logits: mx.array) -> mx.array:
    """What is kept of a run."""
    return logits[3] - logits[5]


class Variants:
    """The graphs of a case, made by the public calls that a user has."""

    def __init__(self, model: Any, case: Case):
        self.model, self.case = model, case
        self.clean = mx.arange(case.length)[None] % 900
        self.text = self.clean + mx.where(mx.arange(case.length) == 1, 77, 0)[None]
        self.vector = mx.random.normal((case.width,), key=mx.random.key(0))

    def graphs(self) -> list[Any]:
        """One for each variant: each is recorded in the first layer, and aimed at the others."""
        case, layers = self.case, range(self.case.layers)
        if case.what == "strengths":
            return [self._steered(2.0 * k / STRENGTHS) for k in range(STRENGTHS)]
        kept = self._kept()
        if case.what == "layers":
            parts: Sequence[tuple] = [(slice(None),)]
        elif case.what == "layers x positions":
            parts = [(slice(None), slice(p, p + 1)) for p in range(0, case.length, case.every)]
        else:
            parts = [(slice(None), slice(head, head + 1)) for head in range(8)]
        found = []
        for part in parts:
            first = self._patched(kept[0], part)
            found += [
                first.retarget({"layers.0": f"layers.{k}"}).replace(constants=(kept[k][part],))
                for k in layers
            ]
        return found

    def _site(self, layer: int) -> Any:
        block = self.model.layers[layer]
        if self.case.what == "layers":
            return block.attn.output
        return block.attn.heads if self.case.what == "layers x heads" else block.output

    def _kept(self) -> list[mx.array]:
        with self.model.trace(self.clean):
            kept = [self._site(k).save() for k in range(self.case.layers)]
        mx.eval(kept)
        return kept

    def _patched(self, value: mx.array, part: tuple) -> Any:
        with self.model.trace(self.text) as trace:
            self._site(0)[part] = value[part]
        return trace.graph

    def _steered(self, strength: float) -> Any:
        with self.model.trace(self.text) as trace:
            self.model.layers[self.case.layers // 2].output += strength * self.vector
        return trace.graph


def _measured(case: Case, module: Any) -> Row:
    model = mg.InterpretableModel(module)
    variants = Variants(model, case)
    graphs, text = variants.graphs(), variants.text
    bare = mx.compile(lambda tokens: module(tokens)[:, -1])
    few = [graphs[k] for k in np.linspace(0, len(graphs) - 1, SAMPLE).astype(int)]

    def sweep(some: Sequence[Any] = graphs) -> Any:
        return model.sweep(text, some, metric=score, progress=False)

    def anew() -> Any:
        return sweep(variants.graphs())

    sweep(few)  # what is found out once for a model, and compiled
    took = _seconds(sweep)
    if took < ENOUGH:  # a batch that comes again is compiled
        sweep()
        took = _seconds(sweep)
    values = np.asarray(sweep(few))
    alone = [score(model.run(g, text).output[0, -1]).item() for g in few]
    plan = model.sweep_plan(text, graphs, metric=score)
    ways: dict[str, Callable[[], Any]] = {
        "forward": lambda: [bare(text)],
        "sweep": lambda: sweep().values,
        "anew": lambda: anew().values,
    }
    times: dict[str, list[float]] = {"forward": [], "sweep": [took], "anew": []}
    for _ in range(MANY if took < SHORT else ROUNDS if took < ENOUGH else 1):
        for name, way in ways.items():
            if name == "sweep" and took > ENOUGH:
                continue
            repeats = SAMPLE if name == "forward" else 1
            found = in_turns({name: way}, repeats, warm=int(name == "forward"))
            times[name] += found[name].together
    forward = spread(times["forward"])
    return {
        "size": f"{case.width} x {case.layers}",
        "length": case.length,
        "what": case.what if case.every == 1 else f"{case.what}, one of {case.every}",
        "variants": len(graphs),
        "forward": forward,
        "sweep": spread(times["sweep"]),
        "anew": spread(times["anew"]),
        "counted": plan.work_of_a_loop / plan.work,
        "gap": float(np.abs(values - np.asarray(alone)).max()),
    }


def _seconds(way: Callable[[], Any]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def _memory(quick: bool) -> Row:
    """The peak of one sweep, with a limit and without."""
    case = Case(64, 4, 6, "layers x positions") if quick else Case(512, 12, 48, "layers", 1)
    limit = (1 if quick else LIMIT) * MIB
    model = mg.InterpretableModel(llama(case.width, case.layers))
    variants = Variants(model, case)
    graphs = variants.graphs() * (1 if quick else 4)

    def under(memory_limit: int | None) -> Any:
        return model.sweep(
            variants.text, graphs, metric=score, memory_limit=memory_limit, progress=False
        ).values

    under(limit)
    return {
        "case": f"{case.width} x {case.layers}, {len(graphs)} variants, {case.length} tokens",
        "limit": limit,
        "free": peak_memory(lambda: under(None), calls=1),
        "limited": peak_memory(lambda: under(limit), calls=1),
    }


def measured(quick: bool) -> dict[str, Any]:
    """Each case, and the memory of one."""
    modules: dict[tuple[int, int], Any] = {}
    rows = []
    for case in QUICK if quick else CASES:
        size = case.width, case.layers
        if size not in modules:
            modules = {size: llama(case.width, case.layers)}
        rows.append(_measured(case, modules[size]))
    return {"rows": rows, "memory": _memory(quick)}


def tables(found: dict[str, Any]) -> str:
    head = [
        "model", "tokens", "sweep over", "variants", "loop (s)", "sweep (s)", "times faster",
        "with the graphs", "counted work", "largest difference",
    ]  # fmt: skip
    lines = []
    for row in found["rows"]:
        loop = row["variants"] * row["forward"][1]
        lines.append([
            row["size"], str(row["length"]), row["what"], str(row["variants"]), f"{loop:.2f}",
            f"{row['sweep'][1]:.2f}", f"{loop / row['sweep'][1]:.1f}",
            f"{loop / row['anew'][1]:.1f}", f"{row['counted']:.1f}", f"{row['gap']:.0e}",
        ])  # fmt: skip
    memory = found["memory"]
    limit, free, limited = (memory[name] / MIB for name in ("limit", "free", "limited"))
    one = ", ".join(
        f"{row['size']} at {row['length']}: {milliseconds(row['forward'][1])}"
        for row in {(r["size"], r["length"]): r for r in found["rows"]}.values()
    )
    return (
        "The loop is so many times one bare compiled forward, the median of some (milliseconds, "
        f"{one}). Seconds, medians; times faster than the loop, measured and as the plan counts "
        "it:\n\n"
        + markdown(head, lines)
        + f"\n\nPeak memory of a sweep ({memory['case']}): {free:.0f} MiB, and with "
        f"`memory_limit` of {limit:.0f} MiB {limited:.0f} MiB."
    )


if __name__ == "__main__":
    main(__doc__, measured, tables)
