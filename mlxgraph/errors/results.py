"""Results of analyses: axes and labels that are not there, and cells that are not one."""

from __future__ import annotations

from collections.abc import Iterable

from mlxgraph.errors.base import MLXGraphError, close_matches, suggest
from mlxgraph.errors.graphs import UnknownNameError

_MOST = 8  # labels named in a message


class UnknownLabelError(UnknownNameError):
    """An axis that a result does not have, or a label that an axis does not have."""

    def __init__(self, what: str, wanted: object, known: Iterable[object], advice: str = ""):
        """`what` is unknown: `axis`, or the axis whose label it is; `known`, in their order."""
        labels = list(known)
        shown = ", ".join(map(repr, _closest(wanted, labels)))
        more = ", ..." if len(labels) > _MOST else ""
        hint = ""
        if isinstance(wanted, str):
            texts = [label for label in labels if isinstance(label, str)]
            hint = suggest(close_matches(wanted, texts))
        there_is = f"\n  There is: {shown}{more}." if shown else "\n  There is none."
        MLXGraphError.__init__(
            self, f"no {what} {wanted!r}.{hint}{there_is}{advice and chr(10) + '  ' + advice}"
        )


def _closest(wanted: object, labels: list[object]) -> list[object]:
    """The labels to name, in their order: of many, those closest to what was wanted."""
    if len(labels) <= _MOST:
        return labels
    numbers = [label for label in labels if isinstance(label, (int, float))]
    if isinstance(wanted, (int, float)) and numbers:
        near = sorted(numbers, key=lambda label: abs(label - wanted))[:_MOST]
        return [label for label in labels if label in near]
    return labels[:_MOST]


class SingleCellError(MLXGraphError, TypeError, ValueError):
    """One number taken of a result that has several cells."""

    def __init__(self, shape: str, example: str):
        super().__init__(
            f"this result has {shape}, and one number of it was asked for.\n"
            f"  Name the cell, `{example}`; or write e.max(), e.mean()."
        )
