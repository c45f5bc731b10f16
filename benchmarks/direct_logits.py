"""What direct logit attribution costs, in plain forwards.

Ways, on one text, of the last position and one token:

    forward     one plain forward, for scale
    component   model.direct_logit_attribution(tokens, token)
    head, neuron, position    the same, `by=` these

Prediction: a traced forward, in which a few values of each layer are saved, a product with each
projection of the chosen kind, and some ten small steps in numpy for each layer: by head at most 1.5
forwards at 512 x 12.  By neuron and by position somewhat more, for larger products.

    python benchmarks/direct_logits.py
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from llamas import llama
from report import main, markdown, middle, milliseconds

import mlxgraph as mg
from mlxgraph.analysis.in_turns import in_turns, ratios, spread

ROUNDS = 9
LENGTH = 12
SIZES = [(64, 4), (512, 12), (1024, 16)]  # width, layers
WAYS = ("component", "head", "neuron", "position")


def measured(quick: bool) -> list[dict[str, Any]]:
    """Seconds of each way, for each size."""
    found = []
    for width, layers in SIZES[: 1 if quick else None]:
        module = llama(width, layers, tied=False)
        model = mg.InterpretableModel(module)
        tokens = mx.random.randint(0, 1000, (1, LENGTH))
        ways: dict[str, Any] = {"forward": lambda module=module, tokens=tokens: module(tokens)}
        for by in WAYS:
            ways[by] = lambda model=model, tokens=tokens, by=by: (
                model.direct_logit_attribution(tokens, 17, by=by).values
            )
        times = in_turns(ways, 2 if quick else ROUNDS, warm=3)
        forward = times["forward"].together
        found.append(
            {
                "size": f"{width} x {layers}",
                "forward": spread(forward).median,
                **{by: ratios(times[by].together, forward) for by in WAYS},
            }
        )
    return found


def tables(found: list[dict[str, Any]]) -> str:
    return f"In forwards on {LENGTH} tokens, medians and quartiles:\n\n" + markdown(
        ["width x layers", "forward, ms", *(f"by {by}" for by in WAYS)],
        [
            [row["size"], milliseconds(row["forward"])] + [middle(row[by], "{:.2f}") for by in WAYS]
            for row in found
        ],
    )


if __name__ == "__main__":
    main(__doc__, measured, tables)
