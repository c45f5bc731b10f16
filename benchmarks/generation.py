"""What generating under edits costs beside mlx-lm's own loop: the time of one more token.

Predicted: the stand-in and the plan are made once for a generation, so that a token adds the hooks'
Python and the edits' arithmetic alone: 1.00 to 1.04 of mlx-lm's own time at 512 x 12, and more at
64 x 4, where a token is a third of a millisecond of Python to begin with.  Without edits nothing is
hooked.  The first token also pays for two censuses and the recording.  Compiled, a step is 0.99 of
mlx-lm's own at 512 x 12 and 0.55 to 0.61 at 64 x 4.

    python benchmarks/generation.py
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
from llamas import llama
from mlx_lm.generate import generate_step
from report import main, markdown, middle

import mlxgraph as mg
from mlxgraph.analysis.in_turns import in_turns, spread

SIZES = ((64, 4), (512, 12))
PROMPT, TOKENS, ROUNDS = 32, 49, 7
OWN = "mlx-lm's own"


def mlx_lm(model: mg.InterpretableModel, prompt: list[int], edit: Any, count: int) -> list[int]:
    found = []
    for token, _ in generate_step(mx.array(prompt), model.module, max_tokens=count):
        found.append(token)
        if len(found) == count:
            break
    return found


def ours(
    model: mg.InterpretableModel, prompt: list[int], edit: Any, count: int, compile: bool = False
) -> list[int]:
    with model.generate(prompt, max_tokens=count, compile=compile) as t:
        edit(model)
    return t.tokens


def module(model: mg.InterpretableModel, prompt: list[int], edit: Any, count: int) -> list[int]:
    found = []
    for token, _ in generate_step(mx.array(prompt), edit, max_tokens=count):
        found.append(token)
        if len(found) == count:
            break
    return found


def edits(width: int, layers: int) -> dict[str, Callable[[Any], None]]:
    """What is written in the block: nothing, one edit, one at every layer."""
    push = mx.linspace(-0.01, 0.01, width)
    mx.eval(push)

    def steer(model: Any) -> None:
        model.layers[layers // 2].output += push

    def every(model: Any) -> None:
        for layer in model.layers:
            layer.output += push

    def saved(model: Any) -> None:
        model.layers[layers // 2].output.save()

    return {
        "no edit": lambda model: None,
        "one edit": steer,
        "an edit at every layer": every,
        "one save": saved,
    }


def measured(quick: bool) -> dict[str, Any]:
    """Seconds of one more token, of the first token, and how many times mlx-lm's own that is."""
    count, rounds = (5, 2) if quick else (TOKENS, ROUNDS)
    found: dict[str, Any] = {}
    for width, layers in SIZES[:1] if quick else SIZES:
        model = mg.InterpretableModel(llama(width, layers))
        prompt = list(range(5, 5 + PROMPT))
        written = edits(width, layers)
        ways: dict[str, Any] = {OWN: (mlx_lm, None), **{n: (ours, e) for n, e in written.items()}}
        for name in ("one edit", "an edit at every layer"):
            ways[f"{name}, compiled"] = (partial(ours, compile=True), written[name])
        with model.edit() as edited:
            written["one edit"](model)
        ways["one edit, as_module"] = (module, edited.as_module())
        timed = {
            (name, many): partial(way, model, prompt, edit, many)
            for name, (way, edit) in ways.items()
            for many in (1, count)
        }
        times = in_turns({f"{n} {m}": call for (n, m), call in timed.items()}, rounds, warm=2)
        found[f"{width} x {layers}"] = _by_way(times, list(ways), count)
    return found


def _by_way(times: Any, names: list[str], count: int) -> dict[str, Any]:
    first = {name: times[f"{name} 1"].together for name in names}
    each = {
        name: [
            (many - one) / (count - 1)
            for many, one in zip(times[f"{name} {count}"].together, first[name], strict=True)
        ]
        for name in names
    }
    return {
        name: {
            "first": statistics.median(first[name]),
            "token": spread(each[name]),
            "over": spread([a / b for a, b in zip(each[name], each[OWN], strict=True)]),
        }
        for name in names
    }


def tables(found: dict[str, Any]) -> str:
    rows = [
        [
            size,
            name,
            middle(row["token"], "{:.3f}", 1e3),
            middle(row["over"], "{:.2f}"),
            f"{1e3 * row['first']:.1f}",
        ]
        for size, ways in found.items()
        for name, row in ways.items()
    ]
    head = ["width x layers", "", "ms for one more token", "over mlx-lm's own", "ms to the first"]
    return markdown(head, rows)


if __name__ == "__main__":
    main(__doc__, measured, tables)
