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
    """A write that would do something else on each rank, at a site of which each has a part."""

    def __init__(self, site: str):
        super().__init__(
            f"{site} is this rank's part of a value that the ranks hold together: what is written"
            " to a part of it, or from one rank's values, is another edit on each rank.\n"
            "  Write all = mg.gather(value), edit that, and value = mg.part(all); for heads,"
            " mg.edit(attention, function, heads=[5]), with the numbers of the whole model."
        )
