"""Making a figure and showing it, whatever screen there is or is not."""

from __future__ import annotations

from typing import Any

from mlxgraph.errors import MissingDependencyError

_STILL = frozenset({"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"})


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt  # optional, and slow to import: only who draws pays
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "a picture", "mlxgraph[plot]") from error
    return plt


def _backend() -> str:
    import matplotlib

    return str(matplotlib.get_backend()).lower()


def _has_window() -> bool:
    return _backend() not in _STILL and "inline" not in _backend()


def new_figure(figsize: tuple[float, float]) -> Any:
    """An empty figure.  Only where it can have a window does pyplot keep track of it.

    Raises: MissingDependencyError (an ImportError).
    """
    plt = _pyplot()
    if _has_window():
        return plt.figure(figsize=figsize, layout="constrained")
    from matplotlib.figure import Figure

    return Figure(figsize=figsize, layout="constrained")


def show(figure: Any) -> None:
    """Show a figure in its notebook or window; does nothing, and never waits, without one."""
    if "inline" in _backend():
        from IPython.display import display

        display(figure)
    elif _has_window():
        figure.show()


def colours(cmap: str, amounts: Any) -> Any:
    """Colours of a colormap, amounts from 0 to 1.  Raises: ValueError for an unknown name."""
    import matplotlib

    return matplotlib.colormaps[cmap](amounts)


def ink(colour: Any) -> str:
    """Black or white, whichever reads better on a colour."""
    red, green, blue = (float(part) for part in colour[:3])
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"
