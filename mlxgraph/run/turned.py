"""Batches of several lengths on models that cannot hide padding: rows padded on the right.

A causal model's numbers at a token do not depend on what comes after it, so padding on the right
needs no mask and no cache.  Rows are shown, and edited, as if they were padded on the left, each
ending in the last column: every value with a row's positions is turned, row by row, when a graph
reads it, and turned back when it goes on.

    the model's      A B C . .        shown     . . A B C
                     D E F G H                  D E F G H

Which axes are those of rows and of positions is found, not guessed: they grow with a row and with
a token more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import mlx.core as mx

from mlxgraph.errors import SharedByRowsError
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import at_the_edge
from mlxgraph.graph.census import Census
from mlxgraph.graph.nested import entries, leaves, map_nested, rebuilt, unflatten
from mlxgraph.graph.site import Site
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.run.call import Call
from mlxgraph.run.padded import refuse_cache

SURE = {mx.float32: 1e-4}  # of the largest logit: the same numbers but for the order of sums
NOISE = 0.02  # of it in half precision


def _refused(name: str) -> Callable[..., Any]:
    def method(self: SharedByRows, *_: Any) -> Any:
        raise self.refusal()

    method.__name__ = name
    return at_the_edge(method)


class SharedByRows:
    """What stands for an array that cannot be right for every row where texts of several lengths
    are turned: it has positions and no rows; or rows and no positions, and then it may be what a
    forward has come to after the padding."""

    __slots__ = ("shape",)

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    def __repr__(self) -> str:
        return f"<{self.shape}, shared by rows of several lengths: trace them one by one to see it>"

    def refusal(self, where: str = "") -> SharedByRowsError:
        """The error of who computes with it."""
        return SharedByRowsError(self.shape, where or str(here()))

    @at_the_edge
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python and libraries ask of any object
            raise AttributeError(name)
        raise self.refusal()


for _sign in ("add", "sub", "mul", "truediv", "matmul", "pow", "mod", "floordiv"):
    for _kind in ("", "r", "i"):
        setattr(SharedByRows, f"__{_kind}{_sign}__", _refused(f"__{_kind}{_sign}__"))
for _name in "neg abs float int bool len iter getitem setitem array".split():
    setattr(SharedByRows, f"__{_name}__", _refused(f"__{_name}__"))


def turned_forward(model: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run `model(tokens)` on rows that are padded on the right; what comes out is so too.

    Args: args: `(tokens, padding)`: (batch, length), and how many columns of each row do not count.
    """
    refuse_cache(kwargs)
    return model(args[0], **kwargs)


def rows_turned(tokens: mx.array, padding: mx.array) -> mx.array:
    """Rows that were padded on the left, padded on the right."""
    return _turned(tokens, 0, 1, -padding)


def is_causal(model: Any) -> bool:
    """Try on a few tokens whether what comes after a row leaves its numbers alone."""
    row, longer = [1, 0, 1, 1, 0], [1, 0, 1] * 3
    try:
        both = _logits(model(mx.array([row + [0] * 4, longer])))
        for batch, tokens in zip(both, (row, longer), strict=True):
            alone = _logits(model(mx.array([tokens])))[0]
            sure = SURE.get(alone.dtype, NOISE)
            alone, batch = (x.astype(mx.float32) for x in (alone, batch[: len(tokens)]))
            if mx.abs(batch - alone).max().item() > sure * max(mx.abs(alone).max().item(), 1e-6):
                return False
    except (ValueError, TypeError, RuntimeError, AttributeError, IndexError):
        return False
    return True


def _logits(output: Any) -> mx.array:
    return next(value for value in leaves(output) if isinstance(value, ARRAY))


# -- which axes -----------------------------------------------------------------------------------


def note_axes(census: Census, call: Call, take: Callable[[Call], Census]) -> None:
    """Enter into a census which axes of each site's value are turned.

    Args: take: takes the census of another call: of a token more, and of a row more.
    """
    tokens, padding = call.arrays[:2]
    rows, length = tokens.shape
    others = (
        take(_of_shape(call, tokens, padding, rows, length + 1)),
        take(_of_shape(call, tokens, padding, rows + 1, length)),
    )
    for site, value in census.values.items():
        seen = [leaves(other.values.get(site)) for other in others]
        mine = leaves(value)
        axes: list[Any]
        if any(len(found) != len(mine) for found in seen):
            axes = [SharedByRows if isinstance(leaf, ARRAY) else None for leaf in mine]
        else:
            both = zip(mine, *seen, strict=True)
            axes = [_axes(value, longer, more, rows, length) for value, longer, more in both]
        if any(axes):
            census.turns[site] = axes
            census.values[site] = _shown(value, axes)


def and_inside(census: Census, call: Call, take: Callable[[Call], Census]) -> None:
    """Have the axes noted of sites inside modules too, when the census is first asked for these."""
    look, call = census.look, call.without_values()

    def take_inside(other: Call) -> Census:
        taken = take(other)
        taken.look_inside()
        return taken

    def look_and_note(plain: Census) -> Census:
        assert look is not None
        fuller = look(plain)
        note_axes(fuller, call, take_inside)
        return fuller

    census.look = look_and_note


def _of_shape(call: Call, tokens: mx.array, padding: mx.array, rows: int, length: int) -> Call:
    arrays = [
        mx.zeros((rows, length), dtype=tokens.dtype),
        mx.zeros((rows,), dtype=padding.dtype),
        *call.arrays[2:],
    ]
    return call.with_arrays(arrays)


def _axes(value: Any, longer: Any, more: Any, rows: int, length: int) -> Any:
    """The axis of an array's rows and those of its positions; `SharedByRows` where it has one and
    not the other."""
    if not isinstance(value, ARRAY):
        return None
    positions, batch = (
        grown_axes(value.shape, other.shape if isinstance(other, ARRAY) else None, size)
        for other, size in ((longer, length), (more, rows))
    )
    if positions == []:
        return SharedByRows if batch != [] else None  # a state after the last token, or one token's
    if positions is None or batch is None or len(batch) != 1 or batch[0] in positions:
        return SharedByRows
    return (*batch, *positions)


def grown_axes(
    shape: tuple[int, ...], other: tuple[int, ...] | None, size: int
) -> list[int] | None:
    """The axes that have become longer: each from `size` by one, and no other; or None."""
    if other is None or len(shape) != len(other):
        return None
    pairs = list(zip(shape, other, strict=True))
    found = [k for k, (a, b) in enumerate(pairs) if a != b]
    return found if all(pairs[k] == (size, size + 1) for k in found) else None


def _shown(value: Any, axes: list[Any]) -> Any:
    rest = iter(axes)

    def leaf(one: Any) -> Any:
        return SharedByRows(one.shape) if next(rest) is SharedByRows else one

    return map_nested(value, leaf)


# -- turning --------------------------------------------------------------------------------------


class Turning:
    """Turns the values of one run.

    Args: axes: of each site, those of its arrays; padding: of each row, (batch,).
    """

    def __init__(self, axes: Mapping[Site, list[Any]], padding: mx.array):
        self._axes = axes
        self._padding = padding

    def shown(self, site: Site, value: Any) -> Any:
        """A site's value as a graph sees it.

        The padding comes after the text in the forward, and is made of it: what is computed of a
        whole row and differentiated must not come back to the text that way.
        """
        return self._each(site, value, self._shown, lambda one: SharedByRows(one.shape))

    def back(self, site: Site, value: Any) -> Any:
        """A value of a graph's as the model goes on with it."""
        return self._each(site, value, partial(_turned, by=-self._padding), _unwritten)

    def _shown(self, value: mx.array, batch: int, axis: int) -> mx.array:
        value = _turned(value, batch, axis, self._padding)
        columns = mx.arange(value.shape[axis])[None] >= self._padding[:, None]
        is_text = _along(columns, value, batch, axis)
        return mx.where(is_text, value, mx.stop_gradient(value))

    def changed(self, site: Site, value: Any, shown: Any, edited: Any) -> Any:
        """A site's value with what was edited of it; the rest are the objects themselves."""
        if edited is shown:
            return value
        return _changed(value, shown, edited, self.back(site, edited))

    def _each(self, site: Site, value: Any, *ways: Callable[..., Any]) -> Any:
        axes = self._axes.get(site)
        if axes is None:
            return value
        return unflatten(value, list(_leaves_turned(leaves(value), axes, *ways)))


def _changed(value: Any, shown: Any, edited: Any, turned: Any) -> Any:
    if edited is shown:
        return value
    parts = [entries(one) for one in (value, shown, edited, turned)]
    keys = [[key for key, _ in part] for part in parts]
    if not keys[0] or any(found != keys[0] for found in keys):
        return value if type(turned) is SharedByRows else turned
    four = zip(*parts, strict=True)
    return rebuilt(turned, [_changed(*(item for _, item in each)) for each in four])


def _leaves_turned(
    found: list[Any],
    axes: list[Any],
    turn: Callable[..., mx.array],
    shared: Callable[[Any], Any],
) -> Iterator[Any]:
    for value, along in zip(found, axes, strict=True):
        if type(along) is tuple:
            batch, *positions = along
            for axis in positions:
                value = turn(value, batch, axis)
        yield shared(value) if along is SharedByRows else value


def _unwritten(value: Any) -> Any:
    """What stands for what rows share.  Raises: SharedByRowsError for an array written there."""
    if type(value) is not SharedByRows:
        raise SharedByRows(value.shape).refusal("a run of texts of several lengths")
    return value


def _turned(value: mx.array, batch: int, axis: int, by: mx.array) -> mx.array:
    """Every row with its positions moved to the right by its own number, around the end."""
    length = value.shape[axis]
    columns = (mx.arange(length)[None] - by[:, None]) % length
    return mx.take_along_axis(value, _along(columns, value, batch, axis), axis=axis)


def _along(columns: mx.array, value: mx.array, batch: int, axis: int) -> mx.array:
    """Something for each row and position, (rows, positions), on these two axes of a value."""
    shape = [1] * value.ndim
    shape[batch], shape[axis] = value.shape[batch], value.shape[axis]
    return (columns.T if batch > axis else columns).reshape(shape)
