"""What `model.trace(...)` accepts, as a call.

In: a text, texts, token ids or arrays.  Out: a `Call`: the arguments, the tokens, each row's
length, and how to call the model with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.errors import InputError, NoTokenizerError
from mlxgraph.graph.nested import leaves, map_nested
from mlxgraph.run.call import Call, describe_call
from mlxgraph.run.padded import padded_forward


def prepare(inputs: tuple, tokenizer: Any, kwargs: dict[str, Any] | None = None) -> Call:
    """The call for what the user gave.

    Args: kwargs: the model's own keyword arguments.
    Raises: NoTokenizerError for text without a tokenizer, InputError for what no model takes.
    """
    kwargs = {} if kwargs is None else kwargs
    if len(inputs) != 1:
        return describe_call(tuple(_array(value) for value in inputs), kwargs)
    given = inputs[0]
    if isinstance(given, str):
        return call_of([encode(tokenizer, given)], tokenizer, kwargs)
    if isinstance(given, (list, tuple)) and given:
        if all(isinstance(item, str) for item in given):
            return call_of([encode(tokenizer, text) for text in given], tokenizer, kwargs)
        if all(isinstance(item, (int, np.integer)) for item in given):
            return call_of([[int(token) for token in given]], tokenizer, kwargs)
        if all(isinstance(item, (list, tuple)) for item in given):
            rows_of_ids = all(
                isinstance(token, (int, np.integer)) for row in given for token in row
            )
            if rows_of_ids:
                return call_of([[int(token) for token in row] for row in given], tokenizer, kwargs)
        if any(isinstance(leaf, (mx.array, np.ndarray)) for leaf in leaves(given)):
            return describe_call((map_nested(given, _array),), kwargs)  # one argument, as it is
        raise InputError(
            "a list of inputs must hold texts, token ids, or lists of token ids; this one holds "
            f"{', '.join(sorted({type(item).__name__ for item in given}))}.\n"
            "  Write model.trace(a, b) for a model that takes several inputs."
        )
    if isinstance(given, (list, tuple)):
        raise InputError("an empty list is no input.\n  Give at least one text or token.")
    value = _array(given)
    if isinstance(value, mx.array) and value.ndim == 2 and mx.issubdtype(value.dtype, mx.integer):
        lengths = [value.shape[1]] * value.shape[0]
        return describe_call((value,), kwargs, tokens=value, lengths=lengths)
    return describe_call((value,), kwargs)


def _array(value: Any) -> Any:
    return mx.array(value) if isinstance(value, np.ndarray) else value


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids, with the special tokens that the tokenizer adds."""
    if tokenizer is None:
        raise NoTokenizerError(f"the text {text[:40]!r}")
    return list(tokenizer.encode(text))


def call_of(
    rows: Sequence[Sequence[int]], tokenizer: Any, kwargs: dict[str, Any] | None = None
) -> Call:
    """Rows of token ids; rows of several lengths are padded on the left and masked."""
    kwargs = {} if kwargs is None else kwargs
    lengths = [len(row) for row in rows]
    if not all(lengths):
        raise InputError(
            f"row {lengths.index(0)} has no tokens: there is nothing to run.\n"
            "  Give it a token, such as the tokenizer's begin-of-text token."
        )
    longest = max(lengths)
    pad = getattr(tokenizer, "pad_token_id", None) or 0
    tokens = mx.array([[pad] * (longest - len(row)) + list(row) for row in rows])
    if min(lengths) == longest:
        return describe_call((tokens,), kwargs, tokens=tokens, lengths=lengths)
    padding = mx.array([longest - length for length in lengths])
    return describe_call(
        (tokens, padding), kwargs, forward=padded_forward, tokens=tokens, lengths=lengths
    )
