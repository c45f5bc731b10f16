"""Where things stand in a picture: margins counted in points, from texts that were measured.

In: a figure, labels, sizes.  Out: ticks that do not touch, axes placed so that all texts fit.
Never: draws values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mlxgraph.errors import InputError
from mlxgraph.plot.figures import new_figure
from mlxgraph.plot.fitting import BREAKS, halved, stride, widths
from mlxgraph.plot.labels import ARROW, drawable, label, text_options

TICK, TEXT, TITLE = 8.0, 10.0, 12.0  # sizes of texts, in points
LINE = 1.3  # the height of a line, in its size
PAD, GAP = 6.0, 4.0  # around the picture, and between a text and what it names; points
LEAST = 20.0  # points of width and height that axes have
_NAMED = 24  # letters of a name along an axis: `<|start_header_id|>` has 19, a value of layer 10 22
FLAT = 620.0  # points up to which axes are made wider for names that need not stand on end
_SHORT = 48.0  # points; longer names may stand in two lines
_LOOSE = 1.9  # lines between numbers of which some are left out
_SPACES = ("Ġ", "▁")  # how vocabularies write the space that a token begins with


class Ticks(NamedTuple):
    """Which places along an axis are named, what they are called, and whether on end."""

    places: Sequence[float]
    names: list[str]
    upright: bool
    every: int
    room: float  # points that the names take, away from the axis


def is_numbered(labels: Sequence[Any]) -> bool:
    """Whether labels are numbers, none of them a text."""
    return not any(isinstance(one, str) for one in labels)


def with_grey(label: str, numbers: Any) -> str:
    """What numbers are, and what is grey of them."""
    return f"{label} (grey: NaN)" if np.isnan(numbers).any() else label


def bare_figure(figsize: tuple[float, float] | None) -> Any:
    """A figure whose axes are placed by hand.  Args: figsize: None where it follows from these."""
    figure = new_figure(figsize or (6, 4))
    figure.set_layout_engine("none")
    return figure


def named(labels: Sequence[Any]) -> list[str]:
    """Labels as they are drawn: numbers short, tokens with their white space made visible."""
    return [_token(one) if isinstance(one, str) else number(one) for one in labels]


def _token(text: str) -> str:
    if text[:1] in _SPACES:
        text = " " + text[1:]
    for between in (ARROW, ", "):  # an edge, a cell: names of several
        parts = text.split(between)
        if len(parts) > 1 and all(parts):
            return between.join(_token(part) for part in parts)
    return drawable(label(text.replace("Ċ", "\n") if text.strip("Ċ ") == "" else text, _NAMED))


def number(value: float) -> str:
    """A number with a real minus sign."""
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def ticks_across(figure: Any, labels: Sequence[Any], pitch: float, size: float = TICK) -> Ticks:
    """Names below an axis, on end where they are wider than their places.

    Args: pitch: points from one place to the next.
    """
    names = named(labels)
    wide = widest(figure, names, size)
    texts = not is_numbered(labels)
    if wide + GAP <= pitch:
        return _some(figure, names, 1, False, size)
    long = widths(figure, names, size)
    lines = [halved(name) if long[name] + GAP > pitch else name for name in names]
    if texts and widest(figure, lines, size) + GAP <= pitch:
        return Ticks(range(len(names)), lines, False, 1, (1 + LINE) * size)
    if texts and 2 * LINE * size <= pitch:
        names = [halved(name) if ARROW in name else name for name in names]
    if texts:
        return _some(figure, names, math.ceil(LINE * size / pitch), True, size)
    return _some(figure, names, stride(pitch, wide + 0.9 * size), False, size)


def pitch_for(figure: Any, labels: Sequence[Any], size: float = TICK) -> float:
    """The points from one place to the next at which names need not stand on end."""
    each = widths(figure, named(labels), size).values()
    return max(wide if wide <= _SHORT else max(_SHORT, 0.68 * wide) for wide in each) + GAP + 0.1


def pitch_in_two(figure: Any, labels: Sequence[Any], size: float = TICK) -> float:
    """The points from one place to the next at which names stand in two lines, and words whole."""
    lines = [
        halved(name) if any(sign in name for sign in BREAKS) else name for name in named(labels)
    ]
    return widest(figure, lines, size) + GAP + 0.1


def ticks_down(figure: Any, labels: Sequence[Any], pitch: float, size: float = TICK) -> Ticks:
    """Names beside an axis.  Args: pitch: points from one place to the next."""
    names = named(labels)
    every = math.ceil(LINE * size / pitch)
    if every > 1 and is_numbered(labels):
        every = stride(pitch, _LOOSE * LINE * size)
    return _some(figure, names, every, False, size)


def _some(figure: Any, names: list[str], every: int, upright: bool, size: float) -> Ticks:
    places = range(0, len(names), every)
    kept = [names[k] for k in places]
    return Ticks(places, kept, upright, every, widest(figure, kept, size) if upright else size)


def round_ticks(low: float, high: float, most: int = 6) -> tuple[list[float], list[str]]:
    """Round numbers between two, and how they are written."""
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    slack = 1e-9 * (high - low)
    kept = [float(one) for one in found if low - slack <= one <= high + slack]
    kept = [0.0 if abs(one) < slack else one for one in kept]
    return kept, [number(round(one, 12)) for one in kept]


def widest(figure: Any, texts: Sequence[str], size: float = TICK) -> float:
    """The width of the widest of some texts, points."""
    return max(widths(figure, texts, size).values(), default=0.0)


def every_said(axis: str, ticks: Ticks) -> str:
    """The name of an axis, which says so where only some of the texts along it are written."""
    if ticks.every == 1 or not ticks.upright or not axis:
        return axis
    nth = {2: "2nd", 3: "3rd"}.get(ticks.every, f"{ticks.every}th")
    return f"{axis} (every {nth} named)"


def wrapped(figure: Any, text: str, size: float, room: float) -> list[str]:
    """A text in lines of at most so many points, broken between words, and within those longer."""
    lines: list[str] = []
    for given in text.split("\n") if text else []:
        line = ""
        for word in drawable(given).split(" "):
            longer = f"{line} {word}" if line else word
            if line and widest(figure, [longer], size) > room:
                lines.append(line)
                longer = word
            while len(longer) > 1 and widest(figure, [longer], size) > room:
                kept = _that_fit(figure, longer, size, room)
                lines.append(longer[:kept])
                longer = longer[kept:]
            line = longer
        lines.append(line)
    return lines


def _that_fit(figure: Any, word: str, size: float, room: float) -> int:
    kept = max(1, math.floor(len(word) * room / widest(figure, [word], size)))
    while kept > 1 and widest(figure, [word[:kept]], size) > room:
        kept -= 1
    return kept


def place(figure: Any, left: float, bottom: float, width: float, height: float) -> Any:
    """Axes at a place in the figure, in points from its lower left corner."""
    wide, high = (72 * inches for inches in figure.get_size_inches())
    return figure.add_axes((left / wide, bottom / high, width / wide, height / high))


def check_room(
    width: float, height: float, margins: tuple[float, float], figsize: tuple[float, float] | None
) -> None:
    """Raise InputError where labels leave nothing for the picture.

    Args: width, height: of axes; margins: of all that is around them; points.
    """
    if figsize is None or min(width, height) >= LEAST:
        return
    wide, high = (margins[0] + 150) / 72, (margins[1] + 110) / 72
    raise InputError(
        f"a figure of {figsize[0]:g} by {figsize[1]:g} inches has no room for the picture beside"
        f" its labels.\n  Write figsize=({wide:.1f}, {high:.1f}), or leave it out."
    )


def shortened(figure: Any, text: str, size: float, room: float) -> str:
    """A text cut to so many points."""
    if widest(figure, [text], size) <= room:
        return text
    kept = len(text) - 1
    while kept > 0 and widest(figure, [text[:kept] + "…"], size) > room:
        kept -= 1
    return text[:kept] + "…"


def beside_at(wide: float, low: float, high: float) -> float:
    """Where along axes the middle of a text on end stands, from 0 to 1: no higher than they do.

    Args: wide: the text; low, high: the axes' lower edge and height; points.
    """
    least = wide / 2 + PAD
    middle = min(low + high / 2, low + high - wide / 2)
    return (max(middle, least) - low) / high


def block_height(lines: Sequence[str], size: float) -> float:
    """The points that some lines of text take, and the gap beside them."""
    return LINE * size * len(lines) + GAP if lines else 0.0


def written(lines: Sequence[str], size: float, **more: Any) -> dict[str, Any]:
    """The lines, and how they are written, as matplotlib's functions of labels take them."""
    options = {"fontsize": size, "linespacing": 1.15, "multialignment": "center"}
    return {**options, **text_options(), **more}


def name_across(axes: Any, ticks: Ticks, size: float = TICK) -> None:
    """Write names below an axis."""
    axes.set_xticks(
        ticks.places, ticks.names, fontsize=size, rotation=90 if ticks.upright else 0,
        **text_options(),
    )  # fmt: skip


def name_down(axes: Any, ticks: Ticks, size: float = TICK) -> None:
    """Write names beside an axis."""
    axes.set_yticks(ticks.places, ticks.names, fontsize=size, **text_options())
