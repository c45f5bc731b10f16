"""Activation patching as a picture: a bar of recovery for each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlxgraph.errors import InputError
from mlxgraph.plot.figures import colours, layer_ticks, new_figure

_MOST_NUMBERS = 34  # bars beyond which the numbers above them would touch


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
        cmap: its low end colours what is positive, its high end what is negative: with the
            default, blue is recovery and red is harm.
    Returns: a matplotlib Figure.
    Raises: MissingDependencyError, InputError (a ValueError) for nothing to show,
        KeyError for an unknown colormap.
    """
    if not recovery:
        raise InputError("there is nothing to show: no layers")
    layers = sorted(recovery)
    values = np.array([recovery[layer] for layer in layers], dtype=float)
    limit = max(float(np.abs(values).max()), 1e-9)
    figure = new_figure(figsize)
    axes = figure.add_subplot()
    axes.bar(
        range(len(layers)), values, width=0.8, edgecolor="0.35", linewidth=0.8,
        color=colours(cmap, 0.5 - 0.45 * values / limit),
    )  # fmt: skip
    if len(layers) <= _MOST_NUMBERS:
        _number(axes, values, limit)
    axes.axhline(0, color="0.2", linewidth=1)
    axes.set_xticks(*layer_ticks(layers))
    axes.margins(x=0.02, y=0.12)
    axes.set_xlabel("layer", fontsize=12)
    axes.set_ylabel("recovery of the clean run (%)", fontsize=12)
    what = f" of {component}" if component else ""
    axes.set_title(title or f"Activation patching{what}, layer by layer", fontsize=14)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _number(axes: Any, values: Any, limit: float) -> None:
    for x, value in enumerate(values):
        axes.annotate(
            f"{value:.0f}" if limit >= 100 else f"{value:.1f}", (x, value),
            xytext=(0, 4 if value >= 0 else -4), textcoords="offset points",
            ha="center", va="bottom" if value >= 0 else "top",
            fontsize=11 if len(values) <= 20 else 8,
        )  # fmt: skip
