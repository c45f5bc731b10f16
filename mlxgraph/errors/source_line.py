"""The user's own line: the innermost frame that is neither ours nor a library's we record through.

Looking costs a fraction of a microsecond, so every recorded operation keeps its own line as
`(code, instruction)`; only when a person wants to read it is it turned into `file:line`.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from importlib.machinery import PathFinder
from types import CodeType
from typing import NamedTuple

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def _folder(library: str) -> str:
    """Where a library's files lie; it is found and not imported."""
    spec = PathFinder.find_spec(library)
    found = list(spec.submodule_search_locations or ()) if spec else []
    return os.path.abspath(found[0]) + os.sep if found else "<no such folder>"


_LIBRARIES = (_folder("einops"), _folder("mlx"), _folder("numpy"))
_inside: dict[CodeType, bool] = {}


class SourceLine(NamedTuple):
    """A line of the user's program, resolved only when it is printed."""

    code: CodeType | None
    instruction: int

    def __str__(self) -> str:
        if self.code is None:
            return "<unknown>"
        lines = _lines(self.code)
        line = lines[self.instruction // 2] if self.instruction // 2 < len(lines) else None
        name = self.code.co_filename
        if "ipykernel" in name or name.startswith("<ipython"):
            name = "notebook cell"
        else:
            name = os.path.basename(name)
        return f"{name}:{line or self.code.co_firstlineno}"


@lru_cache(maxsize=256)
def _lines(code: CodeType) -> list[int | None]:
    """The line of each instruction."""
    return [position[0] for position in code.co_positions()]


NOWHERE = SourceLine(None, 0)


def here() -> SourceLine:
    """Where the user's program is now."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        inside = _inside.get(code)
        if inside is None:
            name = code.co_filename
            inside = name.startswith(_PACKAGE) or name.startswith(_LIBRARIES)
            _inside[code] = inside
        if not inside:
            return SourceLine(code, frame.f_lasti)
        frame = frame.f_back  # type: ignore[assignment]
    return NOWHERE
