"""The logit lens as a picture: layers by positions, each cell its top prediction."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mlxgraph.errors import InputError
from mlxgraph.plot.figures import colour_map, ink, new_figure
from mlxgraph.plot.fitting import LINE, Words, broken, cell, fitted, in_two, stride, widths
from mlxgraph.plot.labels import drawable, label, text_options

_MOST_WRITTEN = 24  # columns up to which a figure is made wide enough for words in its cells
_TICKS, _TEXT, _TITLE = 9.0, 10.0, 12.0  # points
_MOST = 60.0  # inches of a side that is not asked for
_FINE = 2.5  # points: the side of cells below which white edges would be all that is seen
_NAMED = 20  # letters of a token along the axis: `<|start_header_id|>` has 19


class Scale(NamedTuple):
    """What numbers the colours stand for.

    Attributes:
        says: what the numbers are, along the colour bar: the first of these that fits.
        low, high: the ends of the colour bar.
        logarithmic: whether the colours go by the numbers' logarithms; `low` is above 0 then.
        turned: whether low numbers get the colormap's high end, and the top of the bar.
    """

    says: Sequence[str]
    low: float
    high: float
    logarithmic: bool = False
    turned: bool = False


class Grid(NamedTuple):
    """A lens as a table: rows are layers, columns positions.

    Attributes:
        layers: the rows' numbers, in any order.
        tokens: the text of the token read, a column each.
        predictions: for each layer the text of the token that it predicts at each position.
        numbers: what is coloured, shape (layers, positions).
    """

    layers: Sequence[int]
    tokens: Sequence[str]
    predictions: Sequence[Sequence[str]]
    numbers: Any

    def shown(self, columns: int) -> Grid:
        """The last columns, the first layer first, as labels that can be drawn."""
        order = sorted(range(len(self.layers)), key=lambda row: self.layers[row])
        return Grid(
            [self.layers[row] for row in order],
            [drawable(label(token, _NAMED)) for token in self.tokens[-columns:]],
            [[drawable(label(text)) for text in self.predictions[row][-columns:]] for row in order],
            np.asarray(self.numbers, dtype=float)[order][:, -columns:],
        )


def lens_heatmap(
    grid: Grid,
    scale: Scale,
    max_display_tokens: int = 15,
    figsize: tuple[float, float] | None = None,
    cmap: str = "viridis",
    title: str = "Logit lens: what each layer predicts next",
) -> Any:
    """A grid of predicted tokens, coloured by a number of each, the first layer below.

    Args:
        max_display_tokens: how many positions to show, counted from the end.
        figsize: inches; left out, it follows the grid.
        cmap: a colormap of matplotlib's.
    Returns: a matplotlib Figure.  A cell in bold agrees with the topmost layer.  Where cells are
        too small for words there are none, and a line below the grid says so.
    Raises: MissingDependencyError, InputError (a ValueError) for nothing to show,
        UnknownNameError (a KeyError) for a colormap.
    """
    columns, rows = min(_whole(max_display_tokens), len(grid.tokens)), len(grid.layers)
    if rows < 1 or columns < 1:
        raise InputError("there is nothing to show: no layers, or no tokens to display")
    hidden = len(grid.tokens) - columns
    grid = grid.shown(columns)
    figure = new_figure(figsize or _size(rows, columns))
    axes = figure.add_subplot()
    image = axes.imshow(
        np.ma.masked_invalid(grid.numbers),
        cmap=colour_map(cmap, scale.turned).with_extremes(bad="0.85"), norm=_norm(scale),
        aspect="auto", origin="lower", interpolation="nearest",
    )  # fmt: skip
    figure.suptitle(broken(figure, title, _TITLE), fontsize=_TITLE, **text_options())
    _edges(axes, rows, columns, min(cell(figure, axes, rows, columns)) > _FINE)
    axes.set_ylabel("layer", fontsize=_TEXT)
    axes.set_yticks(range(rows), list(map(str, grid.layers)), fontsize=_TICKS)
    bar = _colour_bar(figure, axes, image, scale)
    below = figure.supxlabel("\n", fontsize=_TEXT, **text_options())
    every = _name_columns(axes, grid.tokens, cell(figure, axes, rows, columns)[0])
    room = cell(figure, axes, rows, columns)
    _name_rows(axes, grid.layers, room[1])
    last = grid.predictions[-1]
    bold = [[text == top for text, top in zip(row, last, strict=True)] for row in grid.predictions]
    words = fitted(figure, grid.predictions, bold, room)
    lines = [_what_is_read(columns, hidden, every), _what_is_written(words, rows, columns)]
    below.set_text("\n".join(broken(figure, line, _TEXT) for line in lines))
    room = cell(figure, axes, rows, columns)
    _say(bar, scale, rows * room[1])
    words = words and fitted(figure, grid.predictions, bold, room)
    if words:
        _write(axes, words, bold, image)
    figure.set_layout_engine("none")  # what was measured stays where it is
    return figure


def _whole(count: Any) -> int:
    try:
        return operator.index(count)
    except TypeError:
        raise InputError(
            f"max_display_tokens={count!r:.40} is no whole number.\n  Write how many positions to"
            " show, such as max_display_tokens=15."
        ) from None


def _size(rows: int, columns: int) -> tuple[float, float]:
    """Inches: of words that can be read where the columns are few enough, of small cells else."""
    written = columns <= _MOST_WRITTEN
    across = np.clip(14 / columns, 0.6, 1.0) if written else np.clip(14 / columns, 0.08, 0.3)
    down = np.clip(9 / rows, 0.15, 0.38) if written else np.clip(7 / rows, 0.08, 0.3)
    wide, high = (float(np.clip(side, least, _MOST)) for side, least in
                  ((across * columns, 3), (down * rows, 1.6)))  # fmt: skip
    return wide + 2, high + 1.9


def _norm(scale: Scale) -> Any:
    from matplotlib.colors import LogNorm, Normalize

    kind = LogNorm if scale.logarithmic else Normalize
    return kind(scale.low, scale.high, clip=True)


def _edges(axes: Any, rows: int, columns: int, seen: bool) -> None:
    """White lines between cells, as thin as they are small, if these are seen beside them."""
    line = {"color": "white", "linewidth": 1 if max(rows, columns) <= 40 else 0.4}
    if seen:
        axes.vlines(np.arange(0.5, columns - 1), -0.5, rows - 0.5, **line).set_in_layout(False)
        axes.hlines(np.arange(0.5, rows - 1), -0.5, columns - 0.5, **line).set_in_layout(False)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(-0.5, rows - 0.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _colour_bar(figure: Any, axes: Any, image: Any, scale: Scale) -> Any:
    high = figure.get_size_inches()[1] - 1.5
    bar = figure.colorbar(image, ax=axes, pad=0.015, fraction=0.05, aspect=max(5, high / 0.16))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=_TICKS)
    if scale.logarithmic:
        bar.ax.yaxis.set_major_formatter(lambda number, _: f"{number:,.0f}")
        bar.ax.minorticks_off()
    if scale.turned:
        bar.ax.invert_yaxis()
    bar.set_label(scale.says[-1], fontsize=_TEXT)
    return bar


def _say(bar: Any, scale: Scale, room: float) -> None:
    """The longest of the bar's names that is no longer than the bar, in points."""
    long = widths(bar.ax.figure, scale.says, _TEXT)
    name = next((name for name in scale.says if long[name] <= room), scale.says[-1])
    bar.set_label(name, fontsize=_TEXT, **text_options())


def _name_columns(axes: Any, tokens: Sequence[str], room: float) -> int:
    """Tokens below the grid, on end where they are longer than a column is wide.

    Returns: of how many tokens one is named, the last of them always.
    """
    room -= 4
    long = widths(axes.figure, tokens, _TICKS)
    lines = [in_two(token, room, long[token]) for token in tokens]
    flat = max(widths(axes.figure, lines, _TICKS).values()) <= room
    tokens = lines if flat else tokens
    every = 1 if flat else stride(room + 4, LINE * _TICKS)
    named = range((len(tokens) - 1) % every, len(tokens), every)
    axes.set_xticks(
        named, [tokens[k] for k in named], fontsize=_TICKS, rotation=0 if flat else 90,
        **text_options(),
    )  # fmt: skip
    return every


def _name_rows(axes: Any, layers: Sequence[int], room: float) -> None:
    named = range(0, len(layers), stride(room, LINE * _TICKS))
    axes.set_yticks(named, [str(layers[k]) for k in named], fontsize=_TICKS)


def _what_is_read(columns: int, hidden: int, every: int) -> str:
    said = f" (the last {columns} of {columns + hidden})" if hidden else ""
    ordinal = {2: "2nd"}.get(every, f"{every}th")
    return f"input token{said}" + (f", every {ordinal} one named" if every > 1 else "")


def _what_is_written(words: Words | None, rows: int, columns: int) -> str:
    if words:
        return "bold: the prediction of the last layer shown"
    fewer = f"max_display_tokens={_MOST_WRITTEN} or " if columns > _MOST_WRITTEN else ""
    wide, high = max(columns * 0.6, 3) + 2, max(rows * 0.15, 1.6) + 1.9
    return f"predictions left out: no room. See them with {fewer}figsize=({wide:.0f}, {high:.0f})"


def _write(axes: Any, words: Words, bold: Sequence[Sequence[bool]], image: Any) -> None:
    """The predictions, dark on light cells and light on dark ones."""
    colours = image.cmap(image.norm(image.get_array()))
    for y, row in enumerate(words.texts):
        for x, text in enumerate(row):
            axes.text(
                x, y, text, ha="center", va="center", fontsize=words.size, color=ink(colours[y, x]),
                fontweight="bold" if bold[y][x] else "normal", clip_on=True, **text_options(),
            ).set_in_layout(False)  # fmt: skip
