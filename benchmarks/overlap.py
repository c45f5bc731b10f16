"""What `start=True` saves in a loop of traces: the host's work goes on while MLX computes.

Predicted: begun as its block ends, a trace's forward is computed while the next block is recorded,
so that a trace of the loop takes as long as the longer of the two; computed one by one, it takes
both.

    python benchmarks/overlap.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from llamas import llama
from report import main, markdown, middle

import mlxgraph as mg
from mlxgraph.analysis.in_turns import in_turns, ratios, spread

SIZES = {"64 x 4": (64, 4, 40), "64 x 16": (64, 16, 20), "512 x 12": (512, 12, 10)}
LENGTH, TRACES = 16, 10


def measured(quick: bool) -> dict[str, Any]:
    """Seconds a forward, in a loop of some."""
    return {size: loops(*SIZES[size], quick) for size in list(SIZES)[: 1 if quick else None]}


def loops(width: int, layers: int, rounds: int, quick: bool) -> dict[str, Any]:
    """One size."""
    module = llama(width, layers)
    model = mg.InterpretableModel(module)
    tokens, steer = mx.arange(LENGTH)[None], mx.random.normal((width,))
    compiled = mx.compile(module, inputs=module.state)

    def traced(start: bool) -> mx.array:
        with model.trace(tokens, start=start):
            model.layers[layers // 2].output[:, -1] += 4.0 * steer
            logits = model.output.save()
        return logits

    def one_by_one(forward: Callable[[], mx.array]) -> Callable[[], list[mx.array]]:
        def go() -> list[mx.array]:
            found = []
            for _ in range(TRACES):
                found.append(forward())
                mx.eval(found[-1])
            return found

        return go

    ways = {
        "bare compiled": one_by_one(lambda: compiled(tokens)),
        "traced": one_by_one(lambda: traced(False)),
        "traced with start=True": lambda: [traced(True) for _ in range(TRACES)],
    }
    times = in_turns(ways, 5 if quick else rounds, warm=2)
    base = times["bare compiled"].together
    return {
        name: {
            "each": spread(seconds / TRACES for seconds in one.together),
            "ratio": ratios(one.together, base),
        }
        for name, one in times.items()
    }


def tables(found: dict[str, Any]) -> str:
    ways = list(next(iter(found.values())))
    rows = [
        [
            size,
            *(middle(row[way]["each"], "{:.2f}", 1e3) for way in ways),
            *(f"{row[way]['ratio'][1]:.3f}" for way in ways[1:]),
        ]
        for size, row in found.items()
    ]
    head = ["model", *ways, *(f"{way}, over bare" for way in ways[1:])]
    said = f"Milliseconds a forward, in a loop of {TRACES}; medians and quartiles:"
    return f"{said}\n\n{markdown(head, rows)}"


if __name__ == "__main__":
    main(__doc__, measured, tables)
