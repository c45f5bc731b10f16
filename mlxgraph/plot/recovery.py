"""Activation patching as a picture: a bar of recovery for each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlxgraph.errors import InputError
from mlxgraph.plot.curves import bars


def recovery_bars(
    recovery: Mapping[int, float],
    component: str = "",
    figsize: tuple[float, float] = (12, 8),
    cmap: str = "RdBu_r",
    title: str = "",
) -> Any:
    """A bar chart of recovery by layer.

    Args:
        recovery: `{layer: percent}`.
        cmap: its low end colours the bars: blue, with the default.
    Returns: a matplotlib Figure.
    Raises: MissingDependencyError, InputError (a ValueError) for nothing to show,
        UnknownNameError (a KeyError) for a colormap.
    """
    if not recovery:
        raise InputError("there is nothing to show: no layers")
    layers = sorted(recovery)
    what = f" of {component}" if component else ""
    return bars(
        [recovery[layer] for layer in layers],
        layers,
        xlabel="layer",
        ylabel="recovery of the clean run (%)",
        title=title or f"Activation patching{what}, layer by layer",
        figsize=figsize,
        cmap=cmap,
    )
