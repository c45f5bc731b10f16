"""Making a figure and showing it, whatever screen there is or is not."""

from __future__ import annotations

import math
from functools import cache
from io import BytesIO
from typing import Any

from mlxgraph.errors import InputError, MissingDependencyError, UnknownNameError
from mlxgraph.errors.base import close_matches

_MOST_LABELS = 40  # layers named along one axis
_DPI = 150
_IN_A_NOTEBOOK = 100  # dots an inch: small texts can be read, and a page holds the picture
_LARGEST = 400  # inches of a side: more dots than matplotlib draws
_COLORMAPS = ("viridis", "RdBu_r", "Blues", "magma", "cividis")  # some that are well known
_STILL = frozenset({"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"})


def _matplotlib() -> Any:
    try:
        import matplotlib  # optional, and slow to import: only who draws pays
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "a picture", "mlxgraph[plot]") from error
    return matplotlib


def _backend() -> str:
    return str(_matplotlib().get_backend()).lower()


def _has_window() -> bool:
    return _backend() not in _STILL and "inline" not in _backend()


def new_figure(figsize: tuple[float, float]) -> Any:
    """An empty figure.  Only where it can have a window does pyplot keep track of it.

    Raises: MissingDependencyError (an ImportError), InputError for what is no size.
    """
    check_drawn(figsize)
    if _has_window():
        import matplotlib.pyplot as plt

        return plt.figure(figsize=figsize, layout="constrained", dpi=_DPI)
    kind, canvas = _picture_class()
    figure = kind(figsize=figsize, layout="constrained", dpi=_DPI)
    canvas(figure)  # it keeps its renderer: without one, each text that is measured makes its own
    return figure


@cache
def _picture_class() -> tuple[Any, Any]:
    _matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure that a notebook can show by itself: matplotlib's own way begins to work only
        once a cell that imported pyplot has ended."""

        def _repr_png_(self) -> bytes:
            page = BytesIO()
            self.savefig(page, format="png", dpi=_IN_A_NOTEBOOK)
            return page.getvalue()

    return Picture, FigureCanvasAgg


def show(figure: Any) -> None:
    """Show a figure in its notebook or window; does nothing, and never waits, without one."""
    if "inline" in _backend():
        from IPython.display import display

        display(figure)
    elif _has_window():
        figure.show()


def layer_ticks(layers: list[int], label: str = "{}") -> tuple[range, list[str]]:
    """Where along an axis of layers a label stands, and the labels: as many as can be read."""
    every = 1 + (len(layers) - 1) // _MOST_LABELS
    return range(0, len(layers), every), [label.format(layer) for layer in layers[::every]]


def check_drawn(figsize: Any, cmap: Any = None) -> None:
    """Raise what a picture would of its size and colormap, before anything else is done.

    Raises: InputError, UnknownNameError, MissingDependencyError.
    """
    if cmap is not None:
        colour_map(cmap)
    if figsize is None:
        return
    try:
        width, height = (float(side) for side in figsize)
    except (TypeError, ValueError):
        width = height = math.nan
    if not (0 < width <= _LARGEST and 0 < height <= _LARGEST):
        raise InputError(
            f"figsize={figsize!r:.60} is no size of a picture.\n"
            f"  Write its width and height in inches, up to {_LARGEST}: figsize=(12, 8)."
        )


def check_title(title: Any) -> None:
    """Raise InputError for a title that is no text."""
    if title is not None and not isinstance(title, str):
        raise InputError(
            f"title={title!r:.40} is no text.\n  Write title={str(title)!r:.40}, or leave it out."
        )


def colour_map(cmap: Any, turned: bool = False) -> Any:
    """A colormap by its name, or one of matplotlib's own; turned round if wanted.

    Raises: UnknownNameError (a KeyError), InputError for what is neither.
    """
    known = _matplotlib().colormaps
    if isinstance(cmap, str):
        if cmap not in known:
            names = close_matches(cmap, list(known)) or list(_COLORMAPS)
            more = "import matplotlib; list(matplotlib.colormaps) has all names."
            raise UnknownNameError("colormap", cmap, names, more)
        cmap = known[cmap]
    elif not hasattr(cmap, "reversed") or not callable(cmap):
        raise InputError(
            f"cmap={cmap!r:.40} is no colormap.\n  Write the name of one, cmap='viridis'."
        )
    return cmap.reversed() if turned else cmap


def font_manager() -> Any:
    """matplotlib's list of fonts, and what finds one in it."""
    _matplotlib()
    from matplotlib import font_manager

    return font_manager


def usual_fonts() -> list[str]:
    """The families that texts of pictures are written in unless told otherwise."""
    return list(_matplotlib().rcParams["font.family"])


def colours(cmap: str, amounts: Any) -> Any:
    """Colours of a colormap, amounts from 0 to 1.  Raises: as `colour_map`."""
    return colour_map(cmap)(amounts)


def ink(colour: Any) -> str:
    """Black or white, whichever has more contrast on a colour (WCAG 2.2, relative luminance)."""
    red, green, blue = (_linear(float(part)) for part in colour[:3])
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white"


def _linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else float(((part + 0.055) / 1.055) ** 2.4)
