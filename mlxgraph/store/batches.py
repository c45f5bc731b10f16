"""Shuffled batches of rows, from folders that are larger than memory.

Rows of a few hundred bytes are slow to read one by one, so they are read in pieces of neighbours.
Pieces come in a random order over the whole store; as many as half the buffer holds are read, and
their rows mixed.  The other half is filled on threads meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from mlxgraph.errors import InputError, MLXGraphError
from mlxgraph.errors.tracebacks import trim_installed
from mlxgraph.store.layout import as_array, empty_rows
from mlxgraph.store.manifest import Site
from mlxgraph.store.shards import Shards

PIECE = 256 << 10  # bytes that are read at once, about: a disk is at its full speed from there
AHEAD = 8 << 20  # bytes that the disk is asked for before they are read: it serves many at once
READERS = 2  # threads that read: one waits for memory while the other does for the disk

Read = list[np.ndarray]  # rows of each site


class _Group(NamedTuple):
    """Pieces that are read together: where their rows go, and what fills it."""

    rows: Read
    parts: list[Future[None]]


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
        for name, number in {"size": size, "buffer": buffer, "seed": seed or 0}.items():
            if not isinstance(number, (int, np.integer)) or number < 0:
                raise InputError(
                    f"{name}={number!r:.40} is no whole number from 0 on.\n"
                    "  Write store.batches('layers.3.mlp', 4096, seed=0)."
                )
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
        # which rows are mixed is random; the order in which they are read need not be
        self._groups = [
            np.sort(starts[k : k + at_once]) for k in range(0, len(starts), max(at_once, 1))
        ]
        self._most = min(rows, at_once * piece)
        self._rooms: list[Read] = []

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._all()
        except MLXGraphError as error:  # at the line of the loop
            trim_installed(error)
            raise

    def _all(self) -> Iterator[Any]:
        batch, filled = self._room(min(self._size, self._shards.rows)), 0
        with ThreadPoolExecutor(READERS, "reading activations") as readers:
            ahead = self._begun(0, readers)
            for number in range(len(self._groups)):
                group, at = ahead.rows, 0
                for reading in ahead.parts:
                    reading.result()
                ahead = self._begun(number + 1, readers)
                while at < len(group[0]):
                    some = [rows[at : at + self._size - filled] for rows in group]
                    count = len(some[0])
                    if count < self._size:  # the end of this group, or what the last one lacked
                        for rows, part in zip(some, batch, strict=True):
                            part[filled : filled + count] = rows
                        some = batch
                    at, filled = at + count, filled + count
                    if filled == self._size:
                        yield self._batch(some)
                        filled = 0
        if filled and not self._drop_last:
            yield self._batch([part[:filled] for part in batch])

    def _room(self, count: int) -> Read:
        return [empty_rows(count, site.dtype, site.shape) for site in self._sites]

    def _begun(self, number: int, readers: ThreadPoolExecutor) -> _Group:
        """A group of pieces that is being read.  Two are there at once, in two rooms."""
        if number >= len(self._groups):
            return _Group([], [])
        if len(self._rooms) <= number % 2:
            self._rooms.append(self._room(self._most))
        starts = self._groups[number]
        counts = np.minimum(self._piece, self._shards.rows - starts)
        ends = np.cumsum(counts)
        found = [rows[: int(ends[-1])] for rows in self._rooms[number % 2]]
        places = None
        if self._random is not None:
            order, places = np.arange(ends[-1]), np.empty(ends[-1], np.intp)
            self._random.shuffle(order)
            places[order] = np.arange(ends[-1])
        pieces = [*zip(starts.tolist(), counts.tolist(), (ends - counts).tolist(), strict=True)]
        each = -(-len(pieces) // READERS)
        some = [pieces[k : k + each] for k in range(0, len(pieces), each)]
        return _Group(found, [readers.submit(self._read, part, places, found) for part in some])

    def _read(
        self, pieces: list[tuple[int, int, int]], places: np.ndarray | None, found: Read
    ) -> None:
        """Read pieces, each of which has a first row, a number of rows, and how many of the group
        come before it, to the places of their rows.

        A piece is read to where the processor's cache holds it, and from there each row goes to its
        place: a row passes through memory once.
        """
        for site, rows, piece in zip(self._sites, found, self._room(self._piece), strict=True):
            told = coming = 0
            for first, count, at in pieces:
                while told < len(pieces) and coming < AHEAD:
                    self._shards.soon(site, *pieces[told][:2])
                    coming, told = coming + pieces[told][1] * site.row, told + 1
                if places is None:
                    self._shards.read_rows(site, first, rows[at : at + count])
                else:
                    self._shards.read_rows(site, first, piece[:count])
                    _whole(rows)[places[at : at + count]] = _whole(piece[:count])
                coming -= count * site.row

    def _batch(self, parts: Read) -> Any:
        """Rows as arrays of their own: the rooms are filled again."""
        arrays = [as_array(rows, site.dtype) for rows, site in zip(parts, self._sites, strict=True)]
        named = {site.name: array for site, array in zip(self._sites, arrays, strict=True)}
        return named if self._several else arrays[0]


def _whole(rows: np.ndarray) -> np.ndarray:
    """Rows as items without parts, which numpy moves as fast as memory does."""
    flat = rows.reshape(len(rows), -1)
    return flat.view(f"V{flat.strides[0]}")[:, 0]
