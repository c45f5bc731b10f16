"""What one warm trace costs in calls of Python, and how often it moves from room to room.

A room is a folder (or a file) of the package at its top level.  Every call of a function of the
package is counted, and a move is a call that enters another room than the call of ours before it.
Moves are given twice: all of them, and those that are left when the ground floor, which every room
asks short questions of (`errors`, `mlx_facts`), is left out.  The counts are exact and need no
quiet machine.

    python benchmarks/rooms.py

Predictions: one edit and one save stay below 300 calls and 40 moves; recording one more operation
of a kind that was seen before stays within `record`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import mlx.core as mx
from report import main, markdown

import mlxgraph as mg

GROUND = {"errors", "mlx_facts"}
PACKAGE = str(Path(mg.__file__).parent) + "/"
PROMPT = "The capital of France is"


def room(code: CodeType) -> str | None:
    """The room that a function stands in, if it is one of the package's."""
    if not code.co_filename.startswith(PACKAGE):
        return None
    return code.co_filename[len(PACKAGE) :].split("/")[0].removesuffix(".py")


def walked(function: Callable[[], Any]) -> list[str]:
    """The room of every call of the package's functions, in order."""
    rooms: list[str] = []

    def entered(frame: FrameType, event: str, _: Any) -> None:
        found = room(frame.f_code) if event == "call" else None
        if found is not None:
            rooms.append(found)

    sys.setprofile(entered)
    try:
        function()
    finally:
        sys.setprofile(None)
    return rooms


def moves(rooms: list[str]) -> int:
    """How often a call enters another room than the one before it."""
    return sum(a != b for a, b in zip(rooms, rooms[1:], strict=False))


def measured(quick: bool) -> list[list[Any]]:
    """Calls, moves, moves above the ground, and rooms."""
    model = mg.tiny()
    tokens, vector = mx.array([model.encode(PROMPT)]), mx.ones(128)

    def save() -> None:
        with model.trace(tokens):
            model.layers[2].output.save()

    def edit() -> None:
        with model.trace(tokens):
            model.layers[2].output[:, -1] += 4.0 * vector
            model.output[:, -1].save()

    def look() -> None:
        with model.trace(tokens):
            float(model.layers[2].output.max())

    def counted(name: str, rooms: list[str]) -> list[Any]:
        above = [one for one in rooms if one not in GROUND]
        return [name, len(rooms), moves(rooms), moves(above), ", ".join(dict.fromkeys(rooms))]

    found = []
    ways = {"a save": save, "an edit and a save": edit, "a look at a value": look}
    for name, way in ways.items():
        for _ in range(3):  # the first runs compile
            way()
        found.append(counted(name, walked(way)))
    with model.trace(tokens):
        h = model.layers[2].output
        found += [
            counted("one operation, new", walked(lambda: h * 2.0)),
            counted("one function, new", walked(lambda: mx.softmax(h, axis=-1))),
            counted("the same again", walked(lambda: mx.softmax(h, axis=-1))),
        ]
    return found


def tables(found: list[list[Any]]) -> str:
    head = ["one warm trace with", "calls", "moves", "above the ground", "rooms"]
    return markdown(head, [[str(cell) for cell in row] for row in found])


if __name__ == "__main__":
    main(__doc__, measured, tables)
