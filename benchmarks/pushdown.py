"""What the slice push-down saves: logits of the last position, head on one position or on all.

Predicted: without it the head costs length x width x vocabulary multiplications, of which one
position's are used; what is saved is that share of the forward.  The bare model, sliced after,
takes as long as the pass with the push-down off.

    python benchmarks/pushdown.py
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from llamas import llama
from report import main, markdown, middle

import mlxgraph as mg
from mlxgraph.analysis.in_turns import in_turns, spread

WIDTH, LAYERS, LENGTH, VOCABULARY, ROUNDS = 256, 4, 512, 32_000, 5


def measured(quick: bool) -> dict[str, Any]:
    """Seconds of each way, with the head tied to the embedding and not."""
    length, vocabulary = (32, 1000) if quick else (LENGTH, VOCABULARY)
    tokens = mx.arange(length)[None] % vocabulary
    found = {}
    for head in ("tied", "untied"):
        module = llama(WIDTH, LAYERS, vocabulary, tied=head == "tied")
        model = mg.InterpretableModel(module)
        with model.trace(tokens) as t:
            model.layers[0].output *= 1.01
            model.output[:, -1].save("logits")
        off, on = model.compile(t.graph, optimize=False), model.compile(t.graph)
        ways = {
            "bare model, sliced after": lambda module=module: module(tokens)[:, -1],
            "pass, push-down off": lambda off=off: off(tokens)["logits"],
            "pass, push-down on": lambda on=on: on(tokens)["logits"],
        }
        gap = mx.abs(ways["pass, push-down on"]() - ways["pass, push-down off"]()).max().item()
        times = in_turns(ways, ROUNDS, warm=2)
        found[f"{head} head"] = {
            "gap": gap,
            **{name: spread(one.together) for name, one in times.items()},
        }
    return found


def tables(found: dict[str, Any]) -> str:
    names = [name for name in next(iter(found.values())) if name != "gap"]
    return "Milliseconds, medians and quartiles:\n\n" + markdown(
        ["", *names, "largest difference, on and off"],
        [
            [head, *(middle(row[name], "{:.1f}", 1e3) for name in names), f"{row['gap']:.1e}"]
            for head, row in found.items()
        ],
    )


if __name__ == "__main__":
    main(__doc__, measured, tables)
