"""Whether a shard is what its line in the index says."""

from __future__ import annotations

import os
from pathlib import Path

from mlxgraph.store.index import Entry
from mlxgraph.store.layout import tensors_of
from mlxgraph.store.shard import checksum


def is_whole(folder: Path, entry: Entry) -> bool:
    """Whether a shard is there in its full size, with a header that fits: what takes no time."""
    try:
        file = os.open(folder / entry.file, os.O_RDONLY)
    except OSError:  # not there, or nothing that can be read
        return False
    try:
        size = os.fstat(file).st_size
        return size == entry.size and tensors_of(file, size) is not None
    finally:
        os.close(file)


def is_as_written(folder: Path, entry: Entry) -> bool:
    """Whether every byte of a shard is as it was written: it is read through."""
    if not is_whole(folder, entry):
        return False
    file = os.open(folder / entry.file, os.O_RDONLY)
    try:
        return checksum(file, entry.size) == entry.crc
    finally:
        os.close(file)
