"""What can go wrong when edits become weights, and when a model is written to a folder."""

from __future__ import annotations

from mlxgraph.errors.base import MLXGraphError


class FoldError(MLXGraphError, ValueError):
    """An edit that no weight can hold."""

    def __init__(self, edit: str, why: str, advice: str = "", where: str = ""):
        at = f"\n  recorded at {where}" if where else ""
        super().__init__(
            f"cannot fold the edit of {edit}: {why}.{at}\n"
            f"  {advice or 'Keep it as an edit: model.edit(graph) runs it at every forward.'}"
        )


class SaveModelError(MLXGraphError, ValueError):
    """A model that cannot be written as a folder that mlx-lm loads."""


class WritersError(MLXGraphError, ValueError):
    """A residual stream of which it is not certain what writes to it."""

    def __init__(self, where: str, why: str):
        super().__init__(
            f"what writes to the residual stream at {where} is not certain: {why}.\n"
            "  Where you know the modules, write"
            " mg.chain(*(mg.edit(name, iv.project_out(v)) for name in names))."
        )
