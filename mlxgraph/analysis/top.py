"""What logits say comes next: the best tokens with their probabilities, printed as a table."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.inputs import first_array, token_strings
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.analysis.unembed import known_value, top_tokens
from mlxgraph.errors import InputError


class Prediction(NamedTuple):
    """A token that may come next: its text, its id, and its probability from 0 to 1."""

    token: str
    id: int
    probability: float


class Top(list):
    """Predictions, best first: a list of `(token, id, probability)` that prints as a table."""

    def __repr__(self) -> str:
        names = [repr(one.token) for one in self]
        wide = max(map(len, names), default=0)
        digits = max((len(str(one.id)) for one in self), default=0)
        return "\n".join(
            f"{name:<{wide}}  {one.id:>{digits}}  {one.probability:7.2%}"
            for name, one in zip(names, self, strict=True)
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:left'><code>{escape(repr(one.token))}</code></td>"
            f"<td>{one.id}</td><td>{one.probability:.2%}</td></tr>"
            for one in self
        )
        head = "<tr><th style='text-align:left'>token</th><th>id</th><th>probability</th></tr>"
        return f"<table>{head}{rows}</table>"


def top(model: Traceable, logits: Any, k: int = 5) -> Any:
    """The k most probable tokens of logits, at the last position.

    Args:
        logits: shape (vocabulary,), (rows, vocabulary), or (batch, length, vocabulary), of which
            the last position counts; a saved value or a model's output.
        k: how many tokens.
    Returns: a list of `(token, id, probability)`, best first, that prints as a table; for several
        rows a list of such lists, one for each.  Without a tokenizer a token is its number.
    Raises: InputError for what is no logits, such as token ids or a text, for logits that are not
        numbers, and for a `k` below 1.

    Example:
        >>> with model.trace("The capital of France is"):
        ...     logits = model.output.save()
        >>> model.top(logits)
        >>> model.top(logits)[0].token
    """
    rows = _rows(logits)
    chances = mx.softmax(rows, axis=-1, precise=True)
    if mx.any(mx.isnan(chances)).item():
        raise InputError(
            "these logits hold what is no number (nan or inf): no token is the most probable.\n"
            "  Look at the activations before them: the first layer whose output holds one."
        )
    ids, _ = top_tokens(rows, k, "k")
    best: list[list[float]] = mx.take_along_axis(chances, ids, axis=-1).tolist()  # type: ignore[assignment]
    found: list[list[int]] = ids.tolist()  # type: ignore[assignment]
    names = token_strings(model, [token for row in found for token in row])
    tables = [_table(names, *pair) for pair in zip(found, best, strict=True)]
    return tables[0] if len(tables) == 1 else tables


def _table(names: dict[int, str], ids: Iterable[int], chances: Iterable[float]) -> Top:
    pairs = zip(ids, chances, strict=True)
    return Top([Prediction(names[token], token, chance) for token, chance in pairs])


def _rows(logits: Any) -> mx.array:
    """Logits as (rows, vocabulary), in float32."""
    value = first_array(logits)
    if isinstance(value, np.ndarray):
        value = mx.array(value)
    if not isinstance(value, mx.array):
        raise InputError(
            f"logits are needed, not a {type(logits).__name__}.\n"
            "  Save them, `logits = model.output.save()`, and write model.top(logits)."
        )
    value = known_value(value)
    if not mx.issubdtype(value.dtype, mx.floating) or value.ndim not in (1, 2, 3) or not value.size:
        raise InputError(
            f"logits are floats of shape (vocabulary,), (rows, vocabulary) or (batch, length,"
            f" vocabulary); these are {value.dtype} of shape {value.shape}.\n"
            "  Save them in a block: logits = model.output.save()."
        )
    value = value[:, -1] if value.ndim == 3 else value
    return value.reshape(-1, value.shape[-1]).astype(mx.float32)
