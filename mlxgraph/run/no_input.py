"""Inputs that a model cannot be run on: what it raises, said as a mistake in what it was given.

In: what a forward was given, and what it raised.  Out: an InputError, or None where the error is
the model's own.  A model of the user's may take anything; so nothing is refused that runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlxgraph.errors import InputError, MLXGraphError
from mlxgraph.graph.nested import leaves
from mlxgraph.graph.values import dtype_name
from mlxgraph.mlx_facts.dtypes import whole_range
from mlxgraph.mlx_facts.modules import is_embedding
from mlxgraph.mlx_facts.originals import ARRAY

_GIVE = "Give a text, texts, token ids (a list or an array of whole numbers), or an encoding."


def raise_no_input(
    args: tuple, kwargs: dict[str, Any], error: Exception, modules: Iterable[Any]
) -> None:
    """Raise an InputError in place of an error of the model's, where it comes of its inputs."""
    ours = no_input(args, kwargs, error, modules)
    if ours is not None:
        raise ours from error


def no_input(
    args: tuple, kwargs: dict[str, Any], error: Exception, modules: Iterable[Any]
) -> InputError | None:
    """What to raise in place of an error of the model's.  Args: modules: those of the model."""
    if isinstance(error, MLXGraphError):
        return None
    given = [*args, *kwargs.values()]
    arrays = [value for value in leaves(given) if isinstance(value, ARRAY)]
    said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if not given:
        return InputError(f"the model was given no input.\n  {_GIVE}\n  The model says: {said}")
    texts = [name for name, value in kwargs.items() if _is_text(value)]
    if texts and not arrays:
        return InputError(
            f"{texts[0]}= was given as text, and the model takes numbers there.\n  Write"
            f" model.trace(text): an input without a name is encoded.\n  The model says: {said}"
        )
    if not arrays:
        kinds = " and ".join(dict.fromkeys(_kind(value) for value in given))
        return InputError(f"the model cannot run on {kinds}.\n  {_GIVE}\n  The model says: {said}")
    (first, *others) = arrays
    are_ids = whole_range(first.dtype) is not None and first.ndim < 3
    if others or len(given) > 1 or (are_ids and first.size):
        return None
    if not any(map(is_embedding, modules)):
        return None
    if are_ids:
        return InputError(
            f"an array {tuple(first.shape)} has no tokens: there is nothing to run.\n"
            f"  Give it one, such as the begin-of-text token.\n  The model says: {said}"
        )
    return InputError(
        f"the model cannot run on an array {tuple(first.shape)} {dtype_name(first.dtype)}.\n"
        "  Token ids are whole numbers, of shape (length,) or (batch, length).\n"
        f"  The model says: {said}"
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, (list, tuple)) and bool(value) and all(isinstance(v, str) for v in value)
    )


def _kind(value: Any) -> str:
    if callable(value) and hasattr(value, "__qualname__"):
        return f"the function {value.__qualname__}"
    return f"a {type(value).__name__}"
