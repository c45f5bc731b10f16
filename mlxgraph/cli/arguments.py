"""Arguments that commands share: what they are called, how they are read, what they become.

In: a parser; what was given.  Out: models, texts, numbers.  Mistakes are told before a model loads.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

import mlxgraph as mg
from mlxgraph.cli.edits import edit_of
from mlxgraph.cli.failures import UsageError
from mlxgraph.cli.output import out_file

TINY = "tiny"
PROMPT = "The capital of France is"
ALL, TOGETHER = "all", "together"
INSIDE = ("heads", "queries", "keys", "values", "pattern", "scores")
_RANGE = re.compile(r"(-?\d+)(?:-(-?\d+))?")
_NUMBERS = re.compile(r"-\d[\d,-]*")
_MOST = 1_000_000  # numbers of a range: more is a slip of the keyboard, and would fill the memory
_OF_NUMBERS = ("--layers", "--positions", "--heads")


# -- what they are called --------------------------------------------------------------------------


def add_model(parser: Any, needed: bool = True) -> None:
    """MODEL."""
    more = "" if needed else "; tiny if left out"
    parser.add_argument(
        "model", metavar="MODEL", nargs=None if needed else "?", default=TINY,
        help=f"tiny, a folder, or a name on the hub{more}\nmlx-community/Qwen3-0.6B-4bit",
    )  # fmt: skip


def add_text(parser: Any, name: str, what: str, **options: Any) -> None:
    """A prompt."""
    parser.add_argument(name, metavar=name.upper(), help=what, **options)


def add_shared(parser: Any) -> None:
    """How the prompt is read, and edits under which the model runs."""
    group = parser.add_argument_group("the model and its prompt")
    group.add_argument(
        "--chat", action="store_true",
        help="the prompt is a user's message: write it by the chat template",
    )  # fmt: skip
    group.add_argument(
        "--edit", action="append", type=edit_of, default=[], metavar="EDIT",
        help="run it under an edit: zero_out, scale, noise or clamp; may come several times\n"
        '--edit "layers.5.mlp scale 0.5"\n--edit "layers.2.attn zero_out heads=1,3"\n'
        '--edit "layers.*.mlp noise 0.1 positions=-1"',
    )  # fmt: skip
    group.add_argument(
        "--graph",
        metavar="FILE",
        help="run it under the edits in a file of graph.save\n--graph g.mlxg",
    )


def add_output(parser: Any, pictures: bool = True) -> None:
    """Where results go."""
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print all of the result as JSON")
    if pictures:
        group.add_argument(
            "--out", metavar="FILE", type=out_file,
            help="write a picture (.png, .pdf, .svg) or the result (.json)\n--out map.png",
        )  # fmt: skip


def add_layers(parser: Any) -> None:
    """--layers."""
    parser.add_argument(
        "--layers", type=numbers, metavar="LIST",
        help="which layers, from 0, or from the end if negative (all)\n--layers 0-11,15",
    )  # fmt: skip


# -- how they are read -----------------------------------------------------------------------------


def joined_numbers(arguments: Sequence[str]) -> list[str]:
    """`--positions -1,-2` as `--positions=-1,-2`: argparse takes the second for an option."""
    found: list[str] = []
    for one in arguments:
        if found and found[-1] in _OF_NUMBERS and _NUMBERS.fullmatch(one):
            found[-1] += f"={one}"
        else:
            found.append(one)
    return found


def numbers(text: str) -> list[int]:
    """`0-3,7,-1` as numbers, each once."""
    found: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 0-3,7,-1")
        first, last = int(match[1]), int(match[2] or match[1])
        if (first < 0) != (last < 0):
            raise argparse.ArgumentTypeError(
                f"the range {part!r} counts from both ends: write both numbers from 0 on, or both"
                " from the end"
            )
        if last < first:
            raise argparse.ArgumentTypeError(f"the range {part!r} is empty: write {last}-{first}")
        if last - first >= _MOST:
            raise argparse.ArgumentTypeError(f"the range {part!r} has more than {_MOST} numbers")
        found += range(first, last + 1)
    return list(dict.fromkeys(found))


def places(text: str) -> Any:
    """`all`, `together`, one number, or several."""
    if text in (ALL, TOGETHER):
        return text
    found = numbers(text)
    return found[0] if len(found) == 1 else found


def count(text: str) -> int:
    """A number from 1 on."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def token(text: str) -> str | int:
    """A token's text, or `id:42`."""
    match = re.fullmatch(r"id:(\d+)", text)
    return int(match[1]) if match else text


# -- what they become ------------------------------------------------------------------------------


def model_of(given: argparse.Namespace) -> Any:
    """The model, with the edits that it is to run under."""
    edits = given.edit + ([graph_of(given.graph)] if given.graph else [])
    model = loaded(given.model)
    return model.edit(mg.chain(*edits)) if edits else model


def graph_of(path: str) -> Any:
    """The graph in a file.  Raises: UsageError for one that waits for params."""
    graph = mg.Graph.load(path)
    if graph.params:
        values = ", ".join(f"{name}=..." for name in graph.params)
        names = ", ".join(graph.params)
        raise UsageError(
            f"the graph in {path} needs values for its params {names}.  Write them into it, in"
            f" Python: mg.Graph.load({path!r}).bind({values}).save('bound.mlxg')"
        )
    return graph


def loaded(name: str) -> Any:
    """The embedded model, or another by its folder or name."""
    return mg.tiny() if name == TINY else mg.InterpretableModel(name)


def texts_of(given: argparse.Namespace, *names: str) -> list[Any]:
    """Prompts as the library takes them; `-` is standard input.  Read before a model loads."""
    texts = [getattr(given, name) for name in names]
    if texts.count("-") > 1:
        raise UsageError(
            f"standard input is one text, and - stands for {' and '.join(map(str.upper, names))}."
            "  Write one of them as an argument."
        )
    texts = [_read() if text == "-" else text for text in texts]
    return [[{"role": "user", "content": text}] if given.chat else text for text in texts]


def _read() -> str:
    text = sys.stdin.read().removesuffix("\n")
    if not text:
        raise UsageError('there is no text on standard input.  Write: echo "Hello" | mlxgraph ...')
    return text
