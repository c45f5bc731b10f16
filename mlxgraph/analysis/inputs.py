"""What the analyses take as a text: a string, token ids, or arrays for a custom model.

In: what the user gave.  Out: rows that a trace takes, and layers and positions that exist.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, NoLayerError, PositionError, SiteNameError
from mlxgraph.errors.source_line import here


def one_row(model: Traceable, text: Any) -> mx.array:
    """One text or conversation as an input of batch size 1: ids (1, length), or a float array.

    Raises: NoTokenizerError, InputError for no tokens or several texts.
    """
    if isinstance(text, str) or is_messages(text):
        text = model.encode(text)
    elif is_encoding(text):
        text = encoded_rows(model, text)
    if not isinstance(text, (list, tuple, mx.array, np.ndarray)):
        raise InputError(f"a text or token ids are needed, not a {type(text).__name__}.")
    if any(isinstance(item, str) or is_messages(item) for item in text):
        raise InputError("this takes one text at a time.\n  Write a loop over the texts.")
    try:
        row = mx.array(text)
    except (ValueError, TypeError) as error:
        kinds = ", ".join(sorted({type(item).__name__ for item in text}))
        raise InputError(
            f"a text or token ids are needed, and this holds {kinds}.\n  Write a text, or a list of"
            " whole numbers."
        ) from error
    if row.ndim == 1:
        row = row[None]
    if row.shape[0] != 1 or not row.size:
        raise InputError(
            f"this takes one text of at least one token, and was given shape {row.shape}.\n"
            "  Write a loop over the rows."
        )
    return row


def is_messages(given: Any) -> bool:
    """Whether something is for `model.encode`: a conversation, or a dict, which it refuses."""
    if isinstance(given, Mapping):
        return not is_encoding(given)
    is_list = isinstance(given, (list, tuple)) and bool(given)
    return is_list and all(isinstance(one, Mapping) and "role" in one for one in given)


def is_encoding(given: Any) -> bool:
    """Whether something is what a tokenizer returns: it has ids, and is no array or list."""
    is_dict = isinstance(given, Mapping) and "input_ids" in given
    return is_dict or hasattr(type(given), "attention_mask")


def encoded_rows(model: Traceable, encoding: Any) -> list[list[int]]:
    """The token ids of an encoding's rows, without padding, as a trace of it reads them."""
    with model.trace(encoding) as trace:
        pass
    assert trace.tokens is not None and trace.lengths is not None
    rows = zip(trace.tokens.tolist(), trace.lengths, strict=True)  # type: ignore[arg-type]
    return [row[len(row) - length :] for row, length in rows]  # type: ignore[index, misc]


def holds_tokens(array: mx.array) -> bool:
    """Whether an array holds token ids, not what a custom model takes."""
    return mx.issubdtype(array.dtype, mx.integer)


def choose_layers(model: Traceable, layers: Sequence[int] | int | None) -> list[int]:
    """Layer numbers, each once and in the order given; negative ones count from the end.

    Args: layers: one number, or several; all of them if None.
    Raises: BoundsError (an IndexError) for a layer that the model does not have.
    """
    count = len(model.layers)
    if layers is None:
        return list(range(count))
    several = isinstance(layers, (list, tuple, range, set, mx.array, np.ndarray))
    chosen = [layer_number(model, one) for one in (list(layers) if several else [layers])]  # type: ignore[arg-type]
    for layer in chosen:
        if not -count <= layer < count:
            raise NoLayerError("layers", layer, count, str(here()))
    return list(dict.fromkeys(layer % count for layer in chosen))


def layer_number(model: Traceable, layer: Any) -> int:
    """A layer's number, of the number itself or of the layer's name or handle."""
    if isinstance(layer, bool) or (isinstance(layer, str) and layer == "all"):
        raise InputError(
            f"{layer!r} is no layer.\n  Write layers=[0, 1], or leave layers out for all of them."
        )
    try:
        return operator.index(layer)
    except TypeError:
        pass
    names = [model.layers[k].path for k in range(len(model.layers))]
    try:
        paths = [name.removesuffix(".output") for name in model.sites(layer)]
    except SiteNameError:
        paths = []
    if len(paths) == 1 and paths[0] in names:
        return names.index(paths[0])
    raise InputError(
        f"{layer!r} is no layer.\n  Write its number, from 0 to {len(names) - 1}, or"
        " model.layers[2]."
    )


def whole_number(value: Any, what: str) -> int:
    """A whole number.  Raises: InputError.  Args: what: the keyword it was given by."""
    with suppress(TypeError):
        if not isinstance(value, bool):  # Python would take True for 1
            return operator.index(value)
    raise InputError(f"{what}={value!r:.40} is no whole number.\n  Write one, such as {what}=3.")


def check_model(model: Any) -> None:
    """Raise InputError for what cannot be traced, where a model comes first."""
    if not hasattr(type(model), "trace"):
        raise InputError(
            f"a model that can be traced comes first, and this is a {type(model).__name__}.\n"
            "  Write mg.get_activations(model, texts, layers); a module is one when it is wrapped,"
            " mg.InterpretableModel(module, tokenizer)."
        )


def names_of(model: Traceable, given: Any) -> list[str]:
    """The sites that names, patterns and module handles mean: a name that means one stays as it is.

    Args: given: several of them, or one.
    """
    found: list[str] = []
    for one in given if isinstance(given, (list, tuple, set, dict)) else [given]:
        names = model.sites(one)
        found += [one] if isinstance(one, str) and len(names) == 1 else names
    return found


def value_at(model: Traceable, name: str) -> Any:
    """A site's value inside a block, by a name as `names_of` gives it."""
    try:
        return model[name].output
    except SiteNameError:  # no module, but what it is called with
        module, _, port = name.rpartition(".")
        return model[module].input if port == "input" else model[module].inputs


def axes_at(
    model: Traceable, names: Iterable[str], rows: Sequence[Any]
) -> dict[str, tuple[int | None, list[int]]]:
    """For each site the axis of its rows and those of its positions, in a batch of these texts.

    Nearly all values are (batch, length, width).  Of any other a forward with a token more and one
    with a row more are asked which axes grow: heads come before positions inside an attention, and
    some models pass on several streams, stacked.

    Args: rows: token ids of each text, or arrays of a custom model, (length, ...).
    Returns: None for an axis of rows that is not there, or not one.
    """
    names = list(names)
    if isinstance(rows[0], mx.array):
        return dict.fromkeys(names, (0, [1]))
    count, length = len(rows), max(map(len, rows))
    shapes = _shapes(model, names, rows)
    odd = [name for name in names if len(shapes[name]) != 3 or shapes[name][:2] != (count, length)]
    found: dict[str, tuple[int | None, list[int]]] = dict.fromkeys(names, (0, [1]))
    if odd:
        longer = _shapes(model, odd, [[*row, row[-1]] for row in rows])
        more = _shapes(model, odd, [*rows, rows[0]])
        for name in odd:
            batch = _grown(shapes[name], more[name], count)
            found[name] = (
                batch[0] if len(batch) == 1 else None,
                _grown(shapes[name], longer[name], length),
            )
    return found


def _shapes(model: Traceable, names: list[str], rows: Sequence[Any]) -> dict[str, tuple[int, ...]]:
    with model.trace(list(rows)):
        return {name: tuple(first_array(value_at(model, name)).shape) for name in names}


def _grown(shape: tuple[int, ...], other: tuple[int, ...], size: int) -> list[int]:
    """The axes of this size that are one longer; none where anything else has changed."""
    if len(shape) != len(other):
        return []
    pairs = list(zip(shape, other, strict=True))
    found = [k for k, (a, b) in enumerate(pairs) if a != b]
    return found if all(pairs[k] == (size, size + 1) for k in found) else []


def with_axes_first(value: Any, rows: int, positions: int) -> Any:
    """A view of a site's value whose first two axes are those of rows and of positions."""
    if (rows, positions) == (0, 1):
        return value
    rest = [k for k in range(value.ndim) if k not in (rows, positions)]
    return value.transpose(rows, positions, *rest)


def check_position(position: int, length: int, what: str = "the text") -> int:
    """A position counted from the start.  Raises: PositionError (an IndexError)."""
    position = whole_number(position, "position")
    if not -length <= position < length:
        raise PositionError(position, length, what)
    return position % length


def first_array(value: Any) -> Any:
    """The array itself, or the first of a module's several outputs: the logits, if named so."""
    found = next(arrays_in(value), None)
    return value if found is None else found


def last_position(output: Any, rows: Any = 0) -> Any:
    """The last position's logits in what a model gives: (vocabulary,), or of several rows (rows,
    vocabulary).  An output of two axes is of rows, and has no positions."""
    logits = first_array(output)
    return logits[rows, -1] if logits.ndim > 2 else logits[rows]


def computed(*values: Any) -> None:
    """Compute what blocks saved.

    Raises: UnboundParamError for a param of an edit that stays, which nobody gave a value.
    """
    try:
        mx.eval(*values)
    except RuntimeError:
        for array in arrays_in(list(values)):
            array.tolist()  # a value that waits for a param says so
        raise


def arrays_in(value: Any) -> Iterator[Any]:
    """Every array of a nested value, or every handle on one; what is named logits comes first."""
    if isinstance(value, mx.array):
        yield value
        return
    if hasattr(type(value), "__entries__"):  # a handle on a nested value
        parts = dict(value.__entries__())
    elif isinstance(value, dict):
        parts = dict(value)
    elif isinstance(value, (list, tuple)):
        parts = dict(enumerate(value))
    else:
        parts = dict(getattr(value, "__dict__", {}))
    for part in ([parts["logits"]] if "logits" in parts else []) + list(parts.values()):
        yield from arrays_in(part)


def token_strings(model: Traceable, ids: Sequence[int]) -> dict[int, str]:
    """Each distinct token as text; as its number where there is no tokenizer."""
    name = str if model.tokenizer is None else model.token_to_str
    return {token: name(token) for token in set(ids)}
