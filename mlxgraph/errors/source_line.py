"""The user's own line: the innermost frame that is neither ours nor a library's we record through.

Looking costs a fraction of a microsecond, so every recorded operation keeps its own line as
`(code, instruction)`; only when a person wants to read it is it turned into `file:line`.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from functools import lru_cache
from importlib.machinery import PathFinder
from types import CodeType, FrameType
from typing import NamedTuple

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def _folder(library: str) -> str:
    """Where a library's files lie; it is found and not imported."""
    spec = PathFinder.find_spec(library)
    found = list(spec.submodule_search_locations or ()) if spec else []
    return os.path.abspath(found[0]) + os.sep if found else "<no such folder>"


_LIBRARIES = (_folder("einops"), _folder("mlx"), _folder("numpy"), contextlib.__file__)
_MAGICS = ("<timed exec>", "<timed eval>", "<magic-timeit>")  # %time and %timeit, %% or %
_inside: dict[str, bool] = {}  # by file: a text keeps its hash, and code is hashed anew each time


class SourceLine(NamedTuple):
    """A line of the user's program, resolved only when it is printed."""

    code: CodeType | None
    instruction: int

    def __str__(self) -> str:
        if self.code is None:
            return "<unknown>"
        lines = _lines(self.code)
        line = lines[self.instruction // 2] if self.instruction // 2 < len(lines) else None
        line = line or self.code.co_firstlineno
        file = self.code.co_filename
        cell = _cell(file)
        if cell is not None:
            return f"notebook {cell}, line {line}"
        running = _run_by_a_cell(self.code, line) if file.startswith("<") else None
        return running or f"{os.path.basename(file)}:{line}"


def _cell(file: str) -> str | None:
    """`cell 2`, where code was typed into IPython or a notebook: IPython keeps which cell a name
    stands for."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    named = getattr(getattr(shell, "compile", None), "format_code_name", lambda _: None)(file)
    number = re.search(r"\d+", named[1]) if named else re.match(r"<ipython-input-(\d+)", file)
    if number is not None:
        return f"cell {number.group(number.lastindex or 0)}"
    return "cell" if "ipykernel_" in file or file.startswith("<ipython") else None


def _run_by_a_cell(code: CodeType, line: int) -> str | None:
    """Where code stands that a cell has compiled by itself (`%%time`, `exec`), while it runs."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not (
        frame.f_code.co_name in ("<module>", "inner") and _holds(frame.f_code, code)
    ):
        frame = frame.f_back
    cell = None
    while frame is not None and (cell := _cell(frame.f_code.co_filename)) is None:
        frame = frame.f_back
    if frame is None:
        return None
    if code.co_filename not in _MAGICS:
        return f"{code.co_filename}:{line}, in notebook {cell}, line {frame.f_lineno}"
    whole = "run_cell_magic" in frame.f_code.co_names  # the cell's first line is the magic
    return f"notebook {cell}, line {line + 1 if whole else frame.f_lineno}"


def _holds(outer: CodeType, code: CodeType) -> bool:
    """Whether code is another's, or that of a function within."""
    if outer.co_filename != code.co_filename:
        return False
    return outer is code or any(
        isinstance(inner, CodeType) and _holds(inner, code) for inner in outer.co_consts
    )


@lru_cache(maxsize=256)
def _lines(code: CodeType) -> list[int | None]:
    """The line of each instruction."""
    return [position[0] for position in code.co_positions()]


NOWHERE = SourceLine(None, 0)
_made = tuple.__new__  # what `SourceLine(...)` comes to


def is_inside(code: CodeType) -> bool:
    """Whether code is ours, or a library's that we record through."""
    name = code.co_filename
    inside = _inside.get(name)
    if inside is None:
        _inside[name] = inside = name.startswith(_PACKAGE) or name.startswith(_LIBRARIES)
    return inside


def asked_by(library: str) -> bool:
    """Whether a library that we record through stands between us and the user's program."""
    folder = os.sep + library + os.sep
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and is_inside(frame.f_code):
        if folder in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def here() -> SourceLine:
    """Where the user's program is now."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        inside = _inside.get(code.co_filename)
        if not (is_inside(code) if inside is None else inside):
            return _made(SourceLine, (code, frame.f_lasti))
        frame = frame.f_back  # type: ignore[assignment]
    return NOWHERE
