"""Which axis of a value is that of the positions, and which operations keep it.

Both are found, not guessed: a forward on one token more shows which axes follow the length, one
with a cache which of these are of all tokens so far, and an operation that works on each position
by itself gives the same for some of them as for all.

In: censuses; a node and the axes of its inputs.  Out: axes, counted from the last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

from mlxgraph.evaluate.evaluate import Lookup, call_arguments, evaluate
from mlxgraph.graph import ops
from mlxgraph.graph.census import Census
from mlxgraph.graph.held import Along
from mlxgraph.graph.inside import PATTERN, SCORES, parted
from mlxgraph.graph.nested import is_container, leaves, unflatten
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import Site
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.dtypes import dtype_named
from mlxgraph.mlx_facts.originals import ARRAY

LENGTH = 3  # of what an operation is tried on
HAD, NEW = 2, 3  # tokens in the cache, and those of the forward, that tell axes apart
CLOSE = 1e-3  # of the largest value: kernels differ by shape; what mixes positions differs by more
UNKNOWN: frozenset[int] = frozenset()
Kind = tuple[tuple[int, ...], str]


def axes_of(site: Site, length: int, census: Census, longer: Census) -> Any:
    """A site's value with the axis of its positions in place of each array.

    Args: length: of the text of `census`; that of `longer` is one more.
    Returns: an axis from the last, None where nothing follows the length, a frozenset of axes where
        something does and it is not one axis of `length` (empty where it cannot be told).
    """
    value, other = census.values[site], longer.values.get(site)
    if not is_container(value):
        return _axis(value, other, length)
    mine, theirs = leaves(value), leaves(other)
    if len(mine) != len(theirs):
        return unflatten(value, [UNKNOWN if isinstance(leaf, ARRAY) else None for leaf in mine])
    found = [_axis(a, b, length) for a, b in zip(mine, theirs, strict=True)]
    return unflatten(value, found)


def _axis(value: Any, other: Any, length: int) -> Any:
    if not isinstance(value, ARRAY):
        return None
    if not isinstance(other, ARRAY) or value.ndim != other.ndim:
        return UNKNOWN
    grown = [k for k, (a, b) in enumerate(zip(value.shape, other.shape, strict=True)) if a != b]
    if not grown:
        return None
    if len(grown) == 1 and (value.shape[grown[0]], other.shape[grown[0]]) == (length, length + 1):
        return grown[0] - value.ndim
    return frozenset(k - value.ndim for k in grown)


def of_all_so_far(site: Site, axes: Any, short: Census) -> Any:
    """`axes` of a site where some of what follows the length is of all tokens so far.

    Args: short: the census of a forward on `NEW` tokens with a cache that holds `HAD`.
    Returns: an Along in place of each array that has such an axis; what cannot be told stays a
        frozenset.
    """
    there = short.values.get(site)
    if not is_container(axes):
        return _along(site, axes, there)
    mine, theirs = leaves(axes), leaves(there)
    if len(mine) != len(theirs):
        return axes
    return unflatten(axes, [_along(site, a, b) for a, b in zip(mine, theirs, strict=True)])


def _along(site: Site, axes: Any, there: Any) -> Any:
    if axes is None or not isinstance(there, ARRAY):
        return axes
    grown = frozenset({axes}) if type(axes) is int else axes
    if not grown or any(-axis > there.ndim for axis in grown):
        return axes
    held = [axis for axis in grown if there.shape[axis] == NEW]
    all_so_far = [axis for axis in grown if there.shape[axis] == HAD + NEW]
    if len(held) + len(all_so_far) != len(grown) or len(held) > 1 or len(all_so_far) > 1:
        return grown
    if not all_so_far:
        return held[0]
    return Along(held[0] if held else None, all_so_far[0], _pad(site, there))


def _pad(site: Site, value: mx.array) -> float | None:
    """What an attention has where a key is later than its query, where that is known."""
    name = (parted(site.path) or ("", ""))[1]
    if name == PATTERN:
        return 0.0
    return float(mx.finfo(value.dtype).min) if name == SCORES else None


def kept_axis(
    node: Node,
    axes: Mapping[Node, int],
    kind: Callable[[Node], Kind | None],
    modules: Callable[[], Mapping[str, Any]],
    given: Mapping[Node, Any],
) -> int | None:
    """The axis of a node's value that goes along with those of its inputs; None where it has none,
    or an operation mixes positions.

    It is tried on random values of three positions, on the first two of them and the last two.

    Args: kind: shape and dtype of a node as recorded; given: values of sources.
    """
    if node.op == ops.APPLY:
        return None  # a function that nobody can look into is not called for this
    before = random_state.current()
    try:
        values = {child: _example(child, axes.get(child), kind, given) for child in node.inputs}
        results = []
        for start, stop in ((0, LENGTH), (0, LENGTH - 1), (1, LENGTH)):
            window = {
                child: _cut(value, axes[child], start, stop) if child in axes else value
                for child, value in values.items()
            }
            results.append(_value(node, window.__getitem__, modules))
        return _agreed(results)
    except (ValueError, TypeError, IndexError, RuntimeError, KeyError, AttributeError):
        return None  # it does not take another number of positions
    finally:
        random_state.restore(before)


def over_keys(
    node: Node,
    axes: Mapping[Node, tuple[int, float | None]],
    kind: Callable[[Node], Kind | None],
    modules: Callable[[], Mapping[str, Any]],
    given: Mapping[Node, Any],
) -> tuple[int | None, float] | None:
    """What an operation does along axes of keys, some of which are later and hold a known number.

    It is tried on random values with two such keys more and without them.

    Args: axes: of inputs, each with what it holds for later keys, or None where that is anything.
    Returns: the axis of its value that goes along with them, None where it has none, and what that
        holds for later keys; None where later keys change what comes out.
    """
    if node.op == ops.APPLY:
        return None
    before, found = random_state.current(), set()
    try:
        for sign in (None, 1.0, -1.0):
            values = {c: _keyed(_example(c, None, kind, given), c, axes, sign) for c in node.inputs}
            short = {
                c: _cut(v, axes[c][0], 0, LENGTH) if c in axes else v for c, v in values.items()
            }
            results = [_value(node, of.__getitem__, modules) for of in (values, short)]
            found.add(_past_keys(*results))
    except (ValueError, TypeError, IndexError, RuntimeError, KeyError, AttributeError):
        return None
    finally:
        random_state.restore(before)
    return found.pop() if len(found) == 1 else None


def _keyed(
    value: Any, child: Node, axes: Mapping[Node, tuple[int, float | None]], sign: float | None
) -> Any:
    """An example with `LENGTH` keys, and two later ones."""
    if child not in axes:
        return value
    axis, pad = axes[child]
    shape = [*value.shape]
    shape[axis] = LENGTH + 2
    drawn = mx.random.uniform(shape=shape, key=mx.random.key(11)) - 0.5
    drawn = (drawn if sign is None else sign * mx.abs(drawn)).astype(value.dtype)
    if pad is None:
        return drawn
    shape[axis] = 2
    first = _cut(drawn, axis, 0, LENGTH)
    return mx.concatenate([first, mx.full(shape, pad, value.dtype)], axis=axis)


def _past_keys(whole: Any, short: Any) -> tuple[int | None, float] | None:
    if not isinstance(whole, ARRAY) or not isinstance(short, ARRAY) or whole.ndim != short.ndim:
        return None
    grown = [k for k, (a, b) in enumerate(zip(whole.shape, short.shape, strict=True)) if a != b]
    if not grown:
        return (None, 0.0) if _close(whole, short) else None
    if len(grown) > 1 or (whole.shape[grown[0]], short.shape[grown[0]]) != (LENGTH + 2, LENGTH):
        return None
    axis = grown[0] - whole.ndim
    later = _cut(whole, axis, LENGTH, LENGTH + 2).astype(mx.float32)
    pad = later.reshape(-1)[0].item()
    is_one = mx.all(later == pad).item() and _close(_cut(whole, axis, 0, LENGTH), short)
    return (axis, pad) if is_one else None


def _value(node: Node, lookup: Lookup, modules: Callable[[], Mapping[str, Any]]) -> Any:
    if node.op == ops.CALL:
        path, args, kwargs = call_arguments(node, lookup)
        return modules()[path](*args, **kwargs)
    return evaluate(node, lookup)


def _example(
    node: Node, axis: int | None, kind: Callable[[Node], Kind | None], given: Mapping[Node, Any]
) -> Any:
    if node in given:
        return given[node]
    known = kind(node)
    if known is None:
        return 1.0
    shape, dtype = list(known[0]), dtype_named(known[1])
    if axis is not None:
        shape[axis] = LENGTH
    drawn = mx.random.uniform(shape=shape, key=mx.random.key(7))
    if mx.issubdtype(dtype, mx.inexact):
        return (drawn - 0.5).astype(dtype)
    return (drawn > 0.5).astype(dtype)


def _cut(value: mx.array, axis: int, start: int, stop: int) -> mx.array:
    where = [slice(None)] * value.ndim
    where[axis] = slice(start, stop)
    return value[tuple(where)]


def _agreed(results: list[Any]) -> int | None:
    whole, first, last = results
    if not all(isinstance(one, ARRAY) for one in results) or whole.ndim != first.ndim:
        return None
    grown = [k for k, (a, b) in enumerate(zip(whole.shape, first.shape, strict=True)) if a != b]
    if len(grown) != 1 or whole.shape[grown[0]] != LENGTH or first.shape != last.shape:
        return None
    axis = grown[0] - whole.ndim
    same = _close(_cut(whole, axis, 0, LENGTH - 1), first)
    return axis if same and _close(_cut(whole, axis, 1, LENGTH), last) else None


def _close(one: mx.array, other: mx.array) -> bool:
    if one.shape != other.shape:
        return False
    one, other = one.astype(mx.float32), other.astype(mx.float32)
    size = mx.abs(other).max().item()
    return bool(mx.allclose(one, other, rtol=0.0, atol=CLOSE * size + 1e-6, equal_nan=True).item())
