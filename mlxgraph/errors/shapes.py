"""Shapes, indices and positions that do not fit."""

from __future__ import annotations

from collections.abc import Iterable

from mlxgraph.errors.base import MLXGraphError


class ShapeError(MLXGraphError, ValueError):
    """Shapes that do not fit, at the line that wrote them together."""

    def __init__(self, what: str, where: str, advice: str = "", listing: str = ""):
        lines = [what, f"  at {where}", advice and f"  {advice}", listing]
        super().__init__("\n".join(filter(None, lines)))


class SharedByRowsError(ShapeError, AttributeError):
    """A value that cannot be right for every text, where texts of several lengths are padded."""

    def __init__(self, shape: tuple[int, ...], where: str):
        super().__init__(
            f"this value of shape {shape} cannot be told apart by texts of several lengths: it has"
            " no axis of positions beside that of the texts, and the texts are padded",
            where,
            "Trace these texts one by one, or texts of one length.",
        )


class OperationError(MLXGraphError, TypeError, ValueError):
    """An operation that MLX does not accept for these values."""

    def __init__(self, op: str, shapes: str, where: str, reason: str, listing: str = ""):
        super().__init__(
            f"{op} does not accept {shapes}: {reason}\n  at {where}{listing and chr(10) + listing}"
        )


class BoundsError(MLXGraphError, IndexError):
    """A static index outside the array: MLX itself would read rubbish or ignore the write."""

    def __init__(self, index: int, axis: int, size: int, shape: tuple, where: str):
        if axis >= len(shape):
            axes = f"{len(shape)} axes" if len(shape) != 1 else "one axis"
            MLXGraphError.__init__(
                self,
                f"the index is out of bounds: it has a part for axis {axis}, the array has {axes}"
                f" (shape {shape}).\n"
                f"  at {where}\n  Leave out what is too much, or look at h.shape.",
            )
            return
        valid = f"from {-size} to {size - 1}" if size else "none: the axis is empty"
        super().__init__(
            f"index {index} is out of bounds for axis {axis} of size {size} (shape {shape}).\n"
            f"  at {where}\n  Valid indices: {valid}."
        )


class StepError(BoundsError, ValueError):
    """A slice whose step is 0: MLX itself would end the process."""

    def __init__(self, shape: str, where: str):
        """`shape`, of what is sliced, or what else it is."""
        MLXGraphError.__init__(
            self,
            f"a slice of {shape} has a step of 0, and would never get anywhere.\n  at {where}\n"
            "  Write another step, `h[:, ::2]` or `h[:, ::-1]`; leave it out for every entry.",
        )


class NoLayerError(BoundsError):
    """A layer, or another of several modules or calls, that the model does not have."""

    def __init__(
        self,
        what: str,
        number: int,
        count: int,
        where: str,
        owner: str = "the model",
        index: bool = False,
    ):
        """`what` they are called, all of them: `layers`; `index`: whether it indexes an array."""
        said = f"index {number} is out of bounds: " if index else ""
        advice = f"Write a number from {-count} to {count - 1}; -1 is the last." if count else ""
        MLXGraphError.__init__(
            self,
            f"{said}{owner} has no {what.removesuffix('s')} {number}: it has"
            f" {numbered(what, count)}.\n  at {where}{advice and chr(10) + '  ' + advice}",
        )


def numbered(what: str, count: int) -> str:
    """`layers 0–5`: which of several modules there are."""
    if count < 2:
        return f"{what.removesuffix('s')} 0 alone" if count else f"no {what}"
    return f"{what} 0–{count - 1}"


class PositionError(MLXGraphError, IndexError):
    """A token position that a text does not have."""

    def __init__(
        self, position: int, length: int, what: str = "the text", edit: str = "", where: str = ""
    ):
        """`edit`: what an edit is of that was to be made there; `where`: its line."""
        tokens = "one token" if length == 1 else f"{length} tokens"
        super().__init__(
            (f"{edit} cannot be edited at position {position}: that" if edit else "position")
            + (" is" if edit else f" {position} is")
            + f" outside {what}, which has {tokens}.\n"
            + (f"  at {where}\n" if where else "")
            + f"  Positions go from {-length} to {length - 1}; -1 is the last token."
        )


class AlignError(MLXGraphError, ValueError):
    """An alignment that does not exist, or one that is needed and was not given."""

    def __init__(self, given: str, known: Iterable[str]):
        super().__init__(
            f"there is no alignment {given!r}.\n"
            f"  Write align={' or align='.join(repr(name) for name in known)}."
        )


class LengthsError(AlignError):
    """Two texts of different token lengths whose positions were to be matched."""

    def __init__(self, clean: int, corrupted: int):
        MLXGraphError.__init__(
            self,
            f"the clean text has {clean} tokens and the corrupted text {corrupted}, so their "
            "positions do not correspond.\n"
            "  Use texts of one length, or say which positions match: align='start' or 'end'.",
        )
