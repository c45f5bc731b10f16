"""Random small edits on a chain of layers, as data: recorded as graphs, and played in one block."""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph.graph.graph import Graph
from tests import models

DEPTH = 4
WIDTH = 6
X = mx.arange(48, dtype=mx.float32).reshape(2, 4, WIDTH) / 24 - 1
VECTORS = [mx.arange(WIDTH, dtype=mx.float32) / 3 - k for k in range(3)]
OUT = mg.read("__model_output__", name="out")


def make_model() -> mg.InterpretableModel:
    mx.random.seed(11)
    module = models.Chain(WIDTH, DEPTH)
    mx.eval(module.parameters())
    return mg.InterpretableModel(module)


MODEL = make_model()


class Do(NamedTuple):
    """One instruction on a layer's output."""

    kind: str
    layer: int
    amount: Any = 1.0
    other: int = 0


def play(program: list[Do], prefix: str = "", amounts: dict[str, Any] | None = None) -> None:
    """Write a program in the block that is open; an amount that is a name is looked up."""
    count = 0
    for do in program:
        site = MODEL.layers[do.layer]
        amount = (
            (amounts or {}).get(do.amount, do.amount) if isinstance(do.amount, str) else (do.amount)
        )
        match do.kind:
            case "scale":
                site.output *= amount
            case "shift":
                site.output[:, -1] += amount
            case "vector":
                site.output[:, do.other % 4] += VECTORS[do.other % 3]
            case "replace":
                site.output = mx.tanh(site.output) * amount
            case "from":
                site.output += MODEL.layers[min(do.other, do.layer)].output * amount
            case "save":
                site.output.save(f"{prefix}{count}")
                count += 1


def recorded(program: list[Do], prefix: str = "", amounts: dict[str, Any] | None = None) -> Graph:
    """The graph of a program."""
    with MODEL.trace(X) as t:
        play(program, prefix, amounts)
    return t.graph


def ran(graph: Graph, **params: Any) -> dict[str, mx.array]:
    """Everything that a graph saves, and the model's output behind it."""
    return MODEL.run(graph >> OUT, X, compile=False, **params).saves


def alike(a: dict[str, mx.array], b: dict[str, mx.array], tolerance: float = 0.0) -> bool:
    return a.keys() == b.keys() and all(models.same(a[k], b[k], tolerance) for k in a)


PLAIN = ran(Graph())["out"]


def changes_the_output(graph: Graph, **params: Any) -> bool:
    """Whether a graph does anything that can be felt: what a test of 'the same' needs to hold."""
    return bool(mx.abs(ran(graph, **params)["out"] - PLAIN).max() > 1e-4)


AMOUNTS = st.sampled_from([-1.5, 0.25, 0.5, 2.0, 3])


def programs(
    layers: list[int] | None = None, kinds: list[str] | None = None, most: int = 5
) -> st.SearchStrategy[list[Do]]:
    """Programs on some layers; without `from` among the kinds, each reads its own layer alone."""
    places = st.sampled_from(layers if layers is not None else list(range(DEPTH)))
    what = st.sampled_from(kinds or ["scale", "shift", "vector", "replace", "from", "save"])
    instruction = st.builds(Do, what, places, AMOUNTS, st.integers(0, DEPTH - 1))
    return st.lists(instruction, min_size=1, max_size=most)


OWN = ["scale", "shift", "vector", "replace", "save"]  # what reads nothing but its own layer
