"""What `model.trace(...)` accepts, as a call.

In: a text, texts, token ids or arrays.  Out: a `Call`: the arguments, the tokens, each row's
length, and how to call the model with them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.errors import InputError, KeywordError, NoTokenizerError
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
            return call_of([[int(token) for token in row] for row in given], tokenizer, kwargs)
        raise InputError(
            "a list of inputs must hold texts, token ids, or lists of token ids; this one holds "
            f"{', '.join(sorted({type(item).__name__ for item in given}))}.\n"
            "  Write model.trace(a, b) for a model that takes several inputs."
        )
    if isinstance(given, (list, tuple)):
        raise InputError("an empty list is no input.\n  Give at least one text or token.")
    value = given.item() if isinstance(given, np.generic) else _array(given)
    if value is None or isinstance(value, (bool, int, float, complex, bytes, set, Iterator)):
        raise InputError(_no_input(value))
    if isinstance(value, mx.array) and value.ndim == 2 and mx.issubdtype(value.dtype, mx.integer):
        lengths = [value.shape[1]] * value.shape[0]
        return describe_call((value,), kwargs, tokens=value, lengths=lengths)
    return describe_call((value,), kwargs)


def _no_input(value: Any) -> str:
    """What to write in place of a lone value that no model can be run on."""
    if value is None:
        said = "a text, token ids or an array; without any input, model.trace() takes prompts"
        return f"None is no input.\n  Give {said} by `t.invoke`."
    if isinstance(value, int) and not isinstance(value, bool):
        return f"the number {value} is no input.\n  Write model.trace([{value}]) for one token id."
    if isinstance(value, Iterator):
        return (
            f"a {type(value).__name__} is no input: it can be read once only.\n  Write list(...)."
        )
    return f"a {type(value).__name__} is no input.\n  Give a text, texts, token ids or an array."


@cache
def _keywords(kind: Any) -> tuple[str, ...] | None:
    """The keywords that a model's forward takes; None where it takes any, or nobody can tell."""
    try:
        own = list(inspect.signature(kind.__call__).parameters.values())[1:]
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in own):
        return None
    return tuple(p.name for p in own if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))


def check_keywords(model: Any, kwargs: Iterable[str], params: Iterable[str] = ()) -> None:
    """Raise unless the model's forward takes these keywords.

    Args: params: those of the graph, which the user may have meant.
    Raises: KeywordError.
    """
    kind: Any = type(model)
    known = _keywords(kind)
    if known is None:
        return
    for name in kwargs:
        if name not in known:
            raise KeywordError(name, [*params, *known])


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
