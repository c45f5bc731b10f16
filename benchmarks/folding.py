"""What `model.fold` takes, beside the arithmetic by hand on the same weights.

Predicted: each folded weight is read, and quantised again, once, however many edits meet in it; so
a fold takes as long as the arithmetic by hand, and some fifteen forwards of eight tokens with
their Python.  Eight edits at each module take the products of eight, and one quantisation.

    python benchmarks/folding.py
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from llamas import llama
from report import main, markdown, middle

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.analysis.in_turns import in_turns, spread

WIDTH, LAYERS, EDITS = 512, 12, 8
MODULES = ("self_attn.o_proj", "mlp.down_proj")


def measured(quick: bool) -> dict[str, Any]:
    """Seconds, in float32 and in 4 bits."""
    width, layers = (64, 2) if quick else (WIDTH, LAYERS)
    return {name: one(width, layers, name, quick) for name in ("float32", "4 bits")}


def one(width: int, layers: int, name: str, quick: bool) -> dict[str, Any]:
    """One model."""
    module = llama(width, layers, tied=False)
    if name != "float32":
        nn.quantize(module, group_size=32, bits=4)
        mx.eval(module.parameters())
    model = mg.InterpretableModel(module)
    directions = [mx.random.normal((width,)) for _ in range(EDITS)]
    graphs = [
        mg.edit("layers.*.attn", iv.project_out(v)) >> mg.edit("layers.*.mlp", iv.project_out(v))
        for v in directions
    ]
    tokens = mx.arange(8)[None]
    paths = [f"layers.{layer}.{part}" for layer in range(layers) for part in MODULES]
    unit = directions[0] / mx.linalg.norm(directions[0])

    def by_hand() -> list[mx.array]:
        found = []
        for path in paths:
            matrix = model.weight(path)
            made = matrix - unit[:, None] * (unit @ matrix)
            found += [made] if name == "float32" else mx.quantize(made, group_size=32, bits=4)
            mx.eval(found)
        return found

    def folded(graph: mg.Graph) -> list[mx.array]:
        return list(model.fold(graph).parameters().values())

    ways = {
        "by hand": by_hand,
        "fold": lambda: folded(graphs[0]),
        f"fold of {EDITS} edits": lambda: folded(mg.chain(*graphs)),
        "a forward of 8 tokens": lambda: module(tokens),
    }
    times = in_turns(ways, 3 if quick else 15, warm=1)
    return {way: spread(found.together) for way, found in times.items()}


def tables(found: dict[str, Any]) -> str:
    ways = list(next(iter(found.values())))
    rows = [
        [name, *(middle(row[way], "{:.1f}", 1e3) for way in ways)] for name, row in found.items()
    ]
    return f"Milliseconds, medians and quartiles:\n\n{markdown(['model', *ways], rows)}"


if __name__ == "__main__":
    main(__doc__, measured, tables)
