"""Texts of token ids, by a tokenizer: what may be asked of it, said on the user's line."""

from __future__ import annotations

import operator
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.errors import InputError


def several_texts(texts: Any) -> Any:
    """Several texts as they are.  Raises: InputError for one text, or no texts."""
    if isinstance(texts, str) or not hasattr(type(texts), "__iter__"):
        what = "one text" if isinstance(texts, str) else f"a {type(texts).__name__}"
        raise InputError(
            f"several texts are encoded here, and this is {what}.\n"
            "  Write model.encode(text), or model.encode_batch([text])."
        )
    return texts


def token_list(tokens: Any) -> list[int]:
    """Token ids of one text, as a list.  Raises: InputError."""
    if isinstance(tokens, (mx.array, np.ndarray)):
        tokens = tokens.tolist()
    if isinstance(tokens, (str, bytes)) or not hasattr(type(tokens), "__iter__"):
        raise InputError(
            f"the token ids of one text are needed, not a {type(tokens).__name__}.\n"
            "  Write model.decode([5]) for one token, or model.token_to_str(5)."
        )
    return [_token(token) for token in tokens]


def one_token(token: Any) -> int:
    """One token id.  Raises: InputError."""
    if isinstance(token, (mx.array, np.ndarray)) and token.size == 1:
        token = token.item()
    return _token(token)


def _token(token: Any) -> int:
    try:
        number = operator.index(token)
    except TypeError:
        rows = isinstance(token, (list, tuple))
        raise InputError(
            f"{token!r:.60} is no token id.\n  "
            + ("Write model.decode(row) for each row." if rows else "Token ids are whole numbers.")
        ) from None
    if number < 0:
        raise InputError(f"{number} is no token id: they begin at 0.\n  Look at the ids again.")
    return number
