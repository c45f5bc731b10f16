"""Attribution: all sites and positions from slopes, against forwards and the exact sweep.

The cost, on random mlx-lm Llamas (width x layers, float32, 12 tokens), in bare forwards under
`mx.compile` to the logits of the last position:

    output               the stream after each layer, at each position
    all                  streams, attention, MLPs and heads, at each position: one question
    atp*                 queries and keys, head by head, with the correction
    graddrop             attention and MLPs, with each layer held in turn
    integrated, inputs   16 steps on the way of the first layer's input

Path patching of one sender (the first layer's attention) to every part after it and the output,
beside the sweep of the same parts by activation patching, a run each.

How well it agrees with the exact sweep, on the embedded model, whose answers mean something: the
correlation over all cells, and the seconds of both.

Aims, written before the first measurement: at 512 x 12 at most 4 forwards for `output` and `all`
(one forward of the clean text, one of the corrupted text, one backward pass), 6 for `atp*`, 60 for
16 steps; correlations above 0.9 for streams, attention and MLPs; path patching at most the time of
the sweep. `graddrop` came later, without
an aim: twelve forwards and backwards in one batch took 15 to 20 forwards.

    python benchmarks/attribution.py [--quick]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from llamas import llama
from report import main, markdown, middle, milliseconds

import mlxgraph as mg
from mlxgraph.analysis.in_turns import in_turns, ratios, spread

SIZES, QUICK = ((64, 4), (512, 12)), ((64, 4),)
LENGTH, ROUNDS, STEPS = 12, 7, 16
ALL = ["output", "resid_pre", "attn", "mlp", "attn.heads"]
COMPONENTS = ("output", "attn", "mlp", "heads", "values", "queries", "keys")
CLEAN, CORRUPTED = "The capital of France is", "The capital of England is"
TARGETS = (" Paris", " London")
Row = dict[str, Any]


def score(logits: mx.array) -> mx.array:
    """What is kept of a run."""
    return logits[3] - logits[5]


def _cost(width: int, layers: int, rounds: int) -> Row:
    module = llama(width, layers)
    model = mg.InterpretableModel(module)
    clean = mx.arange(LENGTH)[None] % 900
    text = clean + mx.where(mx.arange(LENGTH) == 1, 77, 0)[None]
    bare = mx.compile(lambda tokens: module(tokens)[:, -1])

    def asked(component: Any, **given: Any) -> Callable[[], Any]:
        return lambda: (
            model.attribution_patching(clean, text, component, metric=score, **given).values
        )

    def integrated() -> Any:
        return model.integrated_gradients(
            clean, text, metric=score, path="inputs", steps=STEPS
        ).values

    ways = {
        "forward": lambda: bare(text),
        "output": asked("output"),
        "all": asked(ALL),
        "atp*": asked(["queries", "keys"], method="atp*"),
        "graddrop": asked(["attn", "mlp"], graddrop=True),
        "integrated, inputs": integrated,
    }
    times = in_turns(ways, rounds, warm=2)
    one = times.pop("forward")
    receivers = ["layers.0.mlp"]
    for layer in range(1, layers):
        receivers += [f"layers.{layer}.attn", f"layers.{layer}.mlp"]
    receivers.append("__model_output__")
    paths = in_turns(
        {
            "path patching": lambda: (
                model.path_patching(
                    clean, text, ["layers.0.attn"], receivers, metric=score, progress=False
                ).values
            ),
            "sweep": lambda: (
                model.activation_patching(
                    clean,
                    text,
                    ["attn", "mlp"],
                    metric=score,
                    progress=False,
                ).values
            ),
        },
        rounds,
        warm=2,
    )
    return {
        "size": f"{width} x {layers}",
        "forward": spread(one.together),
        "ways": {
            name: {
                "seconds": spread(way.together),
                "forwards": ratios(way.together, one.together),
            }
            for name, way in times.items()
        },
        "paths": {
            "receivers": len(receivers),
            "seconds": {name: spread(way.together) for name, way in paths.items()},
            "of the sweep": ratios(paths["path patching"].together, paths["sweep"].together),
        },
    }


def _agreement(component: str) -> Row:
    model = mg.tiny()
    given = {"metric": "logit_diff", "targets": TARGETS}
    texts = CLEAN, CORRUPTED

    def exact() -> Any:
        return model.activation_patching(
            *texts, component, positions="all", progress=False, **given
        )

    ways: dict[str, Callable[[], Any]] = {
        "attribution": lambda: model.attribution_patching(*texts, component, **given),
        "integrated": lambda: model.integrated_gradients(*texts, component, path="inputs", **given),
    }
    if component in ("queries", "keys"):
        ways["atp*"] = lambda: model.attribution_patching(*texts, component, method="atp*", **given)
    wanted, took = _timed(exact)
    row: Row = {"component": component, "cells": wanted.size, "seconds": {"sweep": took}}
    row["correlation"] = {}
    for name, way in ways.items():
        found, row["seconds"][name] = _timed(way)
        row["correlation"][name] = float(np.corrcoef(found, wanted)[0, 1])
    return row


def _timed(way: Callable[[], Any]) -> tuple[np.ndarray, float]:
    """The third run's answer, and how long it took: the first finds out, the second compiles."""
    way()
    way()
    start = time.perf_counter()
    found = np.asarray(way()).ravel()
    return found, time.perf_counter() - start


def measured(quick: bool) -> dict[str, Any]:
    """What it costs, and how well it agrees."""
    sizes, rounds = (QUICK, 2) if quick else (SIZES, ROUNDS)
    components = COMPONENTS[:2] if quick else COMPONENTS
    return {
        "cost": [_cost(*size, rounds) for size in sizes],
        "agreement": [_agreement(component) for component in components],
    }


def tables(found: dict[str, Any]) -> str:
    cost = [
        [
            row["size"],
            name,
            middle(way["seconds"], "{:.1f}", 1e3),
            middle(way["forwards"], "{:.2f}"),
        ]
        for row in found["cost"]
        for name, way in row["ways"].items()
    ]
    names = ("attribution", "atp*", "integrated")
    agreement = [
        [
            row["component"],
            str(row["cells"]),
            milliseconds(row["seconds"]["sweep"]),
            *(
                f"{row['correlation'][name]:.3f} ({milliseconds(row['seconds'][name])})"
                if name in row["correlation"]
                else ""
                for name in names
            ),
        ]
        for row in found["agreement"]
    ]
    paths = [
        [
            row["size"],
            str(row["paths"]["receivers"]),
            *(
                middle(row["paths"]["seconds"][name], "{:.1f}", 1e3)
                for name in ("path patching", "sweep")
            ),
            middle(row["paths"]["of the sweep"], "{:.2f}"),
        ]
        for row in found["cost"]
    ]
    one = ", ".join(f"{row['size']}: {milliseconds(row['forward'][1])}" for row in found["cost"])
    return (
        f"Milliseconds (one forward: {one}), and the same in forwards:\n\n"
        + markdown(["model", "question", "ms", "forwards"], cost)
        + "\n\nOne sender to every receiver, and the sweep of all attentions and MLPs, in"
        " milliseconds:\n\n"
        + markdown(["model", "receivers", "path patching", "sweep", "of the sweep"], paths)
        + "\n\nOn the embedded model, every layer and position (and head): the correlation with the"
        " exact sweep, and milliseconds:\n\n"
        + markdown(["component", "cells", "sweep", *names], agreement)
    )


if __name__ == "__main__":
    main(__doc__, measured, tables)
