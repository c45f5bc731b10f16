"""One forward of a batch of prompts, and of it the rows that are kept, one after the other.

In: prompts, and the positions of each.  Out: for each site the rows of all of them, ragged lengths
without padding, lazy.  What a site gives as a whole is held by nobody, and so is let go as soon as
its rows are taken.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.inputs import axes_at, first_array, value_at, with_axes_first
from mlxgraph.analysis.padded_right import needs_no_mask, right_padded
from mlxgraph.analysis.positions_kept import Kept
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, ShapeError
from mlxgraph.errors.source_line import here

TOKENS = 4_096  # of a forward, padding included, where no limit is given
SHARE = 4  # a forward may take this part of the machine's memory, unless a limit is given
COPIES = 8  # of a layer's widest value that are alive at once, about
MOST_FLOAT16 = 65_504


class Value(NamedTuple):
    """A site's value: dtype and shape of one row, and the axes of prompts and positions."""

    dtype: mx.Dtype
    shape: tuple[int, ...]
    axes: tuple[int, int]


class RowsOf:
    """Takes rows of sites.

    Args:
        sites: by the name of each result the site.
        dtype: what rows are kept in; each in its own, if None.
        example: a prompt, of which shapes are asked; nothing is computed.
    Raises: ShapeError for a site without positions, UnknownSiteError, InputError.
    """

    def __init__(
        self,
        model: Traceable,
        sites: Mapping[str, str],
        kept: Kept,
        dtype: mx.Dtype | None,
        example: Any,
    ):
        floats = (mx.float16, mx.bfloat16, mx.float32, mx.float64)
        if dtype is not None and dtype not in floats:
            raise InputError(
                f"activations cannot be kept in {dtype!r}.\n  Write dtype=mx.float16, mx.bfloat16"
                " or mx.float32, or leave it out."
            )
        self._model, self._sites, self._kept, self._dtype = model, sites, kept, dtype
        row = example if isinstance(example, mx.array) else [int(token) for token in example]
        if len(row) == 1 and isinstance(row, list):
            row = row * 3  # of one token nobody can tell which axis has the positions
        names = list(dict.fromkeys(sites.values()))
        axes = axes_at(model, names, [row])
        self.values = {}
        with model.trace(batch_of([row])):
            for name in names:
                stream = first_array(value_at(model, name))
                self.values[name] = _value(name, stream, axes[name])
        self.widest = _widest(model, row)
        self._unmasked: bool | None = None  # whether padding needs no mask; None before it is known
        self._longest = 0  # of the batches of several lengths

    def kept_dtype(self, name: str) -> mx.Dtype:
        """What a site's rows are kept in."""
        return self._dtype or self.values[self._sites[name]].dtype

    def tokens_at_once(self, limit: int | None) -> int:
        """How many tokens a forward may have, by the memory that they take, about."""
        rows = sum(
            value.dtype.size * int(np.prod(value.shape, dtype=np.int64))
            for value in self.values.values()
        )
        each = COPIES * self.widest + 3 * rows  # kept, on their way to the disk, and as they come
        if limit is not None:
            return max(1, limit // each)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return max(1, min(TOKENS, memory // SHARE // each))

    def __call__(self, rows: Sequence[Any], positions: Sequence[np.ndarray]) -> dict[str, mx.array]:
        """Run the model on a batch.

        Args: rows: token ids of each prompt, or arrays of one shape; positions: of each, from its
            start.
        Returns: of each site the rows, prompt after prompt, evaluated.
        """
        found = self._rows(rows, positions)
        narrow = self._dtype is not None and self._dtype == mx.float16
        checks = _overflows(found) if narrow else {}
        found = {name: value.astype(self.kept_dtype(name)) for name, value in found.items()}
        checks = {name: checks[name] & mx.any(mx.isinf(found[name])) for name in checks}
        mx.eval(found, checks)
        for name, spoilt in checks.items():
            if spoilt.item():
                raise InputError(
                    f"{name} has values beyond {MOST_FLOAT16:,}, which float16 has not.\n"
                    "  Write dtype=mx.bfloat16, or mx.float32."
                )
        return found

    def _rows(self, rows: Sequence[Any], positions: Sequence[np.ndarray]) -> dict[str, mx.array]:
        batch, columns = self._batch(rows, positions)
        fixed = self._kept.numbers is not None and self._kept.reduce is None
        saved: dict[str, Any] = {}
        with self._model.trace(batch):
            at, which = (
                mx.array(np.stack(columns)) if fixed else None,
                mx.arange(len(rows))[:, None],
            )
            for name in self.values:
                stream = self._stream(name, (len(rows), max(map(len, rows))))
                saved[name] = (stream if at is None else stream[which, at]).save()
        of_site = {}
        for name in list(saved):  # nobody else holds the whole
            whole = saved.pop(name)
            of_site[name] = (
                whole.reshape(-1, *self.values[name].shape)
                if fixed
                else _mean(whole, columns)
                if self._kept.reduce
                else _taken(whole, columns)
            )
        return {name: of_site[site] for name, site in self._sites.items()}

    def _batch(
        self, rows: Sequence[Any], positions: Sequence[np.ndarray]
    ) -> tuple[Any, Sequence[np.ndarray]]:
        """What the model is given, and where in it the positions of each prompt are."""
        if isinstance(rows[0], mx.array):
            return batch_of(rows), positions
        longest = max(map(len, rows))
        if min(map(len, rows)) < longest:
            if self._unmasked is None:
                self._unmasked = needs_no_mask(self._model, rows, self._all_of)
            if not self._unmasked:  # padding is on the left
                return batch_of(rows), [
                    at + (longest - len(row)) for row, at in zip(rows, positions, strict=True)
                ]
            if longest > self._longest:
                self._model.trace(batch_of(rows))  # raises where no batch of these can be right
                self._longest = longest
        return right_padded(rows), positions

    def _stream(self, name: str, batch: tuple[int, ...]) -> Any:
        """In a trace: a site's value, with the axes of prompts and positions first.

        Args: batch: how many prompts there are, and how long they are.
        """
        value = self.values[name]
        stream = with_axes_first(first_array(value_at(self._model, name)), *value.axes)
        if tuple(stream.shape[:2]) != batch:
            raise ShapeError(
                f"{name} gives {stream.shape} for {batch[0]} prompts of {batch[1]} tokens: its"
                " positions are not theirs", str(here()),
                "Leave this site out, or use collect_activations without to=.",
            )  # fmt: skip
        if tuple(stream.shape[2:]) != value.shape:
            raise ShapeError(
                f"{name} gives rows of shape {list(stream.shape[2:])} in one batch and"
                f" {list(value.shape)} in another", str(here()),
                "Rows of one shape can be kept; leave this site out.",
            )  # fmt: skip
        return stream

    def _all_of(self, tokens: mx.array) -> Mapping[str, mx.array]:
        """Each site of a few rows of one length, whole."""
        with self._model.trace(tokens, compile=False):
            saved = {name: self._stream(name, tokens.shape).save() for name in self.values}
        return saved


def batch_of(rows: Sequence[Any]) -> Any:
    """What `model.trace` is given for a batch."""
    if isinstance(rows[0], mx.array):
        return mx.stack(list(rows))
    return [[int(token) for token in row] for row in rows]


def _value(name: str, stream: Any, axes: tuple[int | None, list[int]]) -> Value:
    batch, positions = axes
    if stream.ndim < 2 or batch is None or len(positions) != 1:
        several = "several axes of" if len(positions) > 1 else "no"
        raise ShapeError(
            f"{name} gives {stream.shape}, which has {several} positions", str(here()),
            "Give inputs with axes (batch, length, ...), or use collect_activations without to=.",
        )  # fmt: skip
    rest = [size for axis, size in enumerate(stream.shape) if axis not in (batch, positions[0])]
    return Value(stream.dtype, tuple(rest), (batch, positions[0]))


def _widest(model: Traceable, row: Any) -> int:
    """Bytes of the widest output of a module for a token, the logits left out: nobody asks them."""
    found = 1
    with model.trace(batch_of([row])) as trace:
        for name in list(trace.activations):
            if name.count(".") < 3:  # the model, its head, its norm
                continue
            value = first_array(value_at(model, name))
            if hasattr(value, "dtype"):  # some modules return nothing
                found = max(found, value.size * value.dtype.size // len(row))
    return found


def _taken(whole: mx.array, columns: Sequence[np.ndarray]) -> mx.array:
    """The rows at some columns of each prompt, one after the other."""
    length = whole.shape[1]
    flat = whole.reshape(-1, *whole.shape[2:])
    index = np.concatenate([number * length + at for number, at in enumerate(columns)])
    if len(index) == len(flat) and (index == np.arange(len(index))).all():
        return flat  # all of it, and no padding
    return flat[mx.array(index.astype(np.int32))]


def _mean(whole: mx.array, columns: Sequence[np.ndarray]) -> mx.array:
    """The mean over some columns of each prompt, in float32; what is elsewhere may be anything."""
    times = np.zeros(whole.shape[:2], np.float32)
    for number, at in enumerate(columns):
        np.add.at(times[number], at, 1)
    weights = mx.array(times).reshape(*times.shape, *[1] * (whole.ndim - 2))
    summed = mx.where(weights > 0, whole.astype(mx.float32) * weights, 0).sum(1)
    return summed / weights.sum(1)


def _overflows(found: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Whether the values that float16 might not hold are finite as they are."""
    return {
        name: mx.any((mx.abs(value) > MOST_FLOAT16) & ~mx.isinf(value))
        for name, value in found.items()
        if value.dtype != mx.float16
    }


def by_length(lengths: Sequence[int], tokens: int, most: int | None) -> list[list[int]]:
    """Batches of prompts of like length, each in the order of the prompts.

    Args: tokens: of a batch, padding included, where it has more than one prompt; most: prompts.
    """
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    found, start = [], 0
    while start < len(order):
        count = max(1, tokens // max(lengths[order[start]], 1))
        count = count if most is None else min(count, most)
        found.append(sorted(order[start : start + count]))
        start += count
    return found
