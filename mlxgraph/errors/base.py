"""The root of the tree of errors, and the close matches that messages suggest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MLXGraphError(Exception):
    """The root: catch this to catch everything that mlxgraph raises on purpose."""

    def __str__(self) -> str:  # KeyError would show the message quoted
        return str(self.args[0]) if self.args else ""


def close_matches(name: str, known: Iterable[str], most: int = 5) -> list[str]:
    """The known names that look most like `name`, best first."""
    names = list(dict.fromkeys(known))
    found = difflib.get_close_matches(name, names, n=most, cutoff=0.6)
    tail = name.rsplit(".", 1)[-1]
    if not found:
        tails = list(dict.fromkeys(n.rsplit(".", 1)[-1] for n in names))
        tail = next(iter(difflib.get_close_matches(tail, tails, n=1, cutoff=0.6)), tail)
    return (found + [n for n in names if n.endswith("." + tail) and n not in found])[:most]


def suggest(matches: list[str]) -> str:
    return f"\n  Did you mean {' or '.join(repr(m) for m in matches)}?" if matches else ""
