"""What one warm trace costs in calls of Python, and how often it moves from room to room.

A room is a folder (or a file) of the package at its top level.  Every call of a function of the
package is counted, and a move is a call that enters another room than the call of ours before it.
Moves are given twice: all of them, and those that are left when the ground floor, which every room
asks short questions of (`errors`, `mlx_facts`), is left out.  The counts are exact and need no
quiet machine.

    python benchmarks/rooms.py

Predictions: one edit and one save stay below 300 calls and 40 moves; recording one more operation
of a kind that was seen before stays within `record`.  Measured: 331 calls and 132 moves, 92 of them
above the ground; 12 calls and 2 moves for an operation that was seen before, to `graph` and back.
Both predictions of the first kind are missed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import mlx.core as mx

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


def main() -> None:
    """Print the table."""
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

    def told(name: str, rooms: list[str]) -> None:
        above = [one for one in rooms if one not in GROUND]
        shown = ", ".join(dict.fromkeys(rooms))
        print(f"| {name} | {len(rooms)} | {moves(rooms)} | {moves(above)} | {shown} |")

    ways = {"a save": save, "an edit and a save": edit, "a look at a value": look}
    print("| one warm trace with | calls | moves | above the ground | rooms |")
    print("|---|---|---|---|---|")
    for name, way in ways.items():
        for _ in range(3):  # the first runs compile
            way()
        told(name, walked(way))
    with model.trace(tokens):
        h = model.layers[2].output
        told("one operation (its shape found on placeholders)", walked(lambda: h * 2.0))
        told("one function", walked(lambda: mx.softmax(h, axis=-1)))
        told("the same again", walked(lambda: mx.softmax(h, axis=-1)))


if __name__ == "__main__":
    main()
