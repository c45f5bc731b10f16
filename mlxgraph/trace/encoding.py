"""From what a user gives as a prompt to token ids: the one reader of texts, messages and encodings.

In: a text, messages, a tokenizer's encoding, token ids, or several of one kind; the tokenizer.
Out: rows of token ids, of whatever lengths; None for arrays: whether they are ids, the model says.
Never: pads, or looks at a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.errors import ChatError, InputError, NoTokenizerError
from mlxgraph.graph.nested import leaves
from mlxgraph.record.handle import is_handle
from mlxgraph.trace.chat import templated


def token_rows(given: Any, tokenizer: Any) -> list[list[int]] | None:
    """The rows of token ids that texts, messages, lists and encodings stand for.

    Returns: None for anything else: an array, or what holds arrays.
    Raises: InputError, NoTokenizerError, NoChatTemplateError, ChatError.
    """
    if getattr(getattr(given, "dtype", None), "kind", "") in ("U", "O"):
        given = given.tolist()  # numpy's, or a column of a table
    if isinstance(given, str) or is_messages(given):
        return [encode(tokenizer, given)]
    encoded = _encoding(given)
    if encoded is not None:
        return _rows_of_encoding(*encoded)
    if _is_message(given):
        _check_messages(given)
    if not isinstance(given, (list, tuple)):
        return None
    if not given:
        raise InputError("an empty list is no input.\n  Give at least one text or token.")
    if all(isinstance(item, str) or is_messages(item) for item in given):
        return [encode(tokenizer, text) for text in given]
    if all(isinstance(item, (int, np.integer)) for item in given):
        return [[int(token) for token in given]]
    if tokenizer is not None and all(map(_is_id, given)):  # such as `mx.argmax(logits)` of several
        return [[int(token) for token in given]]
    if all(_encoding(item) is not None for item in given):
        return [row for item in given for row in _rows_of_encoding(*(_encoding(item) or ()))]
    if all(isinstance(item, (list, tuple)) or _is_row(item) for item in given):
        rows = [_listed(row) for row in given]
        if all(isinstance(token, (int, np.integer)) for row in rows for token in row):
            return [[int(token) for token in row] for row in rows]
    if any(isinstance(leaf, (mx.array, np.ndarray)) for leaf in leaves(given)):
        return None  # one argument, as it is
    _check_messages(given)
    raise InputError(
        "a list of inputs must hold texts, token ids, or lists of token ids; this one holds "
        f"{', '.join(sorted({type(item).__name__ for item in given}))}.\n"
        "  Write model.trace(a, b) for a model that takes several inputs."
    )


def prompt_rows(given: Any, tokenizer: Any) -> list[list[int]]:
    """The rows of token ids of a prompt or of several: as `token_rows`, and of arrays of ids.

    Raises: InputError for what holds no token ids, and what `token_rows` raises.
    """
    is_array = isinstance(given, (mx.array, np.ndarray)) and given.dtype != mx.bool_
    rows = token_rows(given.tolist() if is_array and given.ndim else given, tokenizer)
    if rows is None:
        raise InputError(
            f"a text, messages or token ids are needed here, and this is a {type(given).__name__}."
            "\n  Token ids are whole numbers, of one row or a list of rows."
        )
    return rows


def encode(tokenizer: Any, text: Any, add_special_tokens: bool | None = None) -> list[int]:
    """Token ids of a text, or of messages.

    Args:
        text: a text; or messages, which the tokenizer's chat template makes a text of, with the
            words that begin the answer.
        add_special_tokens: whether the tokenizer adds those that it adds to a text; left out, it
            does, unless the text begins with the first of them already, as templated text does (and
            as `mlx_lm.generate` has it).  What a template makes is complete.
    """
    if is_messages(text):
        if add_special_tokens:
            raise InputError(
                "a chat template writes the special tokens itself.\n  Leave out add_special_tokens."
            )
        text, add_special_tokens = templated(tokenizer, text), False
    check_text(text)
    if tokenizer is None:
        raise NoTokenizerError(f"the text {text[:40]!r}")
    if add_special_tokens is None:
        return _with_one_bos(tokenizer, text)
    try:
        return _ids(tokenizer.encode(text, add_special_tokens=add_special_tokens))
    except TypeError:  # a tokenizer that adds none has no such option
        ids = _ids(tokenizer.encode(text))
    return ids if add_special_tokens else _without_added(tokenizer, text, ids)


def _with_one_bos(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text with the special tokens that the tokenizer adds to it, unless it begins
    with the first of these; whether the tokenizer gives that one a name or not."""
    named = begins_with_bos(tokenizer, text)
    whole = [] if named else _ids(tokenizer.encode(text))
    if not named and whole[:1] != whole[1:2]:
        return whole
    bare = encode(tokenizer, text, add_special_tokens=False)
    return bare if named or whole[1 : 1 + len(bare)] == bare else whole


def _without_added(tokenizer: Any, text: str, ids: list[int]) -> list[int]:
    """The ids that a tokenizer gives which cannot be told to add no begin-of-text token."""
    first = getattr(tokenizer, "bos_token", None)
    if not isinstance(first, str) or not first or not ids or not hasattr(tokenizer, "decode"):
        return ids
    if str(tokenizer.decode(ids[:1])) != first:
        return ids
    written = 0
    while text.startswith(first, written * len(first)):
        written += 1
    found = next((k for k, one in enumerate(ids) if one != ids[0]), len(ids))
    return ids[1:] if found > written else ids


def check_text(text: Any) -> None:
    """Raise InputError for what is not one text."""
    if isinstance(text, str):
        return
    _check_messages(text)
    several = isinstance(text, (list, tuple)) and "model.encode_batch(texts) for several texts"
    raise InputError(
        f"one text is encoded at a time, and this is a {type(text).__name__}.\n"
        f"  Write {several or 'model.encode(text)'}."
    )


def begins_with_bos(tokenizer: Any, text: str) -> bool:
    """Whether a text begins with the tokenizer's begin-of-text token, written out."""
    first = getattr(tokenizer, "bos_token", None)
    return isinstance(first, str) and bool(first) and text.startswith(first)


def _ids(encoded: Any) -> list[int]:
    """`tokenizers`' own class gives an object, which may be padded; all others the ids."""
    if not hasattr(type(encoded), "ids"):
        return list(encoded)
    return [one for one, real in zip(encoded.ids, encoded.attention_mask, strict=True) if real]


# -- messages --------------------------------------------------------------------------------


def is_messages(given: Any) -> bool:
    """Whether something is a conversation: a list of `{"role": ..., "content": ...}`."""
    return isinstance(given, (list, tuple)) and bool(given) and all(map(_is_message, given))


def _is_message(item: Any) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get("role"), str)


def _check_messages(given: Any) -> None:
    """Raise ChatError for what was meant as messages and is not quite."""
    if _is_message(given):
        raise ChatError("a message is given, and messages are a list.\n  Write [message].")
    if not isinstance(given, (list, tuple)) or not any(map(_is_like_one, given)):
        return
    if not all(isinstance(item, Mapping) for item in given):
        raise ChatError(
            "a list of messages holds messages alone.\n  Several conversations are a list of such"
            " lists, and a message is a dict with 'role' and 'content'."
        )
    wrong = next(item for item in given if not _is_message(item))
    raise ChatError(
        f"a message needs a 'role', and this one has {', '.join(map(repr, wrong))}.\n"
        "  Write {'role': 'user', 'content': 'Hello'}."
    )


def _is_like_one(item: Any) -> bool:
    return isinstance(item, Mapping) and ("role" in item or "content" in item)


# -- encodings -------------------------------------------------------------------------------


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


def _is_id(value: Any) -> bool:
    """A whole number, or an array without axes that holds one."""
    if isinstance(value, (mx.array, np.ndarray)):
        array = as_array(value)
        return not is_handle(array) and array.ndim == 0 and mx.issubdtype(array.dtype, mx.integer)
    return isinstance(value, (int, np.integer))


def _is_row(value: Any) -> bool:
    array = as_array(value)
    return holds_ids(array) and len(value.shape) == 1


def holds_ids(value: Any) -> bool:
    """Whether an array can hold token ids: whole numbers, with at least one axis."""
    return isinstance(value, mx.array) and value.ndim > 0 and mx.issubdtype(value.dtype, mx.integer)


def as_array(value: Any) -> Any:
    """An array of another library as MLX's; anything else as it is."""
    if isinstance(value, mx.array) or not hasattr(type(value), "__array__"):
        return value
    plain = np.asarray(value)
    if plain.dtype.kind in "SUOMm":
        raise InputError(
            f"an array of {plain.dtype} is no input.\n  Give numbers, token ids, or texts."
        )
    return mx.array(plain)
