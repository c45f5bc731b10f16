"""What `model.trace(...)` accepts, as a call.

In: a text, texts, messages, token ids, a tokenizer's encoding, or arrays.  Out: a `Call`: the
arguments, the tokens, each row's length, and how to call the model with them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.errors import InputError, KeywordError
from mlxgraph.graph.nested import map_nested
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.run.call import Call, describe_call
from mlxgraph.run.engine import Engine
from mlxgraph.run.rows import rows_of
from mlxgraph.run.turned import rows_turned, turned_forward
from mlxgraph.trace.encoding import as_array, holds_ids, is_messages, token_rows
from mlxgraph.trace.one_axis import is_one_text
from mlxgraph.trace.open_block import refreshed


def prepare(inputs: tuple, engine: Engine, kwargs: dict[str, Any] | None = None) -> Call:
    """The call for what the user gave a model.

    Args: kwargs: the model's own keyword arguments.
    Raises: NoTokenizerError for text without a tokenizer, InputError for what no model takes.
    """
    kwargs = {} if kwargs is None else kwargs
    if len(inputs) > 1 and all(isinstance(given, str) or is_messages(given) for given in inputs):
        raise InputError(
            f"{len(inputs)} texts are one input, a list.\n  Write model.trace([a, b]), or `with"
            " model.trace() as t:` and `t.invoke(a)` for edits of their own."
        )
    if len(inputs) != 1:
        return describe_call(tuple(as_array(value) for value in inputs), kwargs)
    given = inputs[0]
    if type(given) is ARRAY and given.ndim == 2 and mx.issubdtype(given.dtype, mx.integer):
        return _call_of_ids(given, kwargs)
    rows = token_rows(given, engine.tokenizer)
    if rows is not None:
        return call_of(rows, engine, kwargs)
    value = given.item() if _is_number(given) else as_array(given)
    if value is None or isinstance(value, (bool, int, float, complex, bytes, set, Iterator)):
        raise InputError(_no_input(value))
    if holds_ids(value) and (
        value.ndim == 2 or value.ndim == 1 and is_one_text(engine, value, kwargs)
    ):
        return _call_of_ids(value if value.ndim == 2 else value[None], kwargs)
    return describe_call((map_nested(value, as_array),), kwargs)


def _call_of_ids(tokens: mx.array, kwargs: dict[str, Any]) -> Call:
    """The call for token ids, (batch, length), none of which is padding."""
    batch, length = tokens.shape
    return describe_call((tokens,), kwargs, tokens=tokens, lengths=[length] * batch)


def _is_number(value: Any) -> bool:
    """A number of numpy, or a whole one as an array without axes."""
    if isinstance(value, mx.array):
        return value.ndim == 0 and mx.issubdtype(value.dtype, mx.integer)
    return isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not value.ndim)


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


def listed_ids(tokens: Any) -> list[int]:
    """Token ids of one text, as a list.  Raises: InputError."""
    listed = tokens.tolist() if hasattr(tokens, "tolist") else tokens
    if isinstance(listed, (list, tuple)):
        numbers = [item for item in listed if isinstance(item, (int, np.integer)) and item >= 0]
        if len(numbers) == len(listed):
            return [int(number) for number in numbers]
    raise InputError(
        f"these are not the token ids of one text: {tokens!r:.60}.\n"
        "  Write model.decode([5, 7]), whole numbers from 0 on; of several rows, one at a time:"
        " model.decode(tokens[0])."
    )


def params_of(params: Any) -> Mapping[str, Any]:
    """The values of `params=`.  Raises: InputError for what is no mapping of names."""
    if params is None:
        return {}
    if not isinstance(params, Mapping) or not all(isinstance(name, str) for name in params):
        raise InputError(
            f"params= takes values by the params' names, not a {type(params).__name__}.\n"
            "  Write model.trace(x, params={'alpha': 0.5})."
        )
    return params


def call_of(
    rows: Sequence[Sequence[int]], engine: Engine, kwargs: dict[str, Any] | None = None
) -> Call:
    """Rows of token ids.

    Rows of several lengths are padded on the left and masked; where the model cannot mask they are
    padded on the right, and shown as if they were not.
    """
    kwargs = {} if kwargs is None else kwargs
    lengths = [len(row) for row in rows]
    if not all(lengths):
        raise InputError(
            f"row {lengths.index(0)} has no tokens: there is nothing to run.\n"
            "  Give it a token, such as the tokenizer's begin-of-text token."
        )
    longest = max(lengths)
    pad = _padding(engine) if min(lengths) < longest else 0
    tokens = mx.array([[pad] * (longest - len(row)) + list(row) for row in rows])
    if min(lengths) == longest:
        return describe_call((tokens,), kwargs, tokens=tokens, lengths=lengths)
    reach = refreshed(engine).runner.tree.reach
    if longest > reach:
        raise InputError(
            f"texts of several lengths cannot share a batch here: one has {longest} tokens, and"
            f" beyond {reach} this model's positions depend on the longest text.\n"
            "  Trace them one by one (batch_size=1), or give texts of one length."
        )
    padding = mx.array([longest - length for length in lengths])
    forward = engine.runner.ragged_forward()
    turned = forward is turned_forward
    given = rows_turned(tokens, padding) if turned else tokens
    return describe_call(
        (given, padding), kwargs, forward=forward, tokens=tokens, lengths=lengths, turned=turned
    )


def _padding(engine: Engine) -> int:
    """The id of the padding: the tokenizer's, where the model has a row for it.

    Without one an embedding reads whatever lies there, and no mask hides a nan.
    """
    pad = getattr(engine.tokenizer, "pad_token_id", None) or 0
    rows = map(rows_of, engine.runner.tree.embeddings.values())
    return pad if 0 <= pad < min(rows, default=pad + 1) else 0
