"""Which positions of each prompt are kept: numbers, all, the last, or what a function says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.inputs import check_position, whole_number
from mlxgraph.errors import InputError

Positions: TypeAlias = "int | Sequence[int] | str | Callable[[Any], Any]"


class Kept(NamedTuple):
    """What is asked of each prompt.

    Attributes:
        numbers: the same for each prompt, counted from its own ends; None where it depends.
        function: gives the positions of a prompt; None for all of them.
        single: whether a prompt has one row, and no axis of rows.
        reduce: "mean", or None.
    """

    numbers: tuple[int, ...] | None
    function: Callable[[Any], Any] | None
    single: bool
    reduce: str | None

    @property
    def said(self) -> Any:
        """As a manifest has it."""
        return list(self.numbers) if self.numbers else "callable" if self.function else "all"

    def of(self, row: Any, prompt: int) -> np.ndarray:
        """The positions that are kept of one prompt, counted from its start, int32.

        Args: row: its token ids, or a custom model's array; prompt: its number.
        Raises: PositionError for one that it does not have, InputError for none.
        """
        length, what = len(row), f"prompt {prompt}"
        if self.numbers is None and self.function is None and length:
            return np.arange(length, dtype=np.int32)
        if self.numbers is not None:
            found = [check_position(position, length, what) for position in self.numbers]
        elif self.function is None:
            found = []
        else:
            said = self.function(row)
            given = np.array(said).reshape(-1)  # a number, numbers, or a mask
            if given.dtype == np.bool_ and given.size == length:
                given = np.flatnonzero(given)
            found = [check_position(position, length, what) for position in given.tolist()]
        if not found:
            why = "it has no tokens" if not length else "positions gave none of it"
            raise InputError(
                f"no position of prompt {prompt} is kept: {why}.\n  Leave such prompts out before,"
                " or have the function give one position at least."
            )
        return np.array(found, np.int32)


def kept(positions: Positions, reduce: str | None) -> Kept:
    """What `positions=` and `reduce=` ask for.  Raises: InputError."""
    if reduce not in (None, "mean"):
        raise InputError(f"reduce={reduce!r} is no way to reduce.\n  Write reduce='mean', or none.")
    if isinstance(positions, str) and positions == "last":
        positions = -1
    if isinstance(positions, str) and positions == "all":
        return Kept(None, None, reduce is not None, reduce)
    if isinstance(positions, str):
        raise InputError(
            f"positions={positions!r} are no positions.\n  Write positions=-1 for the last token,"
            " a list of numbers, 'all', or a function of a prompt's token ids."
        )
    if callable(positions):
        return Kept(None, positions, reduce is not None, reduce)
    single = isinstance(positions, (int, np.integer))
    if isinstance(positions, (mx.array, np.ndarray)):
        positions = positions.tolist()
    given = [positions] if single or not isinstance(positions, Iterable) else positions
    numbers = tuple([whole_number(p, "positions") for p in given])  # type: ignore[union-attr]
    if not numbers:
        raise InputError("there are no positions.\n  Write positions=-1 for the last token.")
    return Kept(numbers, None, single or reduce is not None, reduce)
