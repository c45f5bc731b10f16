"""What a kept prefix saves: one edit of a long text, from its first edited token on.

Predicted: an edit of the last token of a text costs what a forward on one token costs, and half a
millisecond of Python to see that no weight has changed; one of the middle, half of the whole
forward.  The first run of a text makes the prefix, and costs a forward more.

    python benchmarks/prefix.py
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from llamas import llama
from mlx_lm.models.cache import make_prompt_cache
from report import main, markdown, middle

import mlxgraph as mg
from mlxgraph.analysis.in_turns import in_turns, ratios, spread

WIDTH, LAYERS, LENGTH, ROUNDS = 512, 12, 512, 5


def measured(quick: bool) -> dict[str, Any]:
    """Seconds of each way, for edits at several positions, each from the same text."""
    width, layers, length = (64, 2, 32) if quick else (WIDTH, LAYERS, LENGTH)
    module = llama(width, layers)
    model = mg.InterpretableModel(module)
    tokens = (7 * mx.arange(length)[None]) % 1000
    vector = mx.random.normal((width,))
    cache = make_prompt_cache(module)
    module(tokens[:, :-1], cache=cache)
    mx.eval([one.state for one in cache])

    def one_token() -> mx.array:
        for one in cache:
            one.trim(one.offset - (length - 1))
        return module(tokens[:, -1:], cache=cache)[:, -1]

    found = {}
    for at in (length - 1, length - 16, length // 2):
        with model.trace(tokens) as t:
            model.layers[layers // 2].output[:, at] += vector
            model.output[:, -1].save("logits")
        whole, part = model.compile(t.graph), model.compile(t.graph, reuse=True)
        ways = {
            "whole text": lambda whole=whole: whole(tokens)["logits"],
            "reuse=True": lambda part=part: part(tokens)["logits"],
            "bare model, one token, its own cache": one_token,
        }
        gap = mx.abs(ways["reuse=True"]() - ways["whole text"]()).max().item()
        times = in_turns(ways, ROUNDS, warm=2)
        one = times["reuse=True"]
        found[f"{at} of {length}"] = {
            "gap": gap,
            "ratio": ratios(times["whole text"].together, one.together),
            "host": spread(one.host),
            **{name: spread(way.together) for name, way in times.items()},
        }
    return found


def tables(found: dict[str, Any]) -> str:
    others = ("gap", "ratio", "host")
    names = [name for name in next(iter(found.values())) if name not in others]
    return "Milliseconds, medians and quartiles:\n\n" + markdown(
        [
            "edited token",
            *names,
            "of `reuse=True` the host's",
            "times faster",
            "largest difference",
        ],
        [
            [
                at,
                *(middle(row[name], "{:.2f}", 1e3) for name in names),
                middle(row["host"], "{:.2f}", 1e3),
                middle(row["ratio"], "{:.1f}"),
                f"{row['gap']:.1e}",
            ]
            for at, row in found.items()
        ],
    )


if __name__ == "__main__":
    main(__doc__, measured, tables)
