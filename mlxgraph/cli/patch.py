"""`mlxgraph patch`: activation patching."""

from __future__ import annotations

import argparse
from typing import Any

import mlxgraph as mg
from mlxgraph.cli import arguments as shared
from mlxgraph.cli.frame import Command
from mlxgraph.cli.output import check_picture, deliver, progress
from mlxgraph.cli.pairs import EXAMPLE, add_map, check_map, ends, options_of


def _arguments(parser: Any) -> None:
    shared.add_model(parser)
    clean = 'the prompt with the answer; - for standard input\n"The capital of France is"'
    shared.add_text(parser, "clean", clean)
    corrupted = 'one with another answer\n"The capital of Italy is"'
    shared.add_text(parser, "corrupted", corrupted)
    group = parser.add_argument_group("what to patch")
    add_map(group)
    shared.add_layers(group)
    group.add_argument(
        "--positions", type=shared.places, metavar="LIST",
        help="all positions, each by itself; some; one; or together, all at once (all; of heads,"
        " together)\n--positions 3,5\n--positions together",
    )  # fmt: skip
    shared.add_shared(parser)
    shared.add_output(parser)


def _run(given: argparse.Namespace) -> None:
    check_map(given)
    check_picture(given)
    texts = shared.texts_of(given, "clean", "corrupted")
    model = shared.model_of(given)
    try:
        effects = model.activation_patching(*texts, **options_of(given), progress=progress())
    except mg.SweepStopped as stopped:
        if isinstance(stopped.result, mg.Effects):
            deliver(given, stopped.result, after=ends(given, stopped.result))
        raise
    deliver(given, effects, after=ends(given, effects))


COMMAND = Command(
    "patch",
    "which layer and position carries the answer",
    "Activation patching: run one prompt with parts of another's run put in place, for each layer"
    " and position, and see how far the answer comes back.",
    (
        f"mlxgraph patch tiny {EXAMPLE}",
        f"mlxgraph patch tiny {EXAMPLE} --component heads --out heads.png",
        f"mlxgraph patch tiny {EXAMPLE} --component attn mlp --positions together",
        f"mlxgraph patch tiny {EXAMPLE} --direction noise --layers 0-3 --json",
    ),
    _arguments,
    _run,
)
