"""Attention patterns as pictures: one small square a head, tokens along both axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mlxgraph.errors import InputError
from mlxgraph.errors.tracebacks import at_the_edge
from mlxgraph.plot.figures import new_figure
from mlxgraph.plot.labels import label

_MOST_TOKENS = 32  # beyond which their texts would touch
_MOST_COLUMNS = 4
_SIDE = 2.6  # inches


@at_the_edge
def attention(
    pattern: Any,
    tokens: Sequence[str] | None = None,
    *,
    heads: Sequence[int] | None = None,
    figsize: tuple[float, float] | None = None,
    cmap: str = "Blues",
    title: str = "",
) -> Any:
    """Attention patterns as small multiples: a square for each head, rows are queries, columns
    keys, all in one scale from 0 to the largest weight shown.

    Args:
        pattern: `(heads, query, key)`, `(query, key)`, or of one text `(1, heads, query, key)`.
        tokens: the keys' texts; the queries are the last of them.  Numbers if left out.
        heads: the heads to show; all of them if left out.
        cmap: a colormap of matplotlib's.
    Returns: a matplotlib Figure.
    Raises: InputError (a ValueError) for another shape, or another number of tokens;
        MissingDependencyError; KeyError for an unknown colormap.

    Example:
        >>> from mlxgraph import plot
        >>> with model.trace("The capital of France is"):
        ...     pattern = model.layers[2].attn.pattern.save()
        >>> tokens = model.str_tokens("The capital of France is")
        >>> figure = plot.attention(pattern, tokens, heads=[0, 5])
    """
    squares = _squares(pattern)
    chosen = _chosen(heads, len(squares))
    texts = _texts(tokens, squares.shape[-1])
    columns = min(_MOST_COLUMNS, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    named = len(texts) <= _MOST_TOKENS
    margin = 0.07 * max(map(len, texts)) if named else 0.3
    figure = new_figure(figsize or (columns * _SIDE + margin + 1, rows * _SIDE + margin + 0.5))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    most = max(float(squares[chosen].max()), 1e-9)
    image = None
    for k, axes in enumerate(grid.flat):
        if k >= len(chosen):
            axes.set_visible(False)
            continue
        image = axes.imshow(squares[chosen[k]], cmap=cmap, vmin=0, vmax=most, aspect="auto")
        if len(squares) > 1:
            axes.set_title(f"head {chosen[k]}", fontsize=10)
        axes.tick_params(length=0, labelsize=8)
        _name(axes, texts, squares.shape[-2], named, last=k + columns >= len(chosen))
    figure.supylabel("query", fontsize=11)
    figure.supxlabel("key", fontsize=11)
    figure.suptitle(title or "Attention pattern", fontsize=13)
    figure.colorbar(image, ax=list(grid.flat), shrink=0.8, label="weight")
    return figure


def _squares(pattern: Any) -> Any:
    """A pattern as numbers, (heads, query, key)."""
    shape = tuple(getattr(pattern, "shape", ()))
    fits = len(shape) in (2, 3) or (len(shape) == 4 and shape[0] == 1)
    if not fits or 0 in shape:
        raise InputError(
            f"a pattern of one text is (heads, query, key), and this is {shape or type(pattern)}.\n"
            "  Write plot.attention(attn_pattern[0]) for the first text of several."
        )
    numbers = np.array(pattern.tolist(), dtype=float)
    return numbers.reshape(-1, *numbers.shape[-2:])


def _whole(heads: Any) -> list[int]:
    listed = getattr(heads, "tolist", lambda: heads)()
    listed = list(listed) if isinstance(listed, Iterable) else [listed]
    if not all(isinstance(one, (int, np.integer)) and not isinstance(one, bool) for one in listed):
        raise InputError(f"heads={heads!r:.40} are no whole numbers.\n  Write heads=[0, 3].")
    return [int(one) for one in listed]


def _chosen(heads: Sequence[int] | None, count: int) -> list[int]:
    numbers = list(range(count)) if heads is None else _whole(heads)
    for head in numbers:
        if not -count <= head < count:
            raise InputError(f"there is no head {head}: the pattern has heads 0–{count - 1}.")
    if not numbers:
        raise InputError("there is nothing to show: no heads")
    return [head % count for head in numbers]


def _texts(tokens: Sequence[str] | None, keys: int) -> list[str]:
    if tokens is None:
        return [str(k) for k in range(keys)]
    if isinstance(tokens, str) or len(tokens) != keys:
        given = "one text" if isinstance(tokens, str) else f"{len(tokens)} tokens"
        raise InputError(f"the pattern has {keys} keys, and {given} were given to name them.")
    return [label(str(token)) for token in tokens]


def _name(axes: Any, texts: list[str], queries: int, named: bool, last: bool) -> None:
    """Tokens along the left of the first column, and below the last square of each."""
    if not named:
        return
    axes.set_xticks(range(len(texts)), texts, rotation=90, parse_math=False)
    axes.set_yticks(range(queries), texts[len(texts) - queries :], parse_math=False)
    axes.tick_params(labelbottom=last)
