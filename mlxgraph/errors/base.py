"""The root of the tree of errors, and the close matches that messages suggest."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # a part of a dotted name that is a number


class MLXGraphError(Exception):
    """The root: catch this to catch everything that mlxgraph raises on purpose."""

    def __str__(self) -> str:  # KeyError would show the message quoted
        return str(self.args[0]) if self.args else ""


def close_matches(name: str, known: Iterable[str], most: int = 5) -> list[str]:
    """The known names that look most like `name`, best first.

    Of names that differ in their numbers alone there is one: with the numbers that were written, if
    there is such a one.
    """
    names = list(dict.fromkeys(known))
    found = difflib.get_close_matches(name, names, n=max(len(names), 1), cutoff=0.6)
    tail = name.rsplit(".", 1)[-1]
    if not found:
        tails = list(dict.fromkeys(n.rsplit(".", 1)[-1] for n in names))
        tail = next(iter(difflib.get_close_matches(tail, tails, n=1, cutoff=0.6)), tail)
    found += [n for n in names if n.endswith("." + tail) and n not in found]
    numbers = _NUMBER.findall(name)
    forms: dict[str, str] = {}
    for one in found:
        form = _NUMBER.sub("*", one)
        if form not in forms or _NUMBER.findall(one) == numbers:
            forms[form] = one
    return list(forms.values())[:most]


def suggest(matches: list[str]) -> str:
    return f"\n  Did you mean {' or '.join(repr(m) for m in matches)}?" if matches else ""
