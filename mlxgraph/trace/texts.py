"""Texts and tokens as a tokenizer is asked for them, one or several."""

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


def one_token(token: Any) -> int:
    """One token id.  Raises: InputError."""
    if isinstance(token, (mx.array, np.ndarray)) and token.size == 1:
        token = token.item()
    try:
        return operator.index(token)
    except TypeError:
        raise InputError(f"{token!r:.60} is no token id.\n  Token ids are whole numbers.") from None
