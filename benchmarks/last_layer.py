"""What the last layer at one position saves: logits of the last token, its queries there or at all.

Predicted: of the last layer's matrices only keys and values see all positions, 1/12 of its
numbers at 512 wide.  So 11/12 of one layer in twelve go, and the head's other positions: the bare
model takes 1.09 times as long where arithmetic decides, less where reading the weights does.

    OPENBLAS_NUM_THREADS=1 python benchmarks/last_layer.py

One thread, so that processor time says what is computed; threads of BLAS that wait take some too.
"""

from __future__ import annotations

import time
from typing import Any

import mlx.core as mx
from llamas import llama
from report import main, markdown, middle

import mlxgraph as mg
from mlxgraph.analysis.in_turns import in_turns, ratios, spread

WIDTH, LAYERS, VOCABULARY = 512, 12, 1000
LENGTHS = {12: 31, 256: 5}  # tokens -> rounds
BARE, LAST = "bare model, compiled", "last layer too"


def measured(quick: bool) -> dict[str, Any]:
    """Seconds of each way, and how many times as long the bare compiled model takes."""
    module = llama(64, 2) if quick else llama(WIDTH, LAYERS, VOCABULARY)
    model = mg.InterpretableModel(module)
    bare = mx.compile(lambda tokens: module(tokens)[:, -1], inputs=module.state)
    found = {}
    for length, rounds in LENGTHS.items():
        tokens = mx.arange(length)[None] % VOCABULARY
        with model.trace(tokens) as t:
            model.output[:, -1].save("logits")
        passes = {
            name: model.compile(t.graph, optimize=optimize)
            for name, optimize in (
                ("pass, head at all", False),
                ("head at one position", "pushdown"),
                (LAST, True),
            )
        }
        ways: dict[str, Any] = {BARE: lambda tokens=tokens: bare(tokens)}
        for name, one in passes.items():
            ways[name] = lambda one=one, tokens=tokens: one(tokens)["logits"]
        plain, few = [mx.array(ways[name]()) for name in (BARE, LAST)]
        times = in_turns(ways, 3 if quick else rounds)
        base = times[BARE].together
        found[f"{length} tokens"] = {
            "gap": (mx.abs(plain - few).max() / mx.abs(plain).max()).item(),
            "milliseconds": {name: spread(one.together) for name, one in times.items()},
            "faster": {name: ratios(base, one.together) for name, one in times.items()},
            "work": ratios(*_processor_times([ways[BARE], ways[LAST]], 3 if quick else rounds)),
        }
    return found


def _processor_times(ways: list[Any], rounds: int) -> list[list[float]]:
    """Seconds of all this process's threads, which others on the machine do not lengthen."""
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, found in zip(ways, seconds, strict=True):
            start = time.process_time()
            mx.eval(way())
            found.append(time.process_time() - start)
    return seconds


def tables(found: dict[str, Any]) -> str:
    names = [*next(iter(found.values()))["milliseconds"]]
    times = markdown(
        ["", *names, "largest difference"],
        [
            [
                length,
                *(middle(row["milliseconds"][name], "{:.1f}", 1e3) for name in names),
                f"{row['gap']:.0e}",
            ]
            for length, row in found.items()
        ],
    )
    faster = markdown(
        ["", *names[1:], f"{LAST}, in processor time"],
        [
            [
                length,
                *(middle(row["faster"][name], "{:.3f}") for name in names[1:]),
                middle(row["work"], "{:.3f}"),
            ]
            for length, row in found.items()
        ],
    )
    return (
        "Milliseconds, medians and quartiles; differences as a share of the largest logit:\n\n"
        f"{times}\n\nTimes as fast as the bare model, round by round:\n\n{faster}"
    )


if __name__ == "__main__":
    main(__doc__, measured, tables)
