"""`mlxgraph lens`: what each layer would predict if it were the last."""

from __future__ import annotations

import argparse
from typing import Any

from mlxgraph.cli import arguments as shared
from mlxgraph.cli.failures import UsageError
from mlxgraph.cli.frame import Command
from mlxgraph.cli.output import check_picture, deliver, has_colours, width

_TOP = 3  # tokens of a list


def _arguments(parser: Any) -> None:
    shared.add_model(parser)
    shared.add_text(parser, "prompt", 'the text; - for standard input\n"The capital of France is"')
    group = parser.add_argument_group("what to look at")
    shared.add_layers(group)
    group.add_argument(
        "--positions", type=shared.places, default=shared.ALL, metavar="LIST",
        help="all positions, some, or one, of which the best predictions are listed (all)\n"
        "--positions 3,5\n--positions -1",
    )  # fmt: skip
    group.add_argument(
        "--top", type=shared.count, metavar="K",
        help=f"how many predictions of one position ({_TOP}); of several, in --json (1)\n--top 5",
    )  # fmt: skip
    group.add_argument(
        "--color", choices=("probability", "entropy", "rank"), default="probability",
        help="what shades say: how probable the prediction is, how unsure the layer, or the rank"
        " of --token (probability)\n--color entropy",
    )  # fmt: skip
    group.add_argument(
        "--token", type=shared.token, metavar="TOKEN",
        help='follow one token, a text or an id\n--token " Paris"\n--token id:42',
    )  # fmt: skip
    shared.add_shared(parser)
    shared.add_output(parser)


def _run(given: argparse.Namespace) -> None:
    if given.color == "rank" and given.token is None:
        raise UsageError('a rank is that of a token.  Add one: --color rank --token " Paris"')
    if given.positions == shared.TOGETHER:
        raise UsageError("a lens looks at each position.  Write --positions all, or -1")
    check_picture(given)
    (prompt,) = shared.texts_of(given, "prompt")
    model = shared.model_of(given)
    position = None if given.positions == shared.ALL else given.positions
    lens = model.logit_lens(
        prompt, top_k=given.top or (_TOP if isinstance(position, int) else 1), layers=given.layers,
        position=position, color=given.color, token=given.token,
    )  # fmt: skip
    deliver(
        given,
        lens,
        lambda: lens.plot(max_display_tokens=len(lens.tokens), color=given.color),
        lambda: lens.to_text(width(), ansi=has_colours(), color=given.color),
    )


COMMAND = Command(
    "lens",
    "what each layer would predict next",
    "The logit lens: what each layer would predict if it were the last, at each position."
    "  Shaded by how probable the layer takes it to be.",
    (
        f'mlxgraph lens tiny "{shared.PROMPT}"',
        f'mlxgraph lens tiny "{shared.PROMPT}" --positions -1 --top 5',
        f'mlxgraph lens tiny "{shared.PROMPT}" --token " Paris" --color rank',
        f'mlxgraph lens tiny "{shared.PROMPT}" --layers 2-5 --out lens.png',
    ),
    _arguments,
    _run,
)
