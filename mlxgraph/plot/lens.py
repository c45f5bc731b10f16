"""The logit lens as a picture: layers by positions, each cell its top prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlxgraph.errors import InputError
from mlxgraph.plot.figures import colours, ink, layer_ticks, new_figure

_WIDEST = 14  # characters of a token before it is cut
_LABELS = 11  # points, of the tokens and layers along the axes
_SIGNS = {"\n": "↵", "\t": "⇥", "\r": "↵"}


def lens_heatmap(
    predictions: Mapping[int, Sequence[Sequence[tuple]]],
    tokens: Sequence[str],
    max_display_tokens: int = 15,
    figsize: tuple[float, float] = (16, 10),
    cmap: str = "viridis",
    title: str = "Logit lens: what each layer predicts next",
) -> Any:
    """A grid of predicted tokens, one colour for each distinct token, the first layer below.

    Args:
        predictions: `{layer: [[(token_id, score, token_str), ...] for each position]}`.
        tokens: the input token at each position.
        max_display_tokens: how many positions to show, counted from the end.
    Returns: a matplotlib Figure.  A cell in bold agrees with the topmost layer.
    Raises: MissingDependencyError, InputError (a ValueError) for nothing to show,
        KeyError for an unknown colormap.
    """
    layers = sorted(predictions)
    shown = min(max_display_tokens, len(tokens))
    if not layers or shown < 1:
        raise InputError("there is nothing to show: no layers, or no tokens to display")
    grid = [[label(found[0][2]) for found in predictions[n][-shown:]] for n in layers]
    distinct = list(dict.fromkeys(name for row in grid for name in row))
    number = {name: at for at, name in enumerate(distinct)}
    figure = new_figure(figsize)
    palette = colours(cmap, _spread(len(distinct)))
    axes = figure.add_subplot()
    axes.imshow(
        np.array([[palette[number[name]] for name in row] for row in grid]),
        aspect="auto", origin="lower", interpolation="nearest",
    )  # fmt: skip
    for y, row in enumerate(grid):
        for x, name in enumerate(row):
            axes.text(
                x, y, name, ha="center", va="center", parse_math=False,
                fontsize=_font(figsize, shown, len(layers), len(name)),
                color=ink(palette[number[name]]),
                fontweight="bold" if name == grid[-1][x] else "normal",
            )  # fmt: skip
    names = [label(token) for token in tokens[-shown:]]
    fits = 72 * 0.9 * figsize[0] / shown / (0.62 * _LABELS)
    _label_axes(axes, layers, names, len(tokens) - shown, tilted=max(map(len, names)) > fits)
    axes.set_title(title, fontsize=14)
    return figure


def _label_axes(axes: Any, layers: list[int], names: list[str], hidden: int, tilted: bool) -> None:
    axes.set_xticks(
        range(len(names)), names, fontsize=_LABELS, parse_math=False,
        rotation=45 if tilted else 0, ha="right" if tilted else "center",
    )  # fmt: skip
    axes.set_yticks(*layer_ticks(layers, "Layer {}"), fontsize=_LABELS)
    axes.set_xticks(np.arange(-0.5, len(names)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(layers)), minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel(
        "input token" + (f" (the last {len(names)} of {len(names) + hidden})" if hidden else ""),
        fontsize=12,
    )
    axes.spines[:].set_visible(False)


def label(token: str) -> str:
    """A token as a short label: white space made visible, long ones cut."""
    name = "".join(_SIGNS.get(sign, sign if sign.isprintable() else "□") for sign in token)
    name = name.strip(" ") or "␣" * max(1, len(name))
    return name if len(name) <= _WIDEST else name[: _WIDEST - 1] + "…"


def _spread(count: int) -> Any:
    """Even places along a colormap, in an order that keeps tokens that meet far apart."""
    golden = (np.arange(count) * 0.6180339887) % 1.0
    return 0.04 + 0.92 * np.argsort(np.argsort(golden)) / max(count - 1, 1)


def _font(figsize: tuple[float, float], columns: int, rows: int, characters: int) -> float:
    """The font size, in points, at which a label fits its cell; short labels share one size."""
    across = 72 * 0.9 * figsize[0] / columns / (0.66 * max(characters, 8))
    down = 72 * 0.8 * figsize[1] / rows * 0.5
    return float(np.clip(min(across, down), 5, 15))
