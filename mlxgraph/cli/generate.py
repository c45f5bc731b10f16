"""`mlxgraph generate`: text under edits, as it comes."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import mlx.core as mx

from mlxgraph.cli import arguments as shared
from mlxgraph.cli.failures import UsageError
from mlxgraph.cli.frame import Command
from mlxgraph.cli.output import say

_MOST = 100  # tokens
_SAMPLING = {"top_p": "--top-p", "min_p": "--min-p", "top_k": "--top-k"}
_FORMAT, _VERSION = "mlxgraph generation", 1


def _arguments(parser: Any) -> None:
    shared.add_model(parser)
    shared.add_text(parser, "prompt", 'the text; - for standard input\n"The capital of France is"')
    group = parser.add_argument_group("how to go on, as mlx-lm calls it")
    group.add_argument(
        "--max-tokens", "-m", type=shared.count, default=_MOST, metavar="N",
        help=f"the most new tokens ({_MOST})\n--max-tokens 20",
    )  # fmt: skip
    group.add_argument(
        "--temp", type=_number(0, None), default=0.0, metavar="T",
        help="sampling temperature (0: always the most probable token)\n--temp 0.8",
    )  # fmt: skip
    group.add_argument(
        "--top-p", type=_number(0, 1), metavar="P",
        help="sample among the most probable tokens that make up so much\n--temp 1 --top-p 0.9",
    )  # fmt: skip
    group.add_argument(
        "--min-p", type=_number(0, 1), metavar="P",
        help="leave out tokens less probable than this part of the best one's\n"
        "--temp 1 --min-p 0.05",
    )  # fmt: skip
    group.add_argument(
        "--top-k", type=shared.count, metavar="K",
        help="sample among so many tokens\n--temp 1 --top-k 40",
    )  # fmt: skip
    group.add_argument("--seed", type=_seed, metavar="N", help="of the sampling\n--temp 1 --seed 0")
    group.add_argument(
        "--stop", action="append", metavar="TEXT", help='end before this text\n--stop "."'
    )
    shared.add_shared(parser)
    shared.add_output(parser, pictures=False)


def _seed(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def _number(low: float, high: float | None) -> Any:
    def read(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = -1.0
        if not (low <= found and (high is None or found <= high)):
            upper = "on" if high is None else f"to {high}"
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {low} {upper}")
        return found

    return read


def _run(given: argparse.Namespace) -> None:
    options = {name: getattr(given, name) for name in _SAMPLING}
    options = {name: value for name, value in options.items() if value is not None}
    if options and not given.temp:
        option = _SAMPLING[next(iter(options))]
        raise UsageError(f"{option} is for sampling, and the temperature is 0.  Add --temp 1")
    (prompt,) = shared.texts_of(given, "prompt")
    model = shared.model_of(given)
    sampler = {}
    if given.temp:
        from mlx_lm.sample_utils import make_sampler  # it has been imported with the model

        sampler = {"sampler": make_sampler(temp=given.temp, **options)}
    if given.seed is not None:
        mx.random.seed(given.seed)
    generation = model.generate(prompt, max_tokens=given.max_tokens, stop=given.stop, **sampler)
    if given.json:
        say(_as_json(given, model, prompt, generation))
        return
    last = "\n"
    try:
        for token in generation.stream():
            sys.stdout.write(token.text)
            sys.stdout.flush()
            last = token.text or last
    finally:
        if not last.endswith("\n"):
            say()


def _as_json(given: argparse.Namespace, model: Any, prompt: Any, generation: Any) -> str:
    tokens = [int(token) for token in generation.tokens]
    found = {
        "format": _FORMAT,
        "version": _VERSION,
        "model": given.model,
        "prompt": prompt,
        "prompt_tokens": list(model.encode(prompt)),
        "tokens": tokens,
        "text": generation.text,
    }
    return json.dumps(found)


COMMAND = Command(
    "generate",
    "text, under edits if wanted",
    "Text by mlx-lm's own loop, as it comes.  Edits apply at every token.",
    (
        f'mlxgraph generate tiny "{shared.PROMPT}" --max-tokens 3',
        f'mlxgraph generate tiny "{shared.PROMPT}" -m 3 --edit "layers.2.attn zero_out"',
        'mlxgraph generate tiny "The" --temp 1 --top-p 0.9 --seed 0 --max-tokens 8',
    ),
    _arguments,
    _run,
)
