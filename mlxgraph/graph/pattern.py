"""Patterns: one name for many modules.

    layers.5.mlp        one module, in any form of its name
    layers.*.mlp        `*` is one part of a dotted path, or of a part; `?` is one character
    layers.[4-8].mlp    a range of numbers, both ends included; also [0,2,4-6]
    **.q_proj           `**` is any number of parts

Pure text: which modules a model has is told by whoever asks.
"""

from __future__ import annotations

import re
from functools import lru_cache

from mlxgraph.errors import PatternError

_RANGE = re.compile(r"\[([0-9,\- ]+)\]")


def is_pattern(name: str) -> bool:
    """Whether a name can stand for more than one module."""
    return "*" in name or "[" in name or "?" in name


_NUMBERED = re.compile(r"(?<=[^.\[])\[\s*([0-9,\- ]+)\s*\]")  # `layers[2]`, as in Python


def _plainly(found: re.Match[str]) -> str:
    inside = found.group(1).strip()
    return f".{inside}" if inside.isdigit() else f".[{inside}]"


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression that whole paths must match.

    Raises: PatternError (a ValueError) for a range that is no range.
    """
    try:
        parts = [_part(part) for part in split(pattern)]
    except ValueError:
        raise PatternError(pattern, _NUMBERED.sub(_plainly, pattern)) from None
    text = (
        r"\.".join(parts).replace(r"<any>\.", r"(?:[^.]+\.)*").replace(r"\.<any>", r"(?:\.[^.]+)*")
    )
    return re.compile(text.replace("<any>", ".*"))


def split(pattern: str) -> list[str]:
    """The parts between the dots."""
    return re.split(r"\.(?![^\[]*\])", pattern)


def _part(part: str) -> str:
    if part == "**":
        return "<any>"
    found = _RANGE.fullmatch(part)
    if found:
        return f"(?:{'|'.join(str(n) for n in numbers(found.group(1), part))})"
    if "[" in part or "]" in part:
        raise PatternError(part, part)
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
            raise PatternError(part, part)
        found.extend(range(int(first), int(last or first) + 1))
    return found


def numbers_of(part: str) -> list[int]:
    """The numbers that one part of a name or pattern means; none where it means no numbers."""
    if part.isdigit():
        return [int(part)]
    found = _RANGE.fullmatch(part)
    return numbers(found.group(1), part) if found else []


def matches(pattern: str, names: dict[str, str]) -> list[str]:
    """The modules that a pattern means, in tree order.

    Args: names: every name a module goes by -> its canonical path.
    """
    expression = compiled(pattern)
    found = dict.fromkeys(path for name, path in names.items() if expression.fullmatch(name))
    return list(found)


ALIASES = {
    "attn": (
        "self_attn", "attention", "self_attention", "attn", "linear_attn", "mixer",
        "temporal_block", "self_attention_block",
    ),
    "mlp": (
        "mlp", "feed_forward", "ffn", "ff", "block_sparse_moe", "moe", "feedforward", "ffn_block",
        "mlp_block", "dense",
    ),
}  # fmt: skip


def may_meet(first: str, second: str) -> bool:
    """Whether two names or patterns can mean one module, whatever model they meet.

    One of them may be relative, so they are compared from their ends.
    """
    one, two = split(first)[::-1], split(second)[::-1]
    for a, b in zip(one, two, strict=False):
        if "**" in (a, b):
            return True
        if not _part_meets(a, b):
            return False
    return bool(one and two) or one == two


def _part_meets(a: str, b: str) -> bool:
    if a == b or b in ALIASES.get(a, ()) or a in ALIASES.get(b, ()):
        return True
    if is_pattern(a) and is_pattern(b):
        found = [n for n in (_RANGE.fullmatch(a), _RANGE.fullmatch(b)) if n]
        if len(found) == 2:
            mine, theirs = (set(numbers(n.group(1), n.group(0))) for n in found)
            return bool(mine & theirs)
        return True
    return bool(compiled(a).fullmatch(b) or compiled(b).fullmatch(a))
