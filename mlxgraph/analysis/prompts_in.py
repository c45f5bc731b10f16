"""Prompts one by one, from whatever holds them: a list, or an iterator over more than memory.

In: what `get_activations` is given.  Out: rows of token ids, or arrays of a custom model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.inputs import (
    check_model,
    encoded_rows,
    holds_tokens,
    is_encoding,
    is_messages,
)
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, MLXGraphError, NoChatTemplateError, NoTokenizerError

MOST_IDS = 1 << 31
Row: TypeAlias = "list[int] | mx.array"


def rows_in(model: Traceable, prompts: Any) -> list[Row]:
    """One entry for each prompt: its token ids, or its array without the batch axis."""
    at_once = _at_once(model, prompts)
    if at_once is not None:
        return at_once
    rows = list(prompts)
    if not rows:
        raise InputError("there are no prompts.\n  Give at least one.")
    if all(isinstance(row, (int, np.integer)) for row in rows):
        return [[int(token) for token in rows]]
    return [row_of(model, row, number) for number, row in enumerate(rows)]


def stream_of(model: Traceable, prompts: Any) -> Iterator[Row]:
    """As `rows_in`, one at a time: of an iterator no prompt is asked for before its turn."""
    at_once = _at_once(model, prompts)
    if at_once is None and hasattr(prompts, "__len__"):
        first = next(iter(prompts), None)
        if isinstance(first, (int, np.integer)):
            at_once = rows_in(model, prompts)
    if at_once is not None:
        yield from at_once
        return
    for number, row in enumerate(prompts):
        yield row_of(model, row, number)


def count_of(prompts: Any) -> int | None:
    """How many prompts there are, where that is known before."""
    return len(prompts) if isinstance(prompts, (list, tuple)) else None


def _at_once(model: Traceable, prompts: Any) -> list[Row] | None:
    """The rows of what is one value; None for several prompts."""
    check_model(model)
    if isinstance(prompts, str) or is_messages(prompts):
        return [model.encode(prompts)]
    if is_encoding(prompts):
        return list(encoded_rows(model, prompts))
    if isinstance(prompts, np.ndarray) and prompts.dtype.kind in "UO":  # of texts
        return rows_in(model, prompts.tolist())
    if isinstance(prompts, (mx.array, np.ndarray)):
        array = mx.array(prompts)
        if array.ndim == 1:
            return [array.tolist()]  # type: ignore[list-item]
        tokens = holds_tokens(array) and array.ndim == 2
        return array.tolist() if tokens else list(array)  # type: ignore[return-value]
    if not isinstance(prompts, Iterable):
        raise InputError(
            f"texts or token ids are needed, not a {type(prompts).__name__}.\n"
            "  Give a list of texts."
        )
    return None


def row_of(model: Traceable, row: Any, number: int) -> Row:
    """One prompt of several.  Raises: InputError for what is none, with its number."""
    if type(row) is list and row and all(type(token) is int for token in row):
        return check_fits(list(row), number)  # as most are
    try:
        if isinstance(row, str) or is_messages(row):
            return model.encode(row)
        if isinstance(row, (bytes, bytearray, memoryview)):
            raise TypeError("bytes are no text until they are decoded")
        array = mx.array(row)
    except (NoTokenizerError, NoChatTemplateError):
        raise
    except MLXGraphError as error:
        raise InputError(f"prompt {number}: {error}") from error
    except Exception as error:  # whatever a tokenizer or MLX has to say of it
        raise InputError(
            f"prompt {number} cannot be tokenised: {type(error).__name__}: {error!s:.200}\n"
            f"  It is {row!r:.60}: give a text, messages or token ids."
        ) from error
    if not array.ndim:
        raise InputError(
            f"prompt {number} is {row!r:.60}, one number.\n"
            "  Give a list of each prompt's token ids: [[5, 7, 2], [9, 1]]."
        )
    if array.ndim == 1 and holds_tokens(array):
        return check_fits(array.tolist(), number)  # type: ignore[arg-type]
    return array


def check_fits(row: list[int], number: int) -> list[int]:
    """Raise InputError for ids that no vocabulary has."""
    if row and not -MOST_IDS <= min(row) <= max(row) < MOST_IDS:
        wrong = next(token for token in row if not -MOST_IDS <= token < MOST_IDS)
        raise InputError(
            f"prompt {number} has {wrong} among its token ids, which no vocabulary has.\n"
            "  Encode the text with the tokenizer of this model."
        )
    return row
