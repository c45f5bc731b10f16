"""What a picture shows, measured: every text that is drawn, where it stands, what it touches."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

SLACK = 0.5  # pixels


def drawn_texts(figure: Any) -> list[tuple[str, Any]]:
    """`(text, its box in pixels)` of all that is written in a figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    found = []
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and _is_drawn(figure, text):
            found.append((text.get_text(), text.get_window_extent(renderer)))
    return found


def _is_drawn(figure: Any, text: Any) -> bool:
    """Tick labels beyond the limits of an axis exist, and are not drawn."""
    for axes in figure.axes:
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            for tick in ticks:
                if text in (tick.label1, tick.label2):
                    low, high = sorted(limits)
                    return low <= tick.get_loc() <= high
    return True


Texts = list[tuple[str, Any]]


def clipped(figure: Any, texts: Texts) -> list[str]:
    """Texts that reach over the edge of the figure."""
    width, height = figure.get_size_inches() * figure.dpi
    return [
        text
        for text, box in texts
        if box.x0 < -SLACK or box.y0 < -SLACK or box.x1 > width + SLACK or box.y1 > height + SLACK
    ]


def touching(texts: Texts) -> list[tuple[str, str]]:
    """Pairs of texts that overlap."""
    return [(one, other) for (one, a), (other, b) in combinations(texts, 2) if _overlap(a, b)]


def over_axes(figure: Any, texts: Texts) -> list[str]:
    """Texts around axes that reach into axes; those written into them are left out."""
    boxes = [axes.get_window_extent() for axes in figure.axes]
    within = {text.get_text() for axes in figure.axes for text in axes.texts}
    return [
        text
        for text, box in texts
        if text not in within and any(_overlap(box, other) for other in boxes)
    ]


def _overlap(a: Any, b: Any) -> bool:
    across = min(a.x1, b.x1) - max(a.x0, b.x0)
    return across > SLACK and min(a.y1, b.y1) - max(a.y0, b.y0) > SLACK


def faults(figure: Any) -> dict[str, list]:
    """All that cannot be read in a picture, by what is wrong with it."""
    texts = drawn_texts(figure)
    found = {
        "over the edge": clipped(figure, texts),
        "touching": touching(texts),
        "over axes": over_axes(figure, texts),
    }
    return {what: which for what, which in found.items() if which}
