"""Tokens as short labels that can be read: white space shown, what no font has spelt out.

In: a token's text.  Out: a label, and the fonts to write it in.
"""

from __future__ import annotations

from functools import cache
from typing import Any
from unicodedata import category, east_asian_width

from mlxgraph.plot.figures import font_manager, usual_fonts

WIDEST = 14  # columns of a terminal that a label has at most
ARROW = " -> "  # between the two ends of an edge
_SIGNS = {"\n": "↵", "\t": "⇥", "\r": "↵"}
_OF_OTHER_SCRIPTS = (  # of which nearly every system has one; matplotlib's own has no such letters
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Source Han Sans",
    "Hiragino Sans", "Hiragino Sans GB", "PingFang SC", "PingFang HK", "Heiti TC",
    "Apple SD Gothic Neo", "Arial Unicode MS", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic",
    "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "Noto Sans", "Noto Emoji",
    "Segoe UI Symbol", "Apple Symbols",
)  # fmt: skip


def label(token: str, most: int = WIDEST) -> str:
    """A token as a short label: white space and control characters made visible, long ones cut."""
    name = "".join(_SIGNS.get(sign, sign if sign.isprintable() else _spelt(sign)) for sign in token)
    name = (name.strip(" ") or "␣" * len(name)) if name else "∅"
    return cut(name, most)


def cut(name: str, most: int) -> str:
    """A label of at most so many columns; a Chinese, Japanese or Korean letter takes two.

    Of an edge both ends are cut, before their last letters: they begin alike.
    """
    if columns(name) <= most:
        return name
    start, arrow, end = name.partition(ARROW)
    room = most - len(ARROW)
    if arrow and start and end and room >= WIDEST:
        half = room // 2
        first = max(half, room - columns(end))
        start = _cut_before(start, first)
        return start + ARROW + _cut_before(end, room - columns(start))
    while name and columns(name) > most - 1:
        name = name[:-1]
    return name + "…"


def _cut_before(name: str, most: int) -> str:
    if columns(name) <= most:
        return name
    while name and columns(name) > most - 1:
        name = name[1:]
    return "…" + name


def columns(name: str) -> int:
    """How wide a label is, in letters of a terminal; accents stand on the letter before them."""
    return sum(
        0 if category(sign) in ("Mn", "Me", "Cf") else 2 if east_asian_width(sign) in "WF" else 1
        for sign in name
    )


def drawable(name: str) -> str:
    """A label in letters that some font here has; the others as `\\u4e2d`."""
    known = _letters(families())
    return "".join(sign if ord(sign) in known else _spelt(sign) for sign in name)


def _spelt(sign: str) -> str:
    return sign.encode("unicode_escape").decode()


def families() -> tuple[str, ...]:
    """The fonts of labels: the user's, matplotlib's own, those of other scripts that are here."""
    installed = _installed(len(font_manager().fontManager.ttflist))
    return tuple(dict.fromkeys([*usual_fonts(), "DejaVu Sans", *installed]))


@cache
def _installed(_count: int) -> tuple[str, ...]:
    names = {font.name for font in font_manager().fontManager.ttflist}
    return tuple(name for name in _OF_OTHER_SCRIPTS if name in names)


@cache
def _letters(names: tuple[str, ...]) -> frozenset[int]:
    found: set[int] = set()
    for name in names:
        path = font_manager().findfont(font_manager().FontProperties(family=[name]))
        found |= set(font_manager().get_font(path).get_charmap())
    return frozenset(found)


def text_options(**more: Any) -> dict[str, Any]:
    """How a label is written: its own signs, never as mathematics."""
    return {"parse_math": False, "fontfamily": list(families()), **more}
