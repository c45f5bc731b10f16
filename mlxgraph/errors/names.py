"""What is not among the public names: close matches, and where else the name is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from mlxgraph.errors.base import MLXGraphError, close_matches, suggest
from mlxgraph.errors.tracebacks import at_the_edge


class UnknownAttributeError(MLXGraphError, AttributeError):
    """A name that mlxgraph does not have."""

    def __init__(self, name: str, known: Iterable[str], advice: str):
        known = list(known)
        hint = "" if advice else suggest(close_matches(name, known))
        said = f"\n  {advice}" if advice else hint or f"\n  It has: {', '.join(known)}."
        super().__init__(f"mlxgraph has no {name!r}.{said}")


def asked(known: Iterable[str], elsewhere: Mapping[str, Any]) -> Callable[[str], NoReturn]:
    """A module's `__getattr__`, called for what is not there.

    Args: elsewhere: what else may have a name, by how the user writes it.
    """

    @at_the_edge
    def __getattr__(name: str) -> NoReturn:
        if name.startswith("_"):  # Python's own questions, mostly
            raise AttributeError(f"module 'mlxgraph' has no attribute {name!r}")
        found = [f"{written}.{name}" for written, it in elsewhere.items() if hasattr(it, name)]
        advice = f"Write {' or '.join(found)}." if found else ""
        raise UnknownAttributeError(name, known, advice)

    return __getattr__
