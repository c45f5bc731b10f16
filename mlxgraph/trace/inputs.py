"""What `model.trace(...)` accepts, as a call.

In: a text, texts, token ids, a tokenizer's encoding, or arrays.  Out: a `Call`: the arguments, the
tokens, each row's length, and how to call the model with them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.errors import InputError, KeywordError, NoTokenizerError
from mlxgraph.graph.nested import leaves, map_nested
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.run.call import Call, describe_call
from mlxgraph.run.engine import Engine
from mlxgraph.run.padded import padded_forward
from mlxgraph.run.rows import rows_of
from mlxgraph.trace.one_axis import is_one_text


def prepare(inputs: tuple, engine: Engine, kwargs: dict[str, Any] | None = None) -> Call:
    """The call for what the user gave a model.

    Args: kwargs: the model's own keyword arguments.
    Raises: NoTokenizerError for text without a tokenizer, InputError for what no model takes.
    """
    kwargs = {} if kwargs is None else kwargs
    if len(inputs) > 1 and all(isinstance(given, str) for given in inputs):
        raise InputError(
            f"{len(inputs)} texts are one input, a list.\n  Write model.trace([a, b]), or `with"
            " model.trace() as t:` and `t.invoke(a)` for edits of their own."
        )
    if len(inputs) != 1:
        return describe_call(tuple(_array(value) for value in inputs), kwargs)
    given = inputs[0]
    if type(given) is ARRAY and given.ndim == 2 and mx.issubdtype(given.dtype, mx.integer):
        return _call_of_ids(given, kwargs)
    rows = _token_rows(given, engine.tokenizer)
    if rows is not None:
        return call_of(rows, engine, kwargs)
    value = given.item() if _is_number(given) else _array(given)
    if value is None or isinstance(value, (bool, int, float, complex, bytes, set, Iterator)):
        raise InputError(_no_input(value))
    if _holds_ids(value) and (
        value.ndim == 2 or value.ndim == 1 and is_one_text(engine, value, kwargs)
    ):
        return _call_of_ids(value if value.ndim == 2 else value[None], kwargs)
    return describe_call((map_nested(value, _array),), kwargs)


def _call_of_ids(tokens: mx.array, kwargs: dict[str, Any]) -> Call:
    """The call for token ids, (batch, length), none of which is padding."""
    batch, length = tokens.shape
    return describe_call((tokens,), kwargs, tokens=tokens, lengths=[length] * batch)


def _token_rows(given: Any, tokenizer: Any) -> list[list[int]] | None:
    """The rows of token ids that texts, lists and encodings stand for; None for anything else."""
    if isinstance(given, np.ndarray) and given.dtype.kind == "U":
        given = given.tolist()
    if isinstance(given, str):
        return [encode(tokenizer, given)]
    encoded = _encoding(given)
    if encoded is not None:
        return _rows_of_encoding(*encoded)
    if not isinstance(given, (list, tuple)):
        return None
    if not given:
        raise InputError("an empty list is no input.\n  Give at least one text or token.")
    if all(isinstance(item, str) for item in given):
        return [encode(tokenizer, text) for text in given]
    if all(isinstance(item, (int, np.integer)) for item in given):
        return [[int(token) for token in given]]
    if all(_encoding(item) is not None for item in given):
        return [row for item in given for row in _rows_of_encoding(*(_encoding(item) or ()))]
    if all(isinstance(item, (list, tuple)) or _is_row(item) for item in given):
        rows = [_listed(row) for row in given]
        if all(isinstance(token, (int, np.integer)) for row in rows for token in row):
            return [[int(token) for token in row] for row in rows]
    if any(isinstance(leaf, (mx.array, np.ndarray)) for leaf in leaves(given)):
        return None  # one argument, as it is
    raise InputError(
        "a list of inputs must hold texts, token ids, or lists of token ids; this one holds "
        f"{', '.join(sorted({type(item).__name__ for item in given}))}.\n"
        "  Write model.trace(a, b) for a model that takes several inputs."
    )


def _encoding(given: Any) -> tuple[Any, Any] | None:
    """Ids and mask of what a tokenizer returns: `transformers`' dict, or `tokenizers`' object."""
    if isinstance(given, Mapping):
        return (given["input_ids"], given.get("attention_mask")) if "input_ids" in given else None
    if hasattr(type(given), "ids") and hasattr(type(given), "attention_mask"):
        return given.ids, given.attention_mask
    return None


def _rows_of_encoding(ids: Any, mask: Any) -> list[list[int]]:
    """The tokens of each row without the padding, on whichever side it is."""
    rows = _nested(_listed(ids))
    masks = [[1] * len(row) for row in rows] if mask is None else _nested(_listed(mask))
    if list(map(len, rows)) != list(map(len, masks)):
        raise InputError("the encoding's attention_mask does not have the shape of its input_ids.")
    found = []
    for row, real in zip(rows, masks, strict=True):
        kept = [int(token) for token, one in zip(row, real, strict=True) if one]
        first = next((k for k, one in enumerate(real) if one), 0)
        if not all(real[first : first + len(kept)]):
            raise InputError(
                "the encoding's attention_mask leaves out tokens in the middle of a text.\n"
                "  Only padding, on either side, is left out; give the ids of the tokens alone."
            )
        found.append(kept)
    return found


def _nested(values: list) -> list[list]:
    return values if values and isinstance(values[0], (list, tuple)) else [values]


def _listed(values: Any) -> list:
    """An array of whatever library as a list; its rows too."""
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    return [one.tolist() if hasattr(one, "tolist") else one for one in listed]


def _is_number(value: Any) -> bool:
    """A number of numpy, or a whole one as an array without axes."""
    if isinstance(value, mx.array):
        return value.ndim == 0 and mx.issubdtype(value.dtype, mx.integer)
    return isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not value.ndim)


def _is_row(value: Any) -> bool:
    return _holds_ids(_array(value)) and len(value.shape) == 1


def _holds_ids(value: Any) -> bool:
    """Whether an array can hold token ids: whole numbers, with at least one axis."""
    return isinstance(value, mx.array) and value.ndim > 0 and mx.issubdtype(value.dtype, mx.integer)


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


def _array(value: Any) -> Any:
    """An array of another library as MLX's; anything else as it is."""
    if isinstance(value, mx.array) or not hasattr(type(value), "__array__"):
        return value
    return mx.array(np.asarray(value))


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids, with the special tokens that the tokenizer adds.

    Text that begins with the first of them already, as templated text does, is taken as it is
    (and as `mlx_lm.generate` takes it).
    """
    if not isinstance(text, str):
        several = isinstance(text, (list, tuple)) and "model.encode_batch(texts) for several texts"
        raise InputError(
            f"one text is encoded at a time, and this is a {type(text).__name__}.\n"
            f"  Write {several or 'model.encode(text)'}."
        )
    if tokenizer is None:
        raise NoTokenizerError(f"the text {text[:40]!r}")
    first = getattr(tokenizer, "bos_token", None)
    if isinstance(first, str) and first and text.startswith(first):
        try:
            return list(tokenizer.encode(text, add_special_tokens=False))
        except TypeError:  # a tokenizer that adds none has no such option
            pass
    return list(tokenizer.encode(text))


def call_of(
    rows: Sequence[Sequence[int]], engine: Engine, kwargs: dict[str, Any] | None = None
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
    pad = _padding(engine) if min(lengths) < longest else 0
    tokens = mx.array([[pad] * (longest - len(row)) + list(row) for row in rows])
    if min(lengths) == longest:
        return describe_call((tokens,), kwargs, tokens=tokens, lengths=lengths)
    padding = mx.array([longest - length for length in lengths])
    return describe_call(
        (tokens, padding), kwargs, forward=padded_forward, tokens=tokens, lengths=lengths
    )


def _padding(engine: Engine) -> int:
    """The id of the padding: the tokenizer's, where the model has a row for it.

    Without one an embedding reads whatever lies there, and no mask hides a nan.
    """
    pad = getattr(engine.tokenizer, "pad_token_id", None) or 0
    rows = map(rows_of, engine.runner.tree.embeddings.values())
    return pad if 0 <= pad < min(rows, default=pad + 1) else 0
