"""Numbers along one axis: bars, or a line for each of several.

In: numbers, labels.  Out: matplotlib figures.
Never: says a thing twice; the height of a bar is its number, and all bars have one colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlxgraph.errors import InputError
from mlxgraph.plot.figures import check_title, colours
from mlxgraph.plot.fitting import stride
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
    number,
    pitch_for,
    pitch_in_two,
    place,
    round_ticks,
    shortened,
    ticks_across,
    widest,
    with_grey,
    wrapped,
    written,
)

_BLUE = 0.12  # where a diverging colormap has the colour of bars
_UNKNOWN = "0.92"
_HEIGHT = 210.0  # of the axes, points
_MOST_LEGEND, _PER_COLUMN = 20, 12
_SMALLEST = 6.5  # points, of the numbers at bars


def bars(
    values: Any,
    labels: Sequence[Any],
    *,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    figsize: tuple[float, float] | None = None,
    cmap: str | None = None,
) -> Any:
    """A bar for each number, with the number where there is room for it.  NaN is a grey strip.

    Args: cmap: the colormap whose low end colours the bars.
    Returns: a matplotlib Figure.
    """
    check_title(title)
    numbers = np.asarray(values, dtype=float)
    if not numbers.size:
        raise InputError("there is nothing to show: no values")
    pitch = float(np.clip(420 / len(numbers), 10, 34))
    frame = _Frame(max(pitch * len(numbers), 150), figsize)
    if not is_numbered(labels):
        flat = [of(frame.figure, labels) * len(numbers) for of in (pitch_for, pitch_in_two)]
        frame.width = max(frame.width, next((wide for wide in flat if wide <= FLAT), 0.0))
    texts = [_shown(value, numbers) for value in numbers]
    low, high = _ends(numbers)
    frame.name_beside(low, high, with_grey(ylabel, numbers))
    pitch = frame.across() / len(numbers)
    frame.name_below(ticks_across(frame.figure, labels, pitch, frame.tick), xlabel, title)
    axes = frame.axes()
    size = frame.tick * min(1.0, (pitch - 3) / widest(frame.figure, texts, frame.tick))
    fits = size >= _SMALLEST
    room = (LINE * frame.tick + 4) / frame.down() if fits else 0.04
    reach = (high - low) / (1 - room * ((low < 0) + (high > 0)))
    axes.set_ylim(low - room * reach * (low < 0), high + room * reach * (high > 0))
    axes.set_xlim(-0.6, len(numbers) - 0.4)
    axes.bar(range(len(numbers)), numbers, width=0.8, color=colours(cmap or "RdBu_r", _BLUE))
    for gap in np.flatnonzero(np.isnan(numbers)):
        axes.axvspan(gap - 0.5, gap + 0.5, color=_UNKNOWN, linewidth=0)
    for x, (value, text) in enumerate(zip(numbers, texts, strict=True)):
        if fits and np.isfinite(value):
            axes.annotate(
                text, (x, value), xytext=(0, 2 if value >= 0 else -2), textcoords="offset points",
                ha="center", va="bottom" if value >= 0 else "top", fontsize=size,
            )  # fmt: skip
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.grid(axis="y", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    return frame.figure


def lines(
    values: Any,
    labels: Sequence[Any],
    names: Sequence[Any] = ("",),
    *,
    xlabel: str = "",
    ylabel: str = "",
    of: str = "",
    title: str = "",
    figsize: tuple[float, float] | None = None,
    cmap: str | None = None,
) -> Any:
    """A line for each row of numbers: steering curves, a layer each, over strengths.

    Args:
        values: shape (lines, places).
        labels: of the places; numbers stand where they lie.
        names: of the lines.
        of: what the names are, `"layer"`.
        cmap: a colormap for names that are numbers.
    Returns: a matplotlib Figure.
    Raises: InputError for more lines with texts for names than can be told apart.
    """
    check_title(title)
    numbers = np.asarray(values, dtype=float)
    ordered = is_numbered(names)
    if len(names) > _MOST_LEGEND and not ordered:
        raise InputError(
            f"{len(names)} lines cannot be told apart.\n  Choose some, e.sel({of or 'axis'}=[...]),"
            " or draw a heat map."
        )
    in_bar = ordered and len(names) > _PER_COLUMN
    inks = _inks(len(names), ordered, cmap)
    numeric = is_numbered(labels)
    places = np.asarray(labels if numeric else range(len(labels)), dtype=float)
    frame = _Frame(330, figsize)
    said = [shortened(frame.figure, name, frame.tick, 150) for name in named(names)]
    beside = _beside(frame, said, of, in_bar) if len(names) > 1 else 0.0
    low, high = _ends(numbers, with_zero=False)
    slack = 0.04 * (high - low)
    frame.name_beside(low - slack, high + slack, ylabel, beside)
    edge = 0.02 * (float(np.ptp(places)) or 1.0)
    frame.name_below(
        _numbered(places, edge, frame) if numeric
        else ticks_across(frame.figure, labels, frame.across() / len(labels), frame.tick),
        xlabel, title,
    )  # fmt: skip
    axes = frame.axes()
    axes.set_ylim(low - slack, high + slack)
    side = edge if numeric else 0.5
    axes.set_xlim(places.min() - side, places.max() + side)
    order = np.argsort(places, kind="stable")
    for row, colour, name in zip(numbers, inks, said, strict=True):
        axes.plot(
            places[order], row[order], color=colour, linewidth=1.5, markersize=3, label=name,
            marker="o" if len(places) <= 30 else "", clip_on=False,
        )  # fmt: skip
    axes.grid(color="0.92", linewidth=0.8)
    if low - slack < 0 < high + slack:
        axes.axhline(0, color="0.6", linewidth=0.8, zorder=1)
    if in_bar:
        _bar(frame, inks, said, of)
    elif len(names) > 1:
        axes.legend(
            loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0, borderpad=0, frameon=False,
            bbox_transform=axes.transAxes, ncols=_legend_columns(said), title=of or None,
            handlelength=1.5, handletextpad=0.5, columnspacing=1.0, labelspacing=0.4,
            prop={"size": frame.tick, "family": text_options()["fontfamily"]},
            title_fontproperties={"size": frame.tick},
        ).set(bbox_to_anchor=(1 + 10 / frame.across(), 1))  # fmt: skip
    return frame.figure


class _Frame:
    """One picture: its margins grow by what is written in them, and then its axes are placed."""

    def __init__(self, width: float, figsize: tuple[float, float] | None):
        self.figure = bare_figure(figsize)
        self.figsize = figsize
        wide, high = figsize or (6.0, 4.0)
        larger = float(np.clip(math.sqrt(wide * high / 31), 1, 1.4)) if figsize else 1.0
        self.tick, self.text, self.title = TICK * larger, TEXT * larger, TITLE * larger
        self.width = width  # of the axes, unless a size was given
        self.left = self.right = self.bottom = self.top = PAD

    def across(self) -> float:
        if self.figsize is None:
            return self.width
        return max(72 * self.figsize[0] - self.left - self.right, 1.0)

    def down(self) -> float:
        if self.figsize is None:
            return _HEIGHT
        return max(72 * self.figsize[1] - self.bottom - self.top, 1.0)

    def name_beside(self, low: float, high: float, ylabel: str, beside: float = 0.0) -> None:
        """Margins left and right.  Args: beside: what stands to the right, points."""
        places, names = round_ticks(low, high)
        self.ticks_beside = Ticks(places, names, False, 1, widest(self.figure, names, self.tick))
        room = 72 * self.figsize[1] * 0.62 if self.figsize else _HEIGHT
        self.ylabel = wrapped(self.figure, ylabel, self.text, room)
        self.left += block_height(self.ylabel, self.text) + self.ticks_beside.room + GAP + 2
        self.right += beside + GAP

    def name_below(self, ticks: Ticks, xlabel: str, title: str) -> None:
        """Margins below and above."""
        half = min(self.left, self.right) + self.across() / 2
        self.ticks_below = ticks
        self.xlabel = wrapped(self.figure, every_said(xlabel, ticks), self.text, 2 * (half - PAD))
        self.over = wrapped(self.figure, title, self.title, 2 * (half - PAD))
        self.bottom += ticks.room + 2 * GAP + block_height(self.xlabel, self.text)
        self.top += block_height(self.over, self.title) + GAP + self.tick / 2

    def axes(self) -> Any:
        """The axes, with all that is written around them."""
        across, down = self.across(), self.down()
        margins = self.left + self.right, self.bottom + self.top
        check_room(across, down, margins, self.figsize)
        if self.figsize is None:
            self.figure.set_size_inches((margins[0] + across) / 72, (margins[1] + down) / 72)
        axes = place(self.figure, self.left, self.bottom, across, down)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("0.7")
        name_down(axes, self.ticks_beside, self.tick)
        name_across(axes, self.ticks_below, self.tick)
        axes.tick_params(length=0, pad=GAP)
        high = GAP + self.tick / 2  # above the topmost number beside the axes
        axes.set_title("\n".join(self.over), pad=high, **written(self.over, self.title))
        axes.set_xlabel("\n".join(self.xlabel), labelpad=GAP, **written(self.xlabel, self.text))
        middle = beside_at(widest(self.figure, self.ylabel, self.text), self.bottom, down)
        text = "\n".join(self.ylabel)
        axes.set_ylabel(text, labelpad=GAP, y=middle, **written(self.ylabel, self.text))
        return axes


def _ends(numbers: Any, with_zero: bool = True) -> tuple[float, float]:
    finite = numbers[np.isfinite(numbers)]
    extra = [0.0] if with_zero or not finite.size else []
    low, high = float(min([*finite, *extra])), float(max([*finite, *extra]))
    return (low, high) if high > low else (low - (not with_zero), high + 1.0)


def _shown(value: float, numbers: Any) -> str:
    largest = float(np.abs(numbers[np.isfinite(numbers)]).max(initial=0.0))
    if not math.isfinite(value) or largest >= 1e5 or 0 < largest < 0.01:
        return f"{value:.2g}".replace("-", "\N{MINUS SIGN}")
    digits = 0 if largest >= 100 else 1 if largest >= 1 else 2
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _numbered(places: Any, edge: float, frame: _Frame) -> Ticks:
    """Round numbers along an axis of numbers: as many as have room."""
    low, high = float(places.min()) - edge, float(places.max()) + edge
    distinct = sorted(set(places.tolist()))
    names = [number(one) for one in distinct]
    apart = min(np.diff(distinct), default=high - low) / (high - low) * frame.across()
    if widest(frame.figure, names, frame.tick) + GAP <= apart:
        return Ticks(distinct, names, False, 1, frame.tick)
    most = 9
    while True:
        found, names = round_ticks(low, high, most)
        needed = (widest(frame.figure, names, frame.tick) + 2 * GAP) * len(names)
        if needed <= frame.across() or most <= 2:
            return Ticks(found, names, False, 1, frame.tick)
        most -= 1


def _inks(count: int, ordered: bool, cmap: str | None) -> list[Any]:
    """A colour for each line: numbers along a colormap, texts as far apart as can be."""
    if count == 1:
        return [colours(cmap or "RdBu_r", _BLUE)]
    if ordered:
        return list(colours(cmap or "viridis", np.linspace(0, 0.92, count)))
    return [colours("tab10" if count <= 10 else "tab20", k) for k in range(count)]


def _legend_columns(names: Sequence[str]) -> int:
    return math.ceil(len(names) / _PER_COLUMN)


def _beside(frame: _Frame, names: list[str], of: str, in_bar: bool) -> float:
    """The points that a legend or a colour bar takes."""
    wide = widest(frame.figure, names, frame.tick)
    if in_bar:
        return 10 + 9 + 2 * GAP + wide + LINE * frame.text
    each = _legend_columns(names) * (wide + 3.2 * frame.tick)
    return 10 + max(each, widest(frame.figure, [of], frame.tick))


def _bar(frame: _Frame, inks: list[Any], names: list[str], of: str) -> None:
    """The colours of many lines, lowest number below."""
    down = frame.down()
    left = frame.left + frame.across() + 10
    axes = place(frame.figure, left, frame.bottom, 9, down)
    axes.imshow(np.array(inks)[:, None], aspect="auto", origin="lower", interpolation="nearest")
    every = stride(down / len(names), 1.9 * LINE * frame.tick)
    places = range(0, len(names), every)
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.set_xticks([])
    axes.set_yticks(places, [names[k] for k in places], fontsize=frame.tick, **text_options())
    axes.tick_params(length=0, pad=GAP)
    axes.spines[:].set_visible(False)
    axes.set_ylabel(of, labelpad=GAP, **written([of], frame.text))
