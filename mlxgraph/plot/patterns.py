"""Attention patterns as pictures: one small square a head, tokens along both axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mlxgraph.errors import InputError
from mlxgraph.errors.tracebacks import at_the_edge
from mlxgraph.plot.figures import check_title, colour_map, new_figure
from mlxgraph.plot.labels import label

_MOST_TOKENS = 32  # beyond which their texts would touch
_MOST_COLUMNS = 4
_SIDE = 2.6  # inches
_MOST_CELLS = 1024  # along a side: more than there are dots


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
    keys, all in one scale from 0 to the largest weight shown.  Of a long text a dot is the largest
    weight of several queries and keys, as the colour bar says.

    Args:
        pattern: `(heads, query, key)`, `(query, key)`, or of one text `(1, heads, query, key)`.
        tokens: the keys' texts; the queries are the last of them.  Numbers if left out.
        heads: the heads to show; all of them if left out.
        cmap: a colormap of matplotlib's.
    Returns: a matplotlib Figure.
    Raises: InputError (a ValueError) for another shape, or another number of tokens;
        MissingDependencyError; UnknownNameError (a KeyError) for a colormap.

    Example:
        >>> from mlxgraph import plot
        >>> with model.trace("The capital of France is"):
        ...     pattern = model.layers[2].attn.pattern.save()
        >>> tokens = model.str_tokens("The capital of France is")
        >>> figure = plot.attention(pattern, tokens, heads=[0, 5])
    """
    check_title(title)
    colours = colour_map(cmap)
    shape = _shape(pattern)
    chosen = _chosen(heads, shape[0])
    squares, of = _squares(pattern, shape, chosen)
    texts = _texts(tokens, shape[-1])
    columns = min(_MOST_COLUMNS, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    named = len(texts) <= _MOST_TOKENS
    margin = 0.07 * max(map(len, texts)) if named else 0.3
    figure = new_figure(figsize or (columns * _SIDE + margin + 1, rows * _SIDE + margin + 0.5))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    most = max(float(squares.max()), 1e-9)
    ends = (-0.5, shape[2] - 0.5, shape[1] - 0.5, -0.5)
    image = None
    for k, axes in enumerate(grid.flat):
        if k >= len(chosen):
            axes.set_visible(False)
            continue
        image = axes.imshow(
            squares[k], cmap=colours, vmin=0, vmax=most, aspect="auto", extent=ends
        )  # fmt: skip
        if shape[0] > 1:
            axes.set_title(f"head {chosen[k]}", fontsize=10)
        axes.tick_params(length=0, labelsize=8)
        _name(axes, texts, shape[1], named, last=k + columns >= len(chosen))
    figure.supylabel("query", fontsize=11)
    figure.supxlabel("key", fontsize=11)
    figure.suptitle(title or "Attention pattern", fontsize=13)
    figure.colorbar(image, ax=list(grid.flat), shrink=0.8, label=of)
    return figure


def _shape(pattern: Any) -> tuple[int, int, int]:
    """How many heads, queries and keys a pattern has."""
    shape = tuple(getattr(pattern, "shape", ()))
    fits = len(shape) in (2, 3) or (len(shape) == 4 and shape[0] == 1)
    if not fits or 0 in shape:
        raise InputError(
            f"a pattern of one text is (heads, query, key), and this is {shape or type(pattern)}.\n"
            "  Write plot.attention(attn_pattern[0]) for the first text of several."
        )
    return (shape[-3] if len(shape) > 2 else 1), shape[-2], shape[-1]


def _squares(pattern: Any, shape: tuple[int, int, int], heads: list[int]) -> tuple[Any, str]:
    """The chosen heads' numbers, (heads, query, key), and what they are: of a large square the
    largest of each few queries and keys."""
    whole = pattern.reshape(*shape)
    each = [math.ceil(size / _MOST_CELLS) for size in shape[1:]]
    squares = [_largest(_numbers(whole[head]), *each) for head in heads]
    several = f"largest weight of {each[0]} × {each[1]} queries and keys"
    return np.stack(squares), "weight" if max(each) == 1 else several


def _numbers(square: Any) -> Any:
    try:
        return np.array(square, dtype=np.float32)
    except (RuntimeError, TypeError, ValueError):  # bfloat16, which numpy does not have
        return np.stack([np.array(row.tolist(), dtype=np.float32) for row in square])


def _largest(square: Any, queries: int, keys: int) -> Any:
    """The largest number of so many rows and columns each."""
    if queries == keys == 1:
        return square
    rows = np.maximum.reduceat(square, range(0, square.shape[0], queries), axis=0)
    return np.maximum.reduceat(rows, range(0, square.shape[1], keys), axis=1)


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
    if not isinstance(tokens, (list, tuple, str)):
        raise InputError(f"tokens={tokens!r:.40} are no texts.\n  Write model.str_tokens(text).")
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
