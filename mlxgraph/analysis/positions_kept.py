"""Which positions of each prompt are kept: numbers, all, the last, or what a function says."""

from __future__ import annotations

import inspect
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
            found = [check_position(one, length, what) for one in self._said(row, prompt).tolist()]
        if not found:
            why = "it has no tokens" if not length else "positions gave none of it"
            raise InputError(
                f"no position of prompt {prompt} is kept: {why}.\n  Leave such prompts out before,"
                " or have the function give one position at least."
            )
        return np.array(found, np.int32)

    def _said(self, row: Any, prompt: int) -> np.ndarray:
        """What the function says of one prompt: a number, numbers, or True and False for each."""
        assert self.function is not None
        said = self.function(row)
        given = np.array(said).reshape(-1)
        if given.dtype != np.bool_:
            return given
        if given.size != len(row):
            raise InputError(
                f"positions gave {given.size} times True or False for prompt {prompt}, which has"
                f" {len(row)} tokens.\n  Give one for each token, or the positions as numbers."
            )
        return np.flatnonzero(given)


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
        _check_takes_one(positions)
        return Kept(None, positions, reduce is not None, reduce)
    if isinstance(positions, (mx.array, np.ndarray)):
        positions = positions.tolist()
    single = not isinstance(positions, Iterable)
    given: Any = [positions] if single else positions
    numbers = tuple([whole_number(one, "positions") for one in given])
    if not numbers:
        raise InputError("there are no positions.\n  Write positions=-1 for the last token.")
    return Kept(numbers, None, single or reduce is not None, reduce)


def _check_takes_one(function: Callable[..., Any]) -> None:
    """Raise InputError for a function that cannot be given a prompt."""
    try:
        inspect.signature(function).bind(None)
    except ValueError:
        return  # one of those that do not say what they take
    except TypeError as error:
        raise InputError(
            f"positions= is a function that cannot be called with a prompt: {error}.\n"
            "  Write one of one argument, a prompt's token ids: lambda tokens: [0, -1]."
        ) from None
