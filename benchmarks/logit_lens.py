"""What a logit lens of all layers and positions costs, in plain forwards.

Ways, all giving the top token of each layer at each position:

    forward   one plain forward, for scale
    lens      model.logit_lens(tokens): one traced pass, one norm and one product for all rows
    loop      one norm, one product and one look at the result for each layer and position

Prediction: the lens does the arithmetic of one forward and of (layers - 1) more heads, which the
column `by arithmetic` counts; it should take about that many forwards.  The loop does the same
arithmetic in products of one row, each with a wait, and should take several times as long.

    python benchmarks/logit_lens.py
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from llamas import llama
from report import main, markdown, middle, milliseconds

import mlxgraph as mg
from mlxgraph.analysis.in_turns import in_turns, ratios, spread

ROUNDS = 5
LENGTH = 16
SIZES = [(128, 6, 4_000), (256, 12, 4_000), (256, 12, 16_000)]  # width, layers, vocabulary


def by_loop(model: mg.InterpretableModel, tokens: mx.array) -> list[list[int]]:
    """The lens as one would first write it."""
    with model.trace(tokens):
        states = [layer.output.save() for layer in model.layers]
    norm, head = model.module.model.norm, model.module.lm_head
    return [
        [mx.argmax(head(norm(state[0, position]))).item() for position in range(LENGTH)]
        for state in states
    ]


def arithmetic(width: int, layers: int, vocabulary: int) -> float:
    """The lens's multiplications over a forward's (attention to so few tokens left out)."""
    block = width * width * (1 + 0.5 + 0.5 + 1) + 3 * width * 3 * width
    forward = layers * block + width * vocabulary
    return (forward + (layers - 1) * width * vocabulary) / forward


def measured(quick: bool) -> list[dict[str, Any]]:
    """Seconds of each way, for each size."""
    found = []
    for width, layers, vocabulary in SIZES[: 1 if quick else None]:
        module = llama(width, layers, vocabulary, tied=False)
        model = mg.InterpretableModel(module)
        tokens = mx.random.randint(0, vocabulary, (1, LENGTH))
        lens = model.logit_lens(tokens)
        assert [[p[0][0] for p in lens[n]] for n in range(layers)] == by_loop(model, tokens)
        ways = {
            "forward": lambda module=module, tokens=tokens: module(tokens),
            "lens": lambda model=model, tokens=tokens: model.logit_lens(tokens),
            "loop": lambda model=model, tokens=tokens: by_loop(model, tokens),
        }
        times = in_turns(ways, 2 if quick else ROUNDS, warm=2)
        forward = times["forward"].together
        found.append(
            {
                "size": f"{width} x {layers}, {vocabulary:,}",
                "forward": spread(forward).median,
                "by arithmetic": arithmetic(width, layers, vocabulary),
                **{way: ratios(times[way].together, forward) for way in ("lens", "loop")},
            }
        )
    return found


def tables(found: list[dict[str, Any]]) -> str:
    head = ["width x layers, vocabulary", "forward, ms", "lens by arithmetic", "lens", "loop"]
    return "In forwards, medians and quartiles:\n\n" + markdown(
        head,
        [
            [row["size"], milliseconds(row["forward"]), f"{row['by arithmetic']:.1f}",
             middle(row["lens"], "{:.1f}"), middle(row["loop"], "{:.1f}")]
            for row in found
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main(__doc__, measured, tables)
