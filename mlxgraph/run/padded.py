"""Batches of several lengths: rows padded on the left and masked, each equal to its single run.

mlx-lm's batch caches know how to hide the padding from attention and to count positions from
each row's real start.  They are built inside the forward, from the padding as an array, so one
prepared run serves every mixture of lengths.
"""

from __future__ import annotations

import inspect
from typing import Any

import mlx.core as mx

from mlxgraph.errors import InputError
from mlxgraph.graph.nested import leaves
from mlxgraph.mlx_facts.batch_caches import NoBatchForm, hide_padding, own_caches

NOISE = 0.02  # of the largest logit: half precision and other kernels stay below, padding does not


def padded_forward(model: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run `model(tokens)` where row b starts with `padding[b]` columns that do not count.

    Args: args: `(tokens, padding)`, of shapes (batch, length) and (batch,).
    Raises: InputError where the model takes no cache, or one that cannot hide padding.
    """
    tokens, padding = args
    refuse_cache(kwargs)
    if not _takes_cache(model):
        raise _cannot_mask(f"{type(model).__name__}, which takes no cache,")
    caches = own_caches(model)
    if caches is None:
        raise _cannot_mask(type(model).__name__)
    try:
        batch = [hide_padding(cache, padding) for cache in caches]
    except NoBatchForm as error:
        raise _cannot_mask(error.kind) from None
    return model(tokens, cache=batch, **kwargs)


def refuse_cache(kwargs: dict[str, Any]) -> None:
    """Raise InputError for a cache: what is in it has one length."""
    if "cache" in kwargs:
        raise InputError(
            "texts of several lengths need a cache of their own, and a cache was given.\n"
            "  Trace texts of one length, or pad and mask them yourself."
        )


def check_masks(model: Any) -> None:
    """Try on a few tokens whether this model really hides its padding.

    Some models take a batch cache and mask wrongly, or not at all; wrong numbers would be all
    that shows.  One short row is compared with its own single run.

    Raises: InputError where they differ, or the model fails on the batch.
    """
    tokens, padding = mx.array([[0] * 4 + [1, 0, 1, 1, 0], [1, 0, 1] * 3]), mx.array([4, 0])
    name = type(model).__name__
    try:
        batch = _logits(padded_forward(model, (tokens, padding), {}))[0, 4:]
    except (ValueError, TypeError, RuntimeError, AttributeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise _cannot_mask(name) from error
    alone = _logits(model(tokens[:1, 4:]))[0]
    batch, alone = batch.astype(mx.float32), alone.astype(mx.float32)
    if mx.abs(batch - alone).max().item() > NOISE * max(mx.abs(alone).max().item(), 1e-6):
        raise _cannot_mask(name)


def _logits(output: Any) -> mx.array:
    """The first array of what a model returns."""
    return next(value for value in leaves(output) if isinstance(value, mx.array))


def _takes_cache(model: Any) -> bool:
    """Whether the model's own call (the hooked subclass's takes anything) has a `cache`."""
    calls = [vars(kind)["__call__"] for kind in type(model).__mro__ if "__call__" in vars(kind)]
    return any("cache" in inspect.signature(call).parameters for call in calls)


def _cannot_mask(what: str) -> InputError:
    return InputError(
        f"texts of several lengths cannot share a batch here: {what} cannot mask padding, and what"
        " it gives for a token depends on those after it.\n"
        "  Trace them one by one, or give texts of one length."
    )
