"""What a command is, and how its arguments are read and explained.

In: names, helps, examples.  Out: a parser whose mistakes are one line with what to write instead.
"""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from mlxgraph.cli.failures import UsageError
from mlxgraph.errors import close_matches


class Command(NamedTuple):
    """One command.

    Attributes:
        help: in a few words; description: in some lines.
        examples: whole lines that run.
        arguments: adds them to a parser; run: does it.
    """

    name: str
    help: str
    description: str
    examples: tuple[str, ...]
    arguments: Callable[[Any], None]
    run: Callable[[argparse.Namespace], None]


def _page() -> int:
    """The width of a help, in columns."""
    return max(40, min(shutil.get_terminal_size().columns, 100))


def _in_lines(example: str) -> str:
    """An example as a shell reads it, in lines that fit."""
    lines = [""]
    for part in re.split(r" (?=--)", example):
        if lines[-1] and len(lines[-1]) + len(part) > _page() - 8:
            lines.append("")
        lines[-1] += f" {part}" if lines[-1] else part
    return "  " + " \\\n      ".join(lines)


class Help(argparse.RawDescriptionHelpFormatter):
    """Help that keeps its lines, as wide as the terminal but no wider than can be read."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=26, width=_page() - 1)

    def _split_lines(self, text: str, width: int) -> list[str]:
        """A help's own lines, each wrapped by itself: the last ones are its examples."""
        parts = [textwrap.wrap(" ".join(line.split()), width) for line in text.splitlines()]
        return [line for part in parts for line in part]


_CHOICE = re.compile(r"(.+?): invalid choice: '(.*)' \(choose from (.*)\)")


def _no_choice(what: str, given: str, listed: str) -> str:
    known = re.findall(r"[\w-]+", listed)
    near = close_matches(given, known, 1)
    hint = f"  Did you mean {near[0]}?" if near else ""
    what = what.removesuffix(" ...").lower() if what.startswith("COMMAND") else what
    return f"there is no {what} {given!r}; there is {', '.join(known)}.{hint}"


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError, and shows examples below its help."""

    def __init__(
        self, examples: Sequence[str] = (), ending: str = "", description: str = "", **options: Any
    ):
        said = "\n".join(["examples:", *map(_in_lines, examples)])
        epilog = f"{said}\n\n{textwrap.fill(ending, _page() - 1)}" if ending else said
        super().__init__(
            epilog=epilog, description=textwrap.fill(description, _page() - 1),
            formatter_class=Help, allow_abbrev=False, **options,
        )  # fmt: skip
        self.examples = tuple(examples)

    def shorten_usage(self) -> None:
        """What has to be given, and that there are options: the help lists these."""
        given = [one for one in self._actions if not one.option_strings]
        named = [f"[{one.metavar}]" if one.nargs == "?" else str(one.metavar) for one in given]
        self.usage = " ".join([self.prog, *named, "[options]"])

    def error(self, message: str) -> NoReturn:
        """Raises: UsageError, with an example where the message does not say what to write."""
        message = message.removeprefix("argument ")
        choice = _CHOICE.fullmatch(message)
        if choice:
            raise UsageError(_no_choice(*choice.groups()), self.prog)
        is_told = message.startswith("-") and "expected" not in message
        if not is_told:
            message = message.replace("the following arguments are required", "this is missing")
            message = f"{message}.  Write: {self.examples[0]}"
        raise UsageError(message, self.prog)

    def unknown(self, rest: Sequence[str]) -> NoReturn:
        """Raises: UsageError for arguments that there are none of."""
        first = next((one for one in rest if one.startswith("-")), rest[0])
        if not first.startswith("-"):
            self.error(f"{first!r} is one argument too many; a text with spaces goes in quotes")
        known = [name for action in self._actions for name in action.option_strings]
        near = close_matches(first.partition("=")[0], known, 2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"`{self.prog} --help` lists all."
        raise UsageError(f"there is no option {first.partition('=')[0]}: {hint}", self.prog)
