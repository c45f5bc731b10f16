"""Batches of several lengths: rows padded on the left and masked, each equal to its single run.

mlx-lm's batch caches know how to hide the padding from attention and to count positions from
each row's real start.  They are built inside the forward, from the padding as an array, so one
compiled pass serves every mixture of lengths.
"""

from __future__ import annotations

import inspect
from typing import Any

import mlx.core as mx
from mlx_lm.models import cache as caches

from mlxgraph.errors import InputError
from mlxgraph.graph.nested import leaves

NOISE = 0.02  # of the largest logit: half precision and other kernels stay below, padding does not


def padded_forward(model: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run `model(tokens)` where row b starts with `padding[b]` columns that do not count.

    Args: args: `(tokens, padding)`, of shapes (batch, length) and (batch,).
    Raises: InputError where the model takes no cache, or one that cannot hide padding.
    """
    tokens, padding = args
    if "cache" in kwargs:
        raise InputError(
            "texts of several lengths need a cache of their own, and a cache was given.\n"
            "  Trace texts of one length, or pad and mask them yourself."
        )
    if not _takes_cache(model):
        raise _cannot_mask(f"{type(model).__name__}, which takes no cache,")
    return model(tokens, cache=[_batched(c, padding) for c in _own_caches(model)], **kwargs)


def check_masks(model: Any) -> None:
    """Try on a few tokens whether this model really hides its padding.

    Some models take a batch cache and mask wrongly, or not at all; wrong numbers would be all
    that shows.  One short row is compared with its own single run.

    Raises: InputError where they differ, or the model fails on the batch.
    """
    tokens, padding = mx.array([[0] * 4 + [1, 0, 1, 1, 0], [1, 0, 1] * 3]), mx.array([4, 0])
    name = type(model).__name__
    try:
        batch = leaves(padded_forward(model, (tokens, padding), {}))[0][0, 4:]
    except (ValueError, TypeError, RuntimeError, AttributeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise _cannot_mask(name) from error
    alone = leaves(model(tokens[:1, 4:]))[0][0]
    batch, alone = batch.astype(mx.float32), alone.astype(mx.float32)
    if mx.abs(batch - alone).max().item() > NOISE * max(mx.abs(alone).max().item(), 1e-6):
        raise _cannot_mask(name)


def _takes_cache(model: Any) -> bool:
    """Whether the model's own call (the hooked subclass's takes anything) has a `cache`."""
    calls = [vars(kind)["__call__"] for kind in type(model).__mro__ if "__call__" in vars(kind)]
    return any("cache" in inspect.signature(call).parameters for call in calls)


def _own_caches(model: Any) -> list[Any]:
    if hasattr(model, "make_cache"):
        return model.make_cache()
    if not hasattr(model, "layers"):
        raise _cannot_mask(type(model).__name__)
    return [caches.KVCache() for _ in model.layers]


def _batched(cache: Any, padding: mx.array) -> Any:
    """The batch form of one layer's cache, with the padding hidden."""
    rows = [0] * padding.shape[0]
    if type(cache) is caches.CacheList:
        return caches.CacheList(*[_batched(inner, padding) for inner in cache.caches])
    if type(cache) is caches.ArraysCache:
        cache.left_padding = padding
        return cache
    if type(cache) is caches.KVCache:
        batch: Any = caches.BatchKVCache(rows)
    elif type(cache) is caches.RotatingKVCache and not cache.keep:
        batch = caches.BatchRotatingKVCache(cache.max_size, rows)
    else:
        raise _cannot_mask(type(cache).__name__)
    batch.left_padding = padding
    batch.offset = -padding
    return batch


def _cannot_mask(what: str) -> InputError:
    return InputError(
        f"texts of several lengths cannot share a batch here: {what} cannot mask padding.\n"
        "  Trace them one by one, or give texts of one length."
    )
