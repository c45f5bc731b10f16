"""What can go wrong between several processes."""

from __future__ import annotations

from mlxgraph.errors.base import MLXGraphError


class RankError(MLXGraphError, RuntimeError):
    """Another process of this run has failed or ended, or this one cannot speak to the others."""

    def __init__(self, reason: str, instead: str = ""):
        super().__init__(f"{reason}.\n  {instead}" if instead else f"{reason}.")


class RanksDifferError(MLXGraphError, ValueError):
    """The processes of a run were asked different things."""

    def __init__(self, what: str, said: list[str]):
        told = "\n".join(f"  rank {rank}: {text}" for rank, text in enumerate(said[:8]))
        super().__init__(
            f"the ranks of this run were not given the same {what}:\n{told}\n"
            "  Give each rank the same (seed what is random, and load the same model), or write"
            " `with mg.alone():` around what a rank does by itself."
        )


class PartError(MLXGraphError, ValueError):
    """Something that needs all of a value of which each rank of a sharded model has a part."""

    def __init__(self, site: str, why: str, instead: str):
        super().__init__(
            f"{site} is this rank's part of a value that the ranks hold together: {why}.\n"
            f"  {instead}"
        )
