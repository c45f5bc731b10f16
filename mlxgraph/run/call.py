"""A call: all that one forward is given, as one value.

In: arguments, keyword arguments, and how the model is called with them.  Out: a `Call`, whose `key`
decides which census and which prepared run fit it.
Arrays count by shape and dtype, plain values by value.  Anything else (a cache object, say) carries
state that a trace would bake in, so a call with such inputs always runs eagerly.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.graph.census import Census
from mlxgraph.graph.nested import (
    entries,
    has_attributes,
    is_given_value,
    map_nested,
)
from mlxgraph.mlx_facts.arrays import same_data
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.placeholders import placeholder

_PLAIN = (int, float, str, bool, bytes, type(None))
Forward = Callable[[Any, tuple, dict[str, Any]], Any]


def call_model(model: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The plain forward."""
    return model(*args, **kwargs)


class Call(NamedTuple):
    """The inputs of one forward, and how the model is called with them.

    Attributes:
        args, kwargs: what `forward` is given, in any nesting.
        key: equal for calls that one census and one prepared run fit.
        arrays: the arrays among the inputs, from left to right.
        plain: whether the inputs are nothing but arrays and plain values.
        forward: calls a model with the inputs: as they are, or padded and masked.
        tokens: the token ids, (batch, length), padding included; None for other inputs.
        lengths: how many tokens of each row are real.
        turned: whether rows of several lengths are padded on the right (`run.turned`), in `arrays`;
            in `tokens` they are padded on the left all the same.
        given: `(args, kwargs)` themselves, where they hold lists, dicts or objects that a forward
            may change; `args` and `kwargs` are copies.
    """

    args: tuple
    kwargs: dict[str, Any]
    key: Any
    arrays: list[mx.array]
    plain: bool
    forward: Forward = call_model
    tokens: mx.array | None = None
    lengths: list[int] | None = None
    turned: bool = False
    given: tuple[tuple, dict[str, Any]] | None = None

    @property
    def is_ragged(self) -> bool:
        """Whether the rows have different numbers of real tokens."""
        return self.lengths is not None and min(self.lengths) != max(self.lengths)

    @property
    def ragged_lengths(self) -> tuple[int, ...] | None:
        """What about the lengths decides what positions mean: nothing where all are the same."""
        return tuple(self.lengths or ()) if self.is_ragged else None

    def without_padding(self, number: int) -> mx.array:
        """One of the arrays; of token ids the real ones, with 0 for what is masked."""
        array = self.arrays[number]
        if number or not self.is_ragged:
            return array
        columns, lengths = mx.arange(array.shape[1]), mx.array(self.lengths or ())[:, None]
        if self.turned:
            return mx.where(columns < lengths, array, 0)
        return mx.where(columns >= array.shape[1] - lengths, array, 0)

    def with_arrays(self, arrays: Iterable[mx.array]) -> Call:
        """The call with other arrays in place of its own."""
        arrays = list(arrays)
        args, kwargs = self.filled(arrays)
        return self._replace(args=args, kwargs=kwargs, arrays=arrays, given=None)

    def itself(self) -> Call:
        """The call with what the user gave, to be changed as the bare forward would change it."""
        if self.given is None:
            return self
        args, kwargs = self.given
        arrays: list[mx.array] = []
        _map_given(self.given, lambda v: arrays.append(v) if isinstance(v, ARRAY) else None)
        return self._replace(args=args, kwargs=kwargs, arrays=arrays)

    def filled(self, arrays: Iterable[mx.array]) -> tuple[tuple, dict[str, Any]]:
        """The arguments with other arrays in place of the call's own."""
        rest = iter(arrays)
        return _map_given(
            (self.args, self.kwargs), lambda v: next(rest) if isinstance(v, ARRAY) else v
        )

    def without_values(self) -> Call:
        """The call with placeholders for its arrays: what may be kept of it for long."""
        if not self.plain:
            return self
        return self.with_arrays([placeholder(array.shape, array.dtype) for array in self.arrays])

    def again(self) -> Call:
        """The call for another run: with copies of whatever a forward may change."""
        if self.plain and self.given is None:
            return self
        return self._with_copies()

    def _with_copies(self) -> Call:
        arrays: list[mx.array] = []

        def copied(value: Any) -> Any:
            if isinstance(value, ARRAY):
                arrays.append(same_data(value))
                return arrays[-1]
            return value if isinstance(value, _PLAIN) else copy.deepcopy(value)

        args, kwargs = _map_given((self.args, self.kwargs), copied)
        own = None if self.given is None else (args, kwargs)
        return self._replace(args=args, kwargs=kwargs, arrays=arrays, given=own)


def is_stateful(call: Call, census: Census) -> bool:
    """Whether a forward changes what it is given: a cache, of whatever kind."""
    return not call.plain or census.changes


def _map_given(value: Any, leaf: Callable[[Any], Any]) -> Any:
    return map_nested(value, leaf, is_given_value)


def describe_call(args: tuple, kwargs: dict[str, Any], **about: Any) -> Call:
    """A call, with arrays of its own on the inputs' data as they are now.

    Args: about: `forward`, `tokens` and `lengths`, where they are not what a plain call has.
    """
    forward = about.get("forward", call_model)
    if len(args) == 1 and not kwargs and isinstance(args[0], ARRAY):
        array = same_data(args[0])
        key: Any = (forward, array.shape, array.dtype)
        return Call((array,), kwargs, key, [array], True, **about)
    if any(map(_is_changeable, (*args, *kwargs.values()))):
        about["given"] = (args, kwargs)
    args, kwargs = _map_given((args, kwargs), lambda v: same_data(v) if isinstance(v, ARRAY) else v)
    described = _Description()
    key = (forward, described.of((args, kwargs)))
    return Call(args, kwargs, key, described.arrays, described.plain, **about)


def _is_changeable(value: Any) -> bool:
    """Whether a value is or holds a list, a dict or an object with attributes."""
    if isinstance(value, ARRAY) or not is_given_value(value):
        return False
    return not isinstance(value, tuple) or any(map(_is_changeable, tuple.__iter__(value)))


class _Description:
    """What one walk over the inputs finds."""

    def __init__(self) -> None:
        self.arrays: list[mx.array] = []
        self.plain = True

    def of(self, value: Any) -> Any:
        if isinstance(value, ARRAY):
            self.arrays.append(value)
            return (mx.array, value.shape, value.dtype)
        if is_given_value(value):
            if isinstance(value, dict) or has_attributes(value):
                inside = tuple((name, self.of(item)) for name, item in entries(value))
                return (type(value), inside)
            return (type(value), tuple(self.of(item) for item in value))
        if isinstance(value, float):
            return (float, repr(value))  # 0.0 and -0.0 are equal, and not the same
        if isinstance(value, _PLAIN):
            return (type(value), value)
        self.plain = False
        return (type(value), id(value))
