"""From arguments to an exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

In: arguments.  Out: what the command prints; of a failure one line on standard error.
Never: a traceback, unless `MLXGRAPH_TRACEBACK=full` asks for one.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import mlxgraph as mg
from mlxgraph.cli import attribute, bench, demo, generate, lens, patch, tree
from mlxgraph.cli.arguments import joined_numbers
from mlxgraph.cli.failures import DONE, INTERRUPTED, UsageError, said, status_of
from mlxgraph.cli.frame import Command, Parser
from mlxgraph.cli.output import note, versions
from mlxgraph.starting import listen

COMMANDS: tuple[Command, ...] = (
    demo.COMMAND, lens.COMMAND, patch.COMMAND, attribute.COMMAND, generate.COMMAND, bench.COMMAND,
    tree.COMMAND,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.  Returns: the exit status."""
    name = "mlxgraph"
    with _any_letter():
        try:
            listen()
            given = _parsed(sys.argv[1:] if arguments is None else arguments)
            name = given.parser.prog
            given.run(given)
            sys.stdout.flush()
        except SystemExit as end:  # of --help and --version
            return end.code if isinstance(end.code, int) else DONE
        except KeyboardInterrupt as stopped:
            _say_stopped(name, stopped)
            return INTERRUPTED
        except BrokenPipeError:  # `mlxgraph tree | head`: who reads has seen enough
            _close_output()
        except Exception as error:
            if os.environ.get("MLXGRAPH_TRACEBACK") == "full" and not isinstance(error, UsageError):
                raise
            note(f"{getattr(error, 'prog', name)}: {said(error)}")
            return status_of(error)
    return DONE


def parser() -> Parser:
    """The whole command line's."""
    whole = Parser(
        prog="mlxgraph",
        usage="mlxgraph [--version] COMMAND ...",
        description=mg.__doc__,
        examples=[command.examples[0] for command in COMMANDS],
        ending="`mlxgraph COMMAND --help` says more of each.  A MODEL is `tiny`, which comes with"
        " the library, a folder, or a name on the hub.",
    )
    whole.add_argument("--version", action="version", version=versions())
    commands = whole.add_subparsers(title="commands", metavar="COMMAND ...")
    whole.set_defaults(run=lambda given: whole.print_help(), parser=whole)
    for command in COMMANDS:
        own = commands.add_parser(
            command.name, help=command.help, description=command.description,
            examples=command.examples, prog=f"mlxgraph {command.name}",
        )  # fmt: skip
        command.arguments(own)
        own.shorten_usage()
        own.set_defaults(run=command.run, parser=own)
    return whole


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    given, rest = parser().parse_known_args(joined_numbers(arguments))
    if rest:
        given.parser.unknown(rest)
    return given


@contextmanager
def _any_letter() -> Iterator[None]:
    """Letters that a terminal has none for become question marks, and no exception."""
    before = getattr(sys.stdout, "errors", None)
    change = getattr(sys.stdout, "reconfigure", None)
    if change is None or before is None:
        yield
        return
    change(errors="replace")
    try:
        yield
    finally:
        change(errors=before)


def _say_stopped(name: str, stopped: KeyboardInterrupt) -> None:
    if isinstance(stopped, mg.SweepStopped):
        first = str(stopped).splitlines()[0]
        note(f"\n{name}: {first}")


def _close_output() -> None:
    """Nobody reads: what Python has still to write goes nowhere."""
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # no file
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
