"""A block at few positions: its queries at those alone, its keys and values at all.

The block is run as a prompt in two chunks would be, with a cache: once on all positions, of which
only what goes into the cache is ever computed, since nobody looks at the rest, and once on the
wanted ones, which find keys and values there.

In: how the block is called.  Out: its output at the wanted positions.  Never: evaluates an array.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.graph.site import Site
from mlxgraph.mlx_facts.originals import ARRAY

Original = Callable[..., Any]
VALUES = (str, int, float, bool, type(None))
CAUSAL = "causal"  # a mask; a single query has none, as in a step of one token


class KeysAndValues:
    """What the attention of a block asks of a cache: keys and values of all positions, which the
    first pass leaves here and the second finds.

    Anything else that a cache of mlx-lm's can do is not here, and a model that asks for it is left
    alone.
    """

    __slots__ = ("offset", "_kept", "_asked")

    def __init__(self) -> None:
        self.offset = 0
        self._kept: Any = None
        self._asked = 0

    @classmethod
    def of(cls, keys: mx.array, values: mx.array | None, start: int) -> KeysAndValues:
        """What another cache holds after a first pass, for a second that begins at `start`."""
        made = cls()
        made._kept, made._asked, made.offset = (keys, values), 1, start
        return made

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """All keys and values, (batch, heads, length, head dimension)."""
        self._asked += 1
        if self._asked > 2:
            raise TypeError("a block with several attentions")
        if self._kept is None:
            self._kept = keys, values
        self.offset += keys.shape[2]
        return self._kept  # type: ignore[no-any-return]

    def go_to(self, start: int) -> None:
        """What comes next begins at this position."""
        if self._asked != 1:
            raise TypeError("a block without an attention")
        self.offset = start


class AtPositions(NamedTuple):
    """How the last block is run at positions `start` to `stop` of `length`, `stop` excluded.

    Attributes:
        path: the block's; norm: where its stream enters the final norm.
        names: its parameters, in their order, the first of them the stream's.
        kinds: what each of its arguments is, but for the cache: an array's dtype and number of
            axes, or a value itself.
        axes: of arrays, by parameter, the axes that are as long as the text, from the last on.
    """

    path: str
    norm: Site
    start: int
    stop: int
    length: int
    names: tuple[str, ...]
    kinds: Mapping[str, Any]
    axes: Mapping[str, tuple[int, ...]]

    def run(self, original: Original, args: tuple, kwargs: dict[str, Any]) -> mx.array:
        """The block's output at the positions alone, (rows, stop - start, width), lazy.

        Args: original: the block's own call, as a hook is given it; args, kwargs: what it is
            called with, with any number of rows, as many in all arrays that have rows.

        A call that is not like the one in the census is run at all positions, and cut.
        """
        if not self.fits(args, kwargs):
            whole: mx.array = original(*args, **kwargs)
            return whole[:, self.start : self.stop]
        cache = KeysAndValues()
        self._pass(original, args, kwargs, 0, cache)  # lazy: its keys and values are used alone
        cache.go_to(self.start)
        return self._pass(original, args, kwargs, self.start, cache)

    def fits(self, args: tuple, kwargs: Mapping[str, Any]) -> bool:
        """Whether a call's arguments are such as those in the census, but for the rows."""
        given = named(self.names, args, kwargs)
        if given is None or kinds_of(given) != self.kinds:
            return False
        return all(
            given[name].shape[axis] == self.length
            for name, axes in self.axes.items()
            for axis in axes
        )

    def _pass(
        self,
        original: Original,
        args: tuple,
        kwargs: dict[str, Any],
        start: int,
        cache: KeysAndValues,
    ) -> mx.array:
        """The block on positions from `start` to `stop`, whose keys are all up to `stop`."""

        more = self.stop - start > 1

        def part(name: str, value: Any) -> Any:
            axes = self.axes.get(name)
            if axes is None:
                return value if type(value) is not str or value != CAUSAL or more else None
            index = [slice(None)] * value.ndim
            index[axes[0]] = slice(start, self.stop)
            for axis in axes[1:]:
                index[axis] = slice(0, self.stop)
            whole = (start, self.stop) == (0, self.length)
            return value if whole else value[tuple(index)]

        given = dict(zip(self.names, args, strict=False)) | kwargs
        parts = {name: part(name, value) for name, value in given.items()} | {"cache": cache}
        positional = [parts.pop(name) for name in self.names[: len(args)]]
        result: mx.array = original(*positional, **parts)
        return result


def named(names: tuple[str, ...], args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """A call's arguments by name, without a cache; None where it has one, or other names."""
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    if len(args) > len(names) or not set(given) <= set(names) or names[0] not in given:
        return None
    if given.pop("cache", None) is not None:
        return None
    return given


def kinds_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """What arguments are: of an array the dtype and the number of axes, of the rest the value."""
    return {
        name: (str(value.dtype), value.ndim)
        if isinstance(value, ARRAY)
        else (type(value), value if isinstance(value, VALUES) else None)
        for name, value in given.items()
    }
