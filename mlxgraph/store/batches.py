"""Shuffled batches of rows, from folders that are larger than memory.

Rows of a few hundred bytes are slow to read one by one, so they are read in pieces of neighbours.
Pieces come in a random order over the whole store; as many as half the buffer holds are read, and
their rows mixed.  The other half is filled on a thread meanwhile.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mlxgraph.errors import InputError, MLXGraphError
from mlxgraph.errors.tracebacks import trim_installed
from mlxgraph.store.layout import as_array, empty_rows
from mlxgraph.store.manifest import Site
from mlxgraph.store.shards import Shards

PIECE = 256 << 10  # bytes that are read at once, about: a disk is at its full speed from there

Read = list[np.ndarray]  # rows of each site


class Batches:
    """One pass over all rows.  Arguments: as of `ActivationStore.batches`."""

    def __init__(
        self,
        shards: Shards,
        sites: Sequence[Site],
        several: bool,
        size: int,
        seed: int | None,
        buffer: int,
        drop_last: bool,
    ):
        if size < 1 or not sites:
            raise InputError(
                f"a batch has one row of one site at least, not {size} of {len(sites)}.\n"
                "  Write store.batches('layers.3.mlp', 4096, seed=0)."
            )
        self._shards, self._sites, self._several = shards, sites, several
        self._size, self._drop_last = size, drop_last
        self._random = None if seed is None else np.random.default_rng(seed)
        row = sum(site.row for site in sites)
        rows = shards.rows
        whole = rows * row <= buffer
        piece = max(1, PIECE // row)
        starts = np.arange(0, rows, piece)
        if self._random is not None:
            self._random.shuffle(starts)
        self._piece = piece
        at_once = len(starts) if whole else max(1, buffer // 2 // (piece * row))
        self._groups = [starts[k : k + at_once] for k in range(0, len(starts), max(at_once, 1))]

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._all()
        except MLXGraphError as error:  # at the line of the loop
            trim_installed(error)
            raise

    def _all(self) -> Iterator[Any]:
        left: Read | None = None
        with ThreadPoolExecutor(1, "reading activations") as reader:
            ahead = [reader.submit(self._read, n) for n in range(min(1, len(self._groups)))]
            for number in range(len(self._groups)):
                group = ahead.pop().result()
                if number + 1 < len(self._groups):
                    ahead.append(reader.submit(self._read, number + 1))
                left = yield from self._of_group(group, left)
                del group
        if left is not None and len(left[0]) and not self._drop_last:
            yield self._batch(left)

    def _read(self, number: int) -> Read:
        """A group of pieces, its rows mixed."""
        starts = self._groups[number]
        if self._random is None:  # neighbours lie side by side
            starts = starts[:1]
        rows = self._shards.rows
        many = int(sum(min(self._piece, rows - start) for start in self._groups[number]))
        found = []
        for site in self._sites:
            out, at = empty_rows(many, site.dtype, site.shape), 0
            for start in starts:
                count = many if self._random is None else min(self._piece, rows - int(start))
                self._shards.read_rows(site, int(start), out[at : at + count])
                at += count
            found.append(out)
        return found

    def _of_group(self, group: Read, left: Read | None) -> Generator[Any, None, Read | None]:
        """The whole batches of a group, and what is left over for the next."""
        many = len(group[0])
        order = np.arange(many)
        if self._random is not None:
            self._random.shuffle(order)
        at = 0
        while at < many:
            lacking = self._size - (len(left[0]) if left is not None else 0)
            part = [rows[order[at : at + lacking]] for rows in group]
            if left is not None:
                part = [np.concatenate(pair) for pair in zip(left, part, strict=True)]
            at, left = at + lacking, part
            if len(part[0]) == self._size:
                yield self._batch(part)
                left = None
        return left

    def _batch(self, parts: Read) -> Any:
        arrays = [as_array(rows, site.dtype) for rows, site in zip(parts, self._sites, strict=True)]
        named = {site.name: array for site, array in zip(self._sites, arrays, strict=True)}
        return named if self._several else arrays[0]
