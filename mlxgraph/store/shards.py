"""All shards of a folder as one: rows and prompts by number, wherever they lie."""

from __future__ import annotations

import bisect
import contextlib
import operator
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
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


class _Opened:
    """An open shard; closed when nobody reads it any more."""

    def __init__(self, path: Path, size: int):
        """Raises: OSError, EOFError for a file that is not whole."""
        self.file = os.open(path, os.O_RDONLY)
        tensors = tensors_of(self.file, size) if os.fstat(self.file).st_size == size else None
        if tensors is None:
            raise EOFError
        self.tensors: dict[str, Tensor] = tensors

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "file"):
            close(self.file)


class _Starts(NamedTuple):
    """Where each prompt of a shard begins: its row, its token, its position; and the end."""

    rows: np.ndarray
    tokens: np.ndarray
    positions: np.ndarray


class Shards:
    """The shards, in the order of their prompts."""

    def __init__(self, folder: Path, entries: list[Entry], manifest: Manifest):
        self._open: OrderedDict[str, _Opened] = OrderedDict()
        self.folder, self.manifest = folder, manifest
        self.entries = sorted(entries, key=lambda entry: entry.first)
        self._firsts = [entry.first for entry in self.entries]
        self._rows = np.concatenate(
            [[0], np.cumsum([entry.rows for entry in self.entries], dtype=np.int64)]
        )
        self._begins: list[int] = self._rows.tolist()
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
        done = 0
        for entry, first, count in self._parts(start, len(out)):
            self._read(entry, site.name, first, out[done : done + count])
            done += count

    def soon(self, site: Site, start: int, count: int) -> None:
        """Have the disk begin with rows that are going to be read, where it can be told."""
        if not hasattr(os, "posix_fadvise"):
            return
        for entry, first, some in self._parts(start, count):
            with self._whole(entry):
                opened = self._opened(entry)
                tensor = opened.tensors[site.name]
                at, size = tensor.at + first * tensor.row, some * tensor.row
                with contextlib.suppress(OSError):  # it is advice
                    os.posix_fadvise(opened.file, at, size, os.POSIX_FADV_WILLNEED)

    def _parts(self, start: int, count: int) -> list[tuple[Entry, int, int]]:
        """Of rows by their number among those of all prompts: the shards that have them, the first
        row in each, and how many."""
        found = []
        which = bisect.bisect_right(self._begins, start) - 1
        while count > 0:
            first = start - self._begins[which]
            some = min(count, self._begins[which + 1] - start)
            if some:
                found.append((self.entries[which], first, some))
            which, start, count = which + 1, start + some, count - some
        return found

    def _read(self, entry: Entry, name: str, start: int, out: np.ndarray) -> None:
        with self._whole(entry):
            opened = self._opened(entry)
            read_into(opened.file, opened.tensors[name], start, out)

    @contextlib.contextmanager
    def _whole(self, entry: Entry) -> Iterator[None]:
        try:
            yield
        except (EOFError, KeyError, OSError):
            raise StoreError(
                f"{self.folder / entry.file} is damaged, or is not there",
                "Run the line that wrote it again: a shard that is not whole is redone."
                " store.verify() looks at all of them.",
            ) from None

    def _opened(self, entry: Entry) -> _Opened:
        with self._lock:
            found = self._open.get(entry.file)
            if found is None:
                found = _Opened(self.folder / entry.file, entry.size)
                self._compare(entry, found.tensors)
                self._open[entry.file] = found
                if len(self._open) > _OPEN:
                    self._open.popitem(last=False)
            self._open.move_to_end(entry.file)
            return found

    def _compare(self, entry: Entry, tensors: dict[str, Tensor]) -> None:
        """Raise StoreError unless a shard holds what the manifest says, in its dtype and shape."""
        for site in self.manifest.question.sites:
            held = tensors.get(site.name)
            if held is None or held[:2] != (site.dtype, (entry.rows, *site.shape)):
                raise StoreError(
                    f"{self.folder / entry.file} is not of this folder: it does not hold"
                    f" {site.name} as {entry.rows:,} rows of {site.dtype}, {list(site.shape)}",
                    "Put the file of this name back that was written here, or remove it and run the"
                    " line that wrote it again.",
                )


def _begun(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _numbers(entries: list[Entry]) -> Sequence[int]:
    """The numbers of the prompts that are there: a range, where none is left out."""
    last = entries[-1].first + entries[-1].prompts if entries else 0
    if sum(entry.prompts for entry in entries) == last:
        return range(last)
    return [n for entry in entries for n in range(entry.first, entry.first + entry.prompts)]
