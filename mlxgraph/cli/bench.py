"""`mlxgraph bench`: what a graph costs on a model, in turns with it."""

from __future__ import annotations

import argparse
from typing import Any

import mlxgraph as mg
from mlxgraph.cli import arguments as shared
from mlxgraph.cli.frame import Command
from mlxgraph.cli.output import say


def _arguments(parser: Any) -> None:
    shared.add_model(parser, needed=False)
    shared.add_text(
        parser, "prompt", f'the text; - for standard input\n"{shared.PROMPT}"', nargs="?",
        default=shared.PROMPT,
    )  # fmt: skip
    parser.add_argument(
        "--graph", metavar="FILE",
        help="a file of graph.save (an edit of one layer)\n--graph g.mlxg",
    )  # fmt: skip
    parser.add_argument(
        "--repeat", type=shared.count, metavar="N",
        help="rounds (as many as take some seconds)\n--repeat 20",
    )  # fmt: skip
    shared.add_output(parser, pictures=False)


def _run(given: argparse.Namespace) -> None:
    given.chat = False
    (prompt,) = shared.texts_of(given, "prompt")
    graph = shared.graph_of(given.graph) if given.graph else None
    model = shared.loaded(given.model)
    table = mg.benchmark(model, graph or _one_edit(model, prompt), prompt, repeat=given.repeat)
    say(table.to_json() if given.json else table)


def _one_edit(model: mg.InterpretableModel, prompt: str) -> mg.Graph:
    """The last position scaled after the middle layer, and the logits there."""
    with model.trace(prompt) as trace:
        model.layers[len(model.layers) // 2].output[:, -1] *= 0.5
        model.output[:, -1].save()
    return trace.graph


COMMAND = Command(
    "bench",
    "what a graph costs on a model, in turns with it",
    "Time, memory and compilations of a graph's run, against the bare model, compiled and not.",
    (
        f'mlxgraph bench tiny "{shared.PROMPT}" --repeat 3',
        "mlxgraph bench --repeat 2 --json",
    ),
    _arguments,
    _run,
)
