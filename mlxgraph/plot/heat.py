"""Heat maps: a colour for each number, one scale for all, axes that say what they are.

In: numbers, labels.  Out: matplotlib figures in which no text is cut off or touches another.
Never: a scale that makes small effects of one sign look like large ones: zero is in the middle
unless the caller says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mlxgraph.errors import InputError, ShapeError
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import at_the_edge
from mlxgraph.plot.figures import check_title, colour_map
from mlxgraph.plot.labels import text_options
from mlxgraph.plot.layout import (
    FLAT,
    GAP,
    LINE,
    PAD,
    TEXT,
    TICK,
    TITLE,
    Ticks,
    bare_figure,
    beside_at,
    block_height,
    check_room,
    every_said,
    is_numbered,
    name_across,
    name_down,
    named,
    pitch_for,
    place,
    round_ticks,
    shortened,
    ticks_across,
    ticks_down,
    widest,
    with_grey,
    wrapped,
    written,
)

_BAR = 9.0  # width of the colour bar, points
_LONGEST = 260.0  # of the colour bar
_APART = 12.0  # of the bar from the cells
_BETWEEN = 10.0  # panels
_ROOM = 900.0  # for panels side by side
_EDGED = 8.0  # the side of cells that have white edges
_UNKNOWN = "0.82"  # the colour of cells that hold no number
_MOST_PANELS = 64


class Scale(NamedTuple):
    """Which numbers the colours stand for, and which end of it has numbers beyond."""

    low: float
    high: float
    cmap: str
    extend: str  # matplotlib's word: neither, min, max, both

    @property
    def drawn(self) -> tuple[float, float]:
        """Beyond the scale, where infinities are drawn too."""
        return 2 * self.low - self.high, 2 * self.high - self.low


@at_the_edge
def heatmap(
    values: Any,
    rows: Sequence[Any] | None = None,
    columns: Sequence[Any] | None = None,
    *,
    panels: Sequence[Any] | None = None,
    xlabel: str = "",
    ylabel: str = "",
    label: str = "",
    title: str = "",
    figsize: tuple[float, float] | None = None,
    cmap: str | None = None,
    centre: float | None = 0.0,
    limit: float | None = None,
) -> Any:
    """Numbers as colours: effects by layer and position, by layer and head, and the like.

    Args:
        values: shape (rows, columns), or (panels, rows, columns) for small multiples in one scale;
            NaN is grey.
        rows, columns: labels, numbers or tokens; numbered from 0 if left out.  Rows that are
            numbered rise from below, rows with texts are read from above.
        panels: titles of the small multiples.
        xlabel, ylabel: what the columns and the rows are.
        label: what the numbers are, along the colour bar.
        figsize: inches; left out, it follows the number of cells.
        cmap: a colormap of matplotlib's; `"RdBu_r"`, or `"viridis"` without a centre.
        centre: the number in the middle of the scale, which reaches as far on either side; None
            for a scale from the smallest number to the largest.
        limit: how far the scale reaches from its centre; as far as the numbers do if left out.
    Returns: a matplotlib Figure.
    Raises: ShapeError for labels that do not fit the values, InputError (a ValueError) for nothing
        to show or a figure that is too small, UnknownNameError (a KeyError) for a colormap,
        MissingDependencyError.

    Example:
        >>> from mlxgraph import plot
        >>> figure = plot.heatmap(mx.random.normal((6, 8)), xlabel="head", ylabel="layer")
    """
    check_title(title)
    numbers = _numbers(values)
    count, high, wide = numbers.shape
    titles = _labels(panels, count, "panels") if panels is not None or count > 1 else []
    table = Table(
        numbers, _labels(rows, high, "rows"), _labels(columns, wide, "columns"), named(titles)
    )
    scale = _scale(numbers, centre, limit, cmap)
    colours = colour_map(scale.cmap).with_extremes(bad=_UNKNOWN)
    figure = bare_figure(figsize)
    words = xlabel, ylabel, with_grey(label, numbers), title
    plan = _planned(figure, table, scale, figsize, words)
    figure.set_size_inches(plan.width / 72, plan.height / 72)
    image = None
    for k, square in enumerate(numbers):
        axes = place(figure, *plan.corner(k), plan.across, plan.down)
        image = axes.imshow(
            np.ma.masked_invalid(np.clip(square, *scale.drawn)), cmap=colours,
            vmin=scale.low, vmax=scale.high, aspect="auto", interpolation="nearest",
            origin="lower" if is_numbered(table.rows) else "upper",
        )  # fmt: skip
        _dress(axes, plan, k, table)
    _say(figure, plan)
    _colour_bar(figure, image, plan, scale)
    return figure


class Table(NamedTuple):
    """What is drawn: numbers (panels, rows, columns), and what these are called."""

    numbers: Any
    rows: Sequence[Any]
    columns: Sequence[Any]
    panels: list[str]


class Plan(NamedTuple):
    """Where everything stands, in points from the lower left corner."""

    width: float
    height: float
    left: float
    bottom: float
    across: float  # width of a panel
    down: float  # height of a panel
    per_row: int
    panels: int
    head: float  # height of a panel's title
    ticks_across: Ticks
    ticks_down: Ticks
    bar: tuple[list[float], list[str]]
    label: list[str]
    xlabel: list[str]
    ylabel: list[str]
    title: list[str]

    @property
    def lines(self) -> int:
        return math.ceil(self.panels / self.per_row)

    @property
    def grid_width(self) -> float:
        return self.per_row * (self.across + _BETWEEN) - _BETWEEN

    @property
    def grid_height(self) -> float:
        return self.lines * (self.down + self.head + _BETWEEN) - _BETWEEN - self.head

    def corner(self, panel: int) -> tuple[float, float]:
        line, place = divmod(panel, self.per_row)
        below = self.lines - 1 - line
        return (
            self.left + place * (self.across + _BETWEEN),
            self.bottom + below * (self.down + self.head + _BETWEEN),
        )


def _planned(
    figure: Any,
    table: Table,
    scale: Scale,
    figsize: tuple[float, float] | None,
    words: tuple[str, str, str, str],
) -> Plan:
    """A plan for a figure of this size, or of the size that the cells ask for."""
    xlabel, ylabel, label, title = words
    count, rows, columns = table.numbers.shape
    across, down = _cells(columns, rows, count)
    if count == 1 and figsize is None and not is_numbered(table.columns):
        flat = columns * pitch_for(figure, table.columns)
        across = flat if across < flat <= FLAT else across
    bar = round_ticks(scale.low, scale.high)
    bar_width = widest(figure, bar[1])
    per_row = _per_row(count, across, figsize)
    lines = math.ceil(count / per_row)
    head = LINE * TEXT + 2 if table.panels else 0.0

    room = 0.62 * 72 * figsize[1] if figsize else lines * down
    said, named_y = (wrapped(figure, text, TEXT, room) for text in (label, ylabel))
    left = PAD + block_height(named_y, TEXT) + widest(figure, named(table.rows)) + GAP
    right = _APART + _BAR + GAP + bar_width + block_height(said, TEXT) + PAD
    if figsize:
        across = (72 * figsize[0] - left - right + _BETWEEN) / per_row - _BETWEEN
    grid = per_row * (across + _BETWEEN) - _BETWEEN
    width = left + right + grid
    centred = 2 * min(left + grid / 2, right + grid / 2) - 2 * PAD
    below = ticks_across(figure, table.columns, max(across, 1) / columns)
    named_x = wrapped(figure, every_said(xlabel, below), TEXT, centred)
    bottom = PAD + block_height(named_x, TEXT) + below.room + GAP
    over = wrapped(figure, title, TITLE, centred)
    top = PAD + block_height(over, TITLE) + head + TICK / 2
    if figsize:
        down = (72 * figsize[1] - bottom - top + head + _BETWEEN) / lines - head - _BETWEEN
    height = bottom + top + lines * (down + head + _BETWEEN) - _BETWEEN - head
    check_room(across, down, (width - per_row * across, height - lines * down), figsize)
    beside = ticks_down(figure, table.rows, down / rows)
    table.panels[:] = [shortened(figure, one, TEXT, across) for one in table.panels]
    return Plan(
        width, height, left, bottom, across, down, per_row, count, head, below, beside, bar, said,
        named_x, named_y, over,
    )  # fmt: skip


def _cells(columns: int, rows: int, count: int) -> tuple[float, float]:
    """Width and height of a panel, in points, by the number of its cells."""
    wide, high = (396.0, 302.0) if count == 1 else (230.0, 180.0)
    least, most = ((12.5, 30.0), (6.6, 22.0)) if count == 1 else ((5.0, 22.0), (3.6, 18.0))
    across = columns * float(np.clip(wide / columns, *least))
    down = rows * float(np.clip(high / rows, *most))
    return float(np.clip(across, 90, 860)), float(np.clip(down, 90, 720))


def _per_row(count: int, across: float, figsize: tuple[float, float] | None) -> int:
    """How many panels stand side by side."""
    room = 72 * figsize[0] if figsize else _ROOM
    most = max(1, int(room / (across + _BETWEEN)))
    lines = math.ceil(count / min(count, most))
    return math.ceil(count / lines)


def _dress(axes: Any, plan: Plan, panel: int, table: Table) -> None:
    """Edges between cells, and names along the sides that no other panel is at."""
    _, rows, columns = table.numbers.shape
    smallest = min(plan.across / columns, plan.down / rows)
    if smallest >= _EDGED:
        line = {"color": "white", "linewidth": 0.6}
        axes.vlines(np.arange(0.5, columns - 1), -0.5, rows - 0.5, **line)
        axes.hlines(np.arange(0.5, rows - 1), -0.5, columns - 0.5, **line)
    axes.set_xticks([])
    axes.set_yticks([])
    if panel + plan.per_row >= plan.panels:
        name_across(axes, plan.ticks_across)
    if panel % plan.per_row == 0:
        name_down(axes, plan.ticks_down)
    axes.tick_params(length=0, pad=GAP)
    axes.spines[:].set_visible(False)
    if table.panels:
        axes.set_title(table.panels[panel], fontsize=TEXT, pad=GAP, **text_options())


def _say(figure: Any, plan: Plan) -> None:
    """Title and names of the axes: of the axes where there is one panel, else of the figure."""
    title, xlabel, ylabel = ("\n".join(one) for one in (plan.title, plan.xlabel, plan.ylabel))
    middle = beside_at(widest(figure, plan.ylabel, TEXT), plan.bottom, plan.grid_height)
    if plan.panels == 1 and not plan.head:
        (axes,) = figure.axes
        axes.set_title(title, pad=GAP + TICK / 2, **written(plan.title, TITLE))
        axes.set_xlabel(xlabel, labelpad=GAP, **written(plan.xlabel, TEXT))
        axes.set_ylabel(ylabel, labelpad=GAP, y=middle, **written(plan.ylabel, TEXT))
        return
    x = (plan.left + plan.grid_width / 2) / plan.width
    y = (plan.bottom + plan.grid_height * middle) / plan.height
    figure.suptitle(title, x=x, y=1 - PAD / plan.height, va="top", **written(plan.title, TITLE))
    figure.supxlabel(xlabel, x=x, y=PAD / plan.height, va="bottom", **written(plan.xlabel, TEXT))
    figure.supylabel(ylabel, x=PAD / plan.width, y=y, ha="left", **written(plan.ylabel, TEXT))


def _colour_bar(figure: Any, image: Any, plan: Plan, scale: Scale) -> None:
    high = min(plan.grid_height, _LONGEST)
    low = plan.bottom + (plan.grid_height - high) / 2
    axes = place(figure, plan.left + plan.grid_width + _APART, low, _BAR, high)
    bar = figure.colorbar(image, cax=axes, extend=scale.extend, extendfrac=0.04)
    axes.set_label("<colorbar>")
    bar.set_ticks(plan.bar[0], labels=plan.bar[1])
    bar.outline.set_visible(False)
    axes.tick_params(labelsize=TICK, length=2, width=0.6, pad=2)
    middle = beside_at(widest(figure, plan.label, TEXT), low, high)
    text = "\n".join(plan.label)
    bar.set_label(text, labelpad=GAP, y=middle, **written(plan.label, TEXT))


# -- what is drawn ---------------------------------------------------------------------------------


def _numbers(values: Any) -> Any:
    """Values as numbers (panels, rows, columns)."""
    try:
        is_other = hasattr(values, "tolist") and not isinstance(values, np.ndarray)
        found = np.array(values.tolist() if is_other else values, dtype=float)  # bfloat16 too
    except (TypeError, ValueError) as error:
        raise InputError(
            "a heat map is made of numbers, (rows, columns), and these values are none."
        ) from error
    if found.ndim not in (2, 3) or 0 in found.shape:
        raise ShapeError(
            "a heat map is of values (rows, columns) or (panels, rows, columns), not of shape"
            f" {found.shape}",
            str(here()),
            "Take a part of the values, or a mean over an axis.",
        )
    found = found.reshape(-1, *found.shape[-2:])
    if len(found) > _MOST_PANELS:
        raise InputError(
            f"{len(found)} panels are too many for one picture.\n  Draw {_MOST_PANELS} or fewer."
        )
    return found


def _labels(given: Sequence[Any] | None, count: int, what: str) -> list[Any]:
    if given is None:
        return list(range(count))
    if isinstance(given, str) or len(given) != count:
        said = "one text" if isinstance(given, str) else f"{len(given)} labels"
        raise ShapeError(
            f"the values have {count} {what}, and {said} were given to name them",
            str(here()),
            f"Give a list of {count}, or leave {what}= out.",
        )
    return [one.item() if hasattr(one, "item") else one for one in given]


def _scale(numbers: Any, centre: float | None, limit: float | None, cmap: str | None) -> Scale:
    """Raises: InputError for a limit that is no distance, or a centre that is no number."""
    for name, given in (("centre", centre), ("limit", limit)):
        if given is not None and not isinstance(given, (int, float, np.number)):
            raise InputError(f"{name}={given!r:.40} is no number.\n  Give one, or leave it out.")
    if centre is not None and not math.isfinite(centre):
        raise InputError(f"centre={centre} is no middle of a scale.\n  Give a finite number.")
    finite = numbers[np.isfinite(numbers)]
    if limit is not None and (centre is None or not 0 < limit < math.inf):
        raise InputError(
            f"limit={limit} is no distance from centre={centre}.\n"
            "  Give a number above 0, with a centre; or leave it out."
        )
    if centre is None:
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        high = high if high > low else low + (abs(low) or 1.0)
        cmap = cmap or "viridis"
    else:
        reach = limit or float(np.abs(finite - centre).max(initial=0.0)) or 1.0
        low, high = centre - reach, centre + reach
        cmap = cmap or "RdBu_r"
    with np.errstate(invalid="ignore"):
        beyond = bool((numbers < low).any()), bool((numbers > high).any())
    words = {(False, False): "neither", (True, False): "min", (False, True): "max"}
    return Scale(low, high, cmap, words.get(beyond, "both"))
