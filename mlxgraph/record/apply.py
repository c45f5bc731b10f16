"""`mg.apply`: any Python function of arrays, recorded as one opaque operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlxgraph.errors import (
    EscapedError,
    InterventionError,
    LookError,
    MLXGraphError,
    ShapeError,
    failed_intervention,
)
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import at_the_edge
from mlxgraph.graph import ops
from mlxgraph.graph.deferred import function_name
from mlxgraph.graph.named import example_of
from mlxgraph.graph.nested import leaves
from mlxgraph.graph.values import Opaque
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.originals import ARRAY, normal
from mlxgraph.mlx_facts.probes import holds_nothing, says_holds_nothing
from mlxgraph.record.as_it_is import check_views
from mlxgraph.record.conform import shape_and_dtype, told
from mlxgraph.record.escapes import holding_nothing
from mlxgraph.record.freeze import freeze
from mlxgraph.record.handle import describe, is_handle, open_recording
from mlxgraph.record.nested_proxy import first_array, is_nested
from mlxgraph.record.proxy import Proxy, wrap


@at_the_edge
def apply(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a Python function on recorded values, as it is, when the model runs.

    Args:
        fn: a pure function of arrays.  It may use numpy or look at values; then the pass stays
            eager unless `compile=True` forces it.
        args, kwargs: proxies, arrays and plain values in any nesting.

    Returns: a proxy of the function's result.  Called with no proxy it simply calls `fn`.
    """
    if not callable(fn) or is_handle(fn):
        shown = describe(fn) if is_handle(fn) else f"{fn!r:.60}"
        raise InterventionError(
            f"mg.apply runs a function, and {shown} is none.\n  at {here()}\n"
            "  Write `mg.apply(function, h)`."
        )
    handle = next(filter(is_handle, leaves((args, kwargs))), None)
    if handle is None or handle._recording is None:
        return fn(*args, **kwargs)
    recording = handle._recording
    frozen = tuple([freeze(value, recording) for value in args])
    named = tuple([(name, freeze(value, recording)) for name, value in kwargs.items()])
    return recording.result(ops.APPLY, (Opaque(fn), *frozen), named)


def edited_array(handle: Any, site: Any) -> Any:
    """What an intervention at a site is a function of: its value, of several arrays the first."""
    found = first_array(handle)
    if found is None:
        shown = shape_and_dtype(handle._template if is_nested(handle) else handle)
        raise ShapeError(f"{told(site)} is {shown}: there is no array to change", str(here()))
    return found


def changed(fn: Callable[[Any], Any], handle: Any) -> Any:
    """A function's result on a handle.

    The function is called with a proxy, so that what it does is recorded.  Where it cannot be
    recorded it runs as an opaque node.  The proxy is a copy: what the function has changed in it
    by then is not there twice.
    """
    check_function(fn, f"the intervention at {describe(handle)}")
    try:
        value = _tried(fn, handle)
    except MLXGraphError:
        raise
    except Exception as error:
        raise failed_intervention(function_name(fn), describe(handle), error) from error
    if value is None or (callable(value) and not isinstance(value, ARRAY)):
        raise InterventionError(_no_value(fn, value, describe(handle)))
    return value


def check_function(fn: Any, what: str) -> None:
    """Raise InterventionError for what is no function of one array.  Args: what: it is called."""
    example = example_of(fn)
    if example:
        raise InterventionError(
            f"{what} is iv.{function_name(fn)}, which makes interventions and is none itself.\n"
            f"  Write {example}."
        )
    if hasattr(fn, "build") and not callable(fn):
        raise InterventionError(f"{what} is not built yet.\n  Write .build() at its end.")
    if not callable(fn):
        raise InterventionError(
            f"{what} is no function, but a {type(fn).__name__}.\n"
            "  Give a function of one array, such as iv.scale(0.5); iv.replace_with(value) puts a"
            " value in place."
        )


def _no_value(fn: Any, value: Any, where: str) -> str:
    """What to say of a function that gave no array."""
    name = function_name(fn)
    if value is None:
        return (
            f"the function {name} at {where} returned nothing.\n"
            "  End it with `return h`, also where it changes h in place."
        )
    return (
        f"the function {name} at {where} returned the function {function_name(value)}, not an"
        f" array.\n  Call it: give {name}(...) as the intervention."
    )


def _tried(fn: Callable[[Any], Any], handle: Any) -> Any:
    recording, before = handle._recording, handle._node
    copy = wrap(recording, before, recording.infos[before].value)
    mark, key = recording.mark(), random_state.current()
    try:
        value = fn(copy)
    except (LookError, EscapedError):  # it needs the value, and this graph runs on its own
        return _opaque(fn, handle, mark, key)
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, MLXGraphError) or not says_holds_nothing(error):
            raise
        return _opaque(fn, handle, mark, key)
    escaped = isinstance(value, ARRAY) and type(value) is not Proxy and holds_nothing(value)
    if escaped or random_state.moved(key) or any(holding_nothing(recording.constants[mark[0] :])):
        return _opaque(fn, handle, mark, key)
    return handle if value is copy and copy._node is before else value


def _opaque(fn: Callable[[Any], Any], handle: Any, mark: Any, key: mx.array) -> Any:
    """The function as it is, and nothing of what was recorded and drawn when it was tried."""
    handle._recording.rewind(mark)
    random_state.restore(key)
    check_views(fn, handle)
    value = apply(fn, handle)
    # a list that it gives is an array, as where one is written
    return apply(_AsArray(fn), handle) if isinstance(value, list) else value


class _AsArray:
    """A function whose lists of numbers become arrays."""

    def __init__(self, fn: Callable[[Any], Any]):
        self._fn = fn
        self.__qualname__ = function_name(fn)

    def __call__(self, x: Any) -> mx.array:
        return mx.array(self._fn(x))


def normal_like(x: Any) -> mx.array:
    """Standard normal noise of an array's shape and dtype; on a proxy, drawn anew in every run."""
    if type(x) is Proxy:
        return open_recording(x).draw(ops.NORMAL_LIKE, (x,), {})
    return normal(x.shape, x.dtype)
