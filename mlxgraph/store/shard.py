"""One shard while it is written: a partial file of full size, which gets its name when it is whole.

The tensors of a shard, in the order of the file:

    __lengths__     (prompts,) int32             tokens of each prompt
    __counts__      (prompts,) int32             positions that are kept of each
    __positions__   (positions,) int32           which, counted from the prompt's start
    __tokens__      (tokens,) int32              the ids, prompt after prompt; not of custom models
    a site's name   (rows, ...)                  rows of the prompts, one after the other
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlxgraph.store.blocks import Block
from mlxgraph.store.files import flush, flush_folder, room_for, write_all
from mlxgraph.store.index import Entry
from mlxgraph.store.layout import laid_out
from mlxgraph.store.manifest import Question

LENGTHS, COUNTS, POSITIONS, TOKENS = "__lengths__", "__counts__", "__positions__", "__tokens__"
OWN = (LENGTHS, COUNTS, POSITIONS, TOKENS)
_PIECE = 4 << 20  # bytes that are read at once for a checksum


class Rows(NamedTuple):
    """What one forward gives: rows of some prompts of a block, by their place in it, and for each
    site the rows of these prompts, one after the other."""

    prompts: Sequence[int]
    sites: Mapping[str, np.ndarray]


class Shard:
    """The shard of one block."""

    def __init__(self, folder: Path, name: str, partial: str, block: Block, question: Question):
        """Raises: OSError, of a full disk among them: the whole file is asked for."""
        self._folder, self._name, self._block = folder, name, block
        self._partial = folder / partial
        counts = [len(prompt.positions) for prompt in block.prompts]
        rows = [1] * len(counts) if question.reduce else counts
        self._starts = np.concatenate([[0], np.cumsum(rows)])
        own = {
            LENGTHS: np.array([prompt.length for prompt in block.prompts], np.int32),
            COUNTS: np.array(counts, np.int32),
            POSITIONS: np.concatenate([prompt.positions for prompt in block.prompts]),
        }
        if question.tokens:
            own[TOKENS] = np.concatenate([prompt.row for prompt in block.prompts])
        tensors = {name: ("int32", array.shape) for name, array in own.items()}
        for site in question.sites:
            tensors[site.name] = (site.dtype, (int(self._starts[-1]), *site.shape))
        head, self._places = laid_out(tensors)
        self._head = head + b"".join(array.tobytes() for array in own.values())
        self._size = max(tensor.end for tensor in self._places.values())
        self._file = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            room_for(self._file, self._size)
        except BaseException:
            self.drop()
            raise

    def put(self, rows: Rows) -> None:
        """Write the rows of some prompts."""
        for name, values in rows.sites.items():
            place = self._places[name]
            data = memoryview(np.ascontiguousarray(values).data).cast("B")
            for start, count, at in self._runs(rows.prompts):
                part = data[at * place.row : (at + count) * place.row]
                write_all(self._file, part, place.at + start * place.row)

    def _runs(self, prompts: Sequence[int]) -> list[tuple[int, int, int]]:
        """Rows that lie one after the other both in the file and in what is written: the first in
        the file, how many, the first in what is written."""
        runs: list[tuple[int, int, int]] = []
        at = 0
        for prompt in prompts:
            start, stop = int(self._starts[prompt]), int(self._starts[prompt + 1])
            if runs and runs[-1][0] + runs[-1][1] == start:
                runs[-1] = (runs[-1][0], runs[-1][1] + stop - start, runs[-1][2])
            else:
                runs.append((start, stop - start, at))
            at += stop - start
        return runs

    def close(self) -> Entry:
        """Finish the file and give it its name.  Returns: the line of it for the index."""
        write_all(self._file, self._head, 0)
        crc = checksum(self._file, self._size)
        flush(self._file)
        os.close(self._file)
        os.rename(self._partial, self._folder / self._name)
        flush_folder(self._folder)
        block = self._block
        return Entry(
            block.number, block.first, len(block.prompts), block.tokens, int(self._starts[-1]),
            block.digest, self._name, self._size, crc,
        )  # fmt: skip

    def drop(self) -> None:
        """Let go of a file that is not going to be finished."""
        os.close(self._file)
        self._partial.unlink(missing_ok=True)


def checksum(file: int, size: int) -> int:
    """The CRC-32 of an open file."""
    crc = at = 0
    while at < size and (piece := os.pread(file, min(_PIECE, size - at), at)):
        crc, at = zlib.crc32(piece, crc), at + len(piece)
    return crc
