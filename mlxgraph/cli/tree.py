"""`mlxgraph tree`: the sites of a model, with shapes."""

from __future__ import annotations

import argparse
from typing import Any

import mlx.core as mx

from mlxgraph.cli import arguments as shared
from mlxgraph.cli.frame import Command
from mlxgraph.cli.output import say
from mlxgraph.graph.values import dtype_name


def _arguments(parser: Any) -> None:
    shared.add_model(parser, needed=False)
    parser.add_argument(
        "--prompt", default=shared.PROMPT, metavar="TEXT",
        help='the text that gives the shapes\n--prompt "Paris is"',
    )  # fmt: skip


def _run(given: argparse.Namespace) -> None:
    given.chat = False
    (prompt,) = shared.texts_of(given, "prompt")
    model = shared.loaded(given.model)
    with model.trace(prompt) as trace:
        pass
    width = max(map(len, trace.activations))
    for name, value in trace.activations.items():
        say(f"{name:{width}}  {_shapes(value)}")


def _shapes(value: Any) -> str:
    if isinstance(value, mx.array):
        return f"{value.shape} {dtype_name(value.dtype)}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_shapes, value))}]"
    return type(value).__name__


COMMAND = Command(
    "tree",
    "the sites of a model, with shapes",
    "Every module's output of a model, with its shape and dtype: names for --component and --edit.",
    ("mlxgraph tree tiny", 'mlxgraph tree tiny --prompt "Paris is"'),
    _arguments,
    _run,
)
