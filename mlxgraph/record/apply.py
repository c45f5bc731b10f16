"""`mg.apply`: any Python function of arrays, recorded as one opaque operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlxgraph.errors import MLXGraphError
from mlxgraph.graph.node import APPLY
from mlxgraph.graph.values import Opaque
from mlxgraph.record.freeze import freeze
from mlxgraph.record.intercept import proxy_in
from mlxgraph.record.proxy import Nest, Proxy


def apply(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a Python function on recorded values, as it is, when the model runs.

    Args:
        fn: a pure function of arrays.  It may use numpy or look at values; then the pass stays
            eager unless `compile=True` forces it.
        args, kwargs: proxies, arrays and plain values in any nesting.

    Returns: a proxy of the function's result.  Called with no proxy it simply calls `fn`.
    """
    proxy = proxy_in(args)
    if proxy is None:
        proxy = proxy_in(kwargs.values())
    if proxy is None or proxy._recording is None:
        return fn(*args, **kwargs)
    recording = proxy._recording
    frozen = tuple([freeze(value, recording) for value in args])
    named = tuple([(name, freeze(value, recording)) for name, value in kwargs.items()])
    return recording.result(APPLY, (Opaque(fn), *frozen), named)


def apply_intervention(recording: Any, site: Any, fn: Callable[[Any], Any]) -> None:
    """Replace a site's value by a function of it.

    The function is called with the proxy, so that what it does is recorded.  Where it cannot be
    recorded it runs as an opaque node.  A site that holds several arrays is edited in its first.
    """
    handle = recording.read(site)
    while type(handle) is Nest:
        handle = handle[next(iter(handle))] if hasattr(handle._template, "keys") else handle[0]
    try:
        value = fn(handle)
        if _escaped(value):
            value = apply(fn, handle)
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, MLXGraphError) or "without a primitive" not in str(error):
            raise
        value = apply(fn, handle)
    if handle._base is None:
        recording.replace(site, value)
    else:
        recording.write(handle, value)


def _escaped(value: Any) -> bool:
    """Whether a function gave back an array that holds nothing."""
    if not isinstance(value, mx.array) or type(value) is Proxy:
        return False
    try:
        mx.async_eval(value)
    except RuntimeError as error:
        return "without a primitive" in str(error)
    except ValueError:
        return False
    return False
