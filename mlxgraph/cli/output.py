"""What commands print and write.

In: results.  Out: text on standard output, notes on standard error, files.
Never: colours where nobody sees them, or for who set NO_COLOR.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mlxgraph as mg
from mlxgraph.errors import MissingDependencyError

PICTURES, RESULT = (".png", ".pdf", ".svg"), ".json"
_NARROWEST = 20
_WIDEST = 30.0  # inches of a picture of bars


def say(text: Any = "") -> None:
    """A line on standard output."""
    print(text)


def note(text: str) -> None:
    """A line on standard error."""
    try:
        print(text, file=sys.stderr)
    except BrokenPipeError:  # nobody reads that either
        return


def versions() -> str:
    """Of this library and MLX."""
    return f"mlxgraph {mg.__version__}, mlx {version('mlx')}"


def width() -> int:
    """How many columns a line may have."""
    return max(_NARROWEST, shutil.get_terminal_size().columns)


def has_colours() -> bool:
    """Whether standard output shows colours: a terminal, and nobody said no (no-color.org)."""
    return (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


def progress() -> bool | None:
    """As `model.sweep` takes it: a bar where it takes long, if somebody is there to see it."""
    return None if sys.stderr.isatty() else False


def out_file(text: str) -> Path:
    """A file that can be written, and whose name says in which format.

    Raises: ArgumentTypeError.
    """
    path = Path(text).expanduser()
    if path.suffix.lower() not in (*PICTURES, RESULT):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no {', '.join(PICTURES)} (a picture) or {RESULT} (the result):"
            f" write --out {path.stem or 'map'}.png"
        )
    folder = path.parent
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(
            f"there is no folder {str(folder)!r}: make it, or write --out {path.name}"
        )
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: choose another file")
    return path


def check_picture(given: argparse.Namespace) -> None:
    """Raises: MissingDependencyError where a picture is wanted and nothing can draw it."""
    if is_picture(given) and find_spec("matplotlib") is None:
        raise MissingDependencyError("matplotlib", f"--out {given.out}", "mlxgraph[plot]")


def is_picture(given: argparse.Namespace) -> bool:
    """Whether a picture is to be written."""
    return given.out is not None and given.out.suffix.lower() in PICTURES


def _drawn(effects: Any) -> Any:
    """The library's picture; of bars, as wide as their labels want."""
    if len(effects.dims) != 1:
        return effects.plot()
    return effects.plot(figsize=(min(_WIDEST, 2 + 0.8 * effects.shape[0]), 5))


def deliver(
    given: argparse.Namespace,
    effects: Any,
    picture: Callable[[], Any] | None = None,
    text: Callable[[], str] | None = None,
    after: str = "",
) -> None:
    """Print a result, and write what is to be written.

    Args:
        picture: draws it, text: writes it for a terminal, where others than its own.
        after: lines that go below the text.
    """
    try:
        if given.json:
            say(effects.to_json())
        else:
            shown = text() if text else effects.to_text(width(), ansi=has_colours())
            say("\n".join([shown, *(textwrap.fill(line, width()) for line in after.splitlines())]))
    finally:  # a file is written though nobody reads on
        if given.out is not None:
            _write(given, effects, picture)


def _write(given: argparse.Namespace, effects: Any, picture: Callable[[], Any] | None) -> None:
    """Write the picture, or the result."""
    if is_picture(given):
        figure = picture() if picture else _drawn(effects)
        figure.savefig(given.out)
    else:
        given.out.write_text(effects.to_json() + "\n", encoding="utf-8")
    note(f"wrote {given.out}")
