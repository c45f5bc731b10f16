"""Edits in a line: `layers.5.mlp scale 0.5`.

In: a text.  Out: a graph.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any

import mlxgraph as mg
from mlxgraph import interventions as iv

_FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "zero_out": (0, lambda: iv.zero_out),
    "scale": (1, iv.scale),
    "noise": (1, iv.noise),
    "clamp": (2, iv.clamp),
}
_KEYS = ("positions", "heads")
_EXAMPLE = 'write --edit "layers.5.mlp scale 0.5"'


def edit_of(text: str) -> Any:
    """The graph of an edit: a site, what is done there, its numbers, `positions=` or `heads=`.

    Raises: ArgumentTypeError.
    """
    words = text.split()
    if len(words) < 2:
        raise _no(text, f"it names a site and what to do there: {_EXAMPLE}")
    site, name, *rest = words
    if name not in _FUNCTIONS:
        raise _no(text, f"{name!r} is not among {', '.join(_FUNCTIONS)}: {_EXAMPLE}")
    wanted, function = _FUNCTIONS[name]
    given = [word for word in rest if "=" not in word]
    if len(given) != wanted:
        raise _no(text, f"{name} takes {wanted} numbers, and there are {len(given)}: {_EXAMPLE}")
    try:
        values = [_number(word) for word in given]
        where: dict[str, Any] = {}
        for key, places in (_where(word) for word in rest if "=" in word):
            if key in where:
                raise ValueError(
                    f"{key}= is there twice: write {key}={_listed(where[key], places)}"
                )
            where[key] = places
        return mg.edit(site, function(*values), **where)
    except (ValueError, TypeError, mg.MLXGraphError) as error:
        raise _no(text, str(error).splitlines()[0]) from None


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"{word!r} is no number") from None


def _where(word: str) -> tuple[str, list[int]]:
    key, _, listed = word.partition("=")
    if key not in _KEYS:
        raise ValueError(f"{key}= is not among {', '.join(f'{k}=' for k in _KEYS)}")
    if not re.fullmatch(r"-?\d+(,-?\d+)*", listed):
        raise ValueError(f"{word!r} has no numbers: write {key}=1,3")
    return key, [int(one) for one in listed.split(",")]


def _listed(*several: list[int]) -> str:
    return ",".join(str(one) for numbers in several for one in numbers)


def _no(text: str, why: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"{text!r} is no edit: {why}")
