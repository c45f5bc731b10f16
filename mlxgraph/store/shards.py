"""All shards of a folder as one: rows and prompts by number, wherever they lie."""

from __future__ import annotations

import bisect
import operator
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.errors import NoPromptError, StoreError
from mlxgraph.store.index import Entry
from mlxgraph.store.layout import Tensor, as_array, empty_rows, mx_dtype, read_into, tensors_of
from mlxgraph.store.manifest import Manifest, Site
from mlxgraph.store.shard import COUNTS, LENGTHS, TOKENS

_OPEN = 64  # files that are kept open


class _Opened(NamedTuple):
    """An open shard."""

    file: int
    tensors: dict[str, Tensor]


class _Starts(NamedTuple):
    """Where each prompt of a shard begins: its row, its token, its position; and the end."""

    rows: np.ndarray
    tokens: np.ndarray
    positions: np.ndarray


class Shards:
    """The shards, in the order of their prompts."""

    def __init__(self, folder: Path, entries: list[Entry], manifest: Manifest):
        self._open: OrderedDict[str, _Opened] = OrderedDict()
        self._folder, self.manifest = folder, manifest
        self.entries = sorted(entries, key=lambda entry: entry.first)
        self._firsts = [entry.first for entry in self.entries]
        self._rows = np.concatenate(
            [[0], np.cumsum([entry.rows for entry in self.entries], dtype=np.int64)]
        )
        self.single = manifest.question.single
        self.prompts = _numbers(self.entries)
        self._starts: dict[str, _Starts] = {}
        self._lock = threading.Lock()

    @property
    def rows(self) -> int:
        """Rows of all prompts together."""
        return int(self._rows[-1])

    def dtype(self, site: Site) -> mx.Dtype:
        """Of a site's arrays."""
        return mx_dtype(site.dtype)

    def number(self, prompt: Any) -> int:
        """A prompt's number, counted from the start.  Raises: NoPromptError."""
        try:
            number = operator.index(prompt)
        except TypeError:
            raise NoPromptError(prompt, self.prompts) from None
        if number < 0 and self.prompts:
            number += self.prompts[-1] + 1
        if number not in self.prompts:
            raise NoPromptError(prompt, self.prompts)
        return number

    def _at(self, number: int) -> tuple[Entry, int, int]:
        """The shard of a prompt, its number among the shards, and the prompt's place in it."""
        which = bisect.bisect_right(self._firsts, number) - 1
        entry = self.entries[which]
        return entry, which, number - entry.first

    # -- what a prompt has -------------------------------------------------------------------------

    def of_prompt(self, site: Site, number: int) -> mx.array:
        """A site's rows of one prompt."""
        entry, which, place = self._at(number)
        starts = self._starts_of(entry).rows + self._rows[which]
        found = self.array(site, int(starts[place]), int(starts[place + 1]))
        return found[0] if self.single else found

    def own(self, name: str, number: int) -> mx.array:
        """Tokens or positions of one prompt."""
        entry, _, place = self._at(number)
        starts = self._starts_of(entry)
        at = starts.tokens if name == TOKENS else starts.positions
        return mx.array(self._own(entry, name, int(at[place]), int(at[place + 1])))

    def _starts_of(self, entry: Entry) -> _Starts:
        found = self._starts.get(entry.file)
        if found is None:
            lengths = self._own(entry, LENGTHS, 0, entry.prompts)
            counts = self._own(entry, COUNTS, 0, entry.prompts)
            rows = np.ones_like(counts) if self.manifest.question.reduce else counts
            found = _Starts(*(_begun(one) for one in (rows, lengths, counts)))
            self._starts[entry.file] = found
        return found

    def _own(self, entry: Entry, name: str, start: int, stop: int) -> np.ndarray:
        out = np.empty(stop - start, np.int32)
        self._read(entry, name, start, out)
        return out

    # -- rows ------------------------------------------------------------------------------------

    def array(self, site: Site, start: int, stop: int) -> mx.array:
        """Rows of a site by their number among those of all prompts."""
        out = empty_rows(stop - start, site.dtype, site.shape)
        self.read_rows(site, start, out)
        return as_array(out, site.dtype)

    def read_rows(self, site: Site, start: int, out: np.ndarray) -> None:
        """As `array`, into rows that are there, as numpy carries them."""
        which, done = int(np.searchsorted(self._rows, start, side="right")) - 1, 0
        while done < len(out):
            first = start + done - int(self._rows[which])
            count = min(len(out) - done, int(self._rows[which + 1] - self._rows[which]) - first)
            self._read(self.entries[which], site.name, first, out[done : done + count])
            which, done = which + 1, done + count

    def _read(self, entry: Entry, name: str, start: int, out: np.ndarray) -> None:
        try:
            with self._lock:  # nobody closes the file meanwhile
                opened = self._opened(entry)
                file = os.dup(opened.file)
            try:
                read_into(file, opened.tensors[name], start, out)
            finally:
                os.close(file)
        except (EOFError, KeyError, OSError):
            raise StoreError(
                f"{self._folder / entry.file} is damaged, or is not there",
                "Run the line that wrote it again: a shard that is not whole is redone."
                " store.verify() looks at all of them.",
            ) from None

    def _opened(self, entry: Entry) -> _Opened:
        found = self._open.get(entry.file)
        if found is None:
            file = os.open(self._folder / entry.file, os.O_RDONLY)
            size = os.fstat(file).st_size
            tensors = tensors_of(file, size) if size == entry.size else None
            if tensors is None:
                os.close(file)
                raise EOFError
            found = self._open[entry.file] = _Opened(file, tensors)
            if len(self._open) > _OPEN:
                os.close(self._open.popitem(last=False)[1].file)
        self._open.move_to_end(entry.file)
        return found

    def __del__(self) -> None:
        for opened in self._open.values():
            os.close(opened.file)


def _begun(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _numbers(entries: list[Entry]) -> Sequence[int]:
    """The numbers of the prompts that are there: a range, where none is left out."""
    last = entries[-1].first + entries[-1].prompts if entries else 0
    if sum(entry.prompts for entry in entries) == last:
        return range(last)
    return [n for entry in entries for n in range(entry.first, entry.first + entry.prompts)]
