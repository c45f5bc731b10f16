"""Recovery by layer: Effects that are a dict too.

In: a percentage for each layer.  Out: these, as `{layer: percent}` and as Effects, and their bars.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlxgraph.analysis.effects import Effects
from mlxgraph.plot.recovery import recovery_bars


class Recovery(Effects, dict):  # type: ignore[misc]  # a dict, which has no hash
    """Effects by layer alone, which are a dict too: `{layer: recovery in percent}`.

    Attributes:
        component: what was patched.
        baseline: the distance between the corrupted and the clean run; of a score, the difference.
        figure: the matplotlib figure, if `plot=True` asked for one.
    """

    def __init__(self, found: Mapping[int, float], component: str, baseline: float, **fields: Any):
        layers = list(found)
        Effects.__init__(self, [found[k] for k in layers], {"layer": layers}, **fields)
        dict.__init__(self, found)
        self.component = component
        self.baseline = baseline
        self.figure: Any = None

    def plot(  # type: ignore[override]  # as the reference documents have it
        self, figsize: tuple[float, float] = (12, 8), cmap: str = "RdBu_r"
    ) -> Any:
        """The bar chart of recovery by layer.  Returns: a matplotlib Figure."""
        if self.unit != "%":
            return Effects.plot(self, figsize, cmap)
        title = self.attrs.get("title", "")
        return recovery_bars(self, self.component, figsize, cmap, title and f"{title}, by layer")
