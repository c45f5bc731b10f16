"""Patterns: one name for many modules.

    layers.5.mlp        one module, in any form of its name
    layers.*.mlp        `*` is one part of a dotted path
    layers.[4-8].mlp    a range of numbers, both ends included; also [0,2,4-6]
    **.q_proj           `**` is any number of parts

Pure text: which modules a model has is told by whoever asks.
"""

from __future__ import annotations

import re
from functools import lru_cache

_RANGE = re.compile(r"\[([0-9,\- ]+)\]")


def is_pattern(name: str) -> bool:
    """Whether a name can stand for more than one module."""
    return "*" in name or "[" in name or "?" in name


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression that whole paths must match.

    Raises: ValueError for a range that is no range.
    """
    parts = [_part(part) for part in _split(pattern)]
    text = (
        r"\.".join(parts).replace(r"<any>\.", r"(?:[^.]+\.)*").replace(r"\.<any>", r"(?:\.[^.]+)*")
    )
    return re.compile(text.replace("<any>", ".*"))


def _split(pattern: str) -> list[str]:
    return re.split(r"\.(?![^\[]*\])", pattern)


def _part(part: str) -> str:
    if part == "**":
        return "<any>"
    found = _RANGE.fullmatch(part)
    if found:
        return f"(?:{'|'.join(str(n) for n in numbers(found.group(1), part))})"
    if "[" in part or "]" in part:
        raise ValueError(f"{part!r} is no range of layers; write [4-8] or [0,2,4-6]")
    return "".join({"*": "[^.]*", "?": "[^.]"}.get(c, re.escape(c)) for c in part)


def numbers(text: str, part: str) -> list[int]:
    """`"0,2,4-6"` -> `[0, 2, 4, 5, 6]`"""
    found: list[int] = []
    for piece in text.split(","):
        first, dash, last = piece.strip().partition("-")
        if (
            not first.isdigit()
            or (dash and not last.isdigit())
            or (dash and (int(last) < int(first) or int(last) - int(first) > 100_000))
        ):
            raise ValueError(f"{part!r} is no range of layers; write [4-8] or [0,2,4-6]")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def matches(pattern: str, names: dict[str, str]) -> list[str]:
    """The modules that a pattern means, in tree order.

    Args: names: every name a module goes by -> its canonical path.
    """
    expression = compiled(pattern)
    found = dict.fromkeys(path for name, path in names.items() if expression.fullmatch(name))
    return list(found)
