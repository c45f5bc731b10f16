"""Indexes: which shards are whole, a line for each, and how many prompts there were in all.

A line carries a checksum of itself, so half a line, or one that a disk has spoilt, counts as none.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlxgraph.store.files import flush, write_all


@dataclass(frozen=True)
class Entry:
    """One shard: the block it holds and its size and checksum (CRC-32 of the file)."""

    block: int
    first: int
    prompts: int
    tokens: int
    rows: int
    digest: str
    file: str
    size: int
    crc: int


@dataclass(frozen=True)
class End:
    """The end of the stream: how many prompts and blocks there were, and a hash of all."""

    prompts: int
    blocks: int
    digest: str


def name_of(rank: int) -> str:
    """The index of a rank."""
    return f"index-rank{rank:03d}.jsonl"


def shard_name(rank: int, block: int) -> str:
    """The shard of a block that this rank has computed."""
    return f"rank{rank:03d}-block{block:08d}.safetensors"


def add(path: Path, line: Entry | End) -> None:
    """Add a line, on the disk when this returns."""
    said = _dumped({type(line).__name__.lower(): asdict(line)})
    whole = f'{{"check":{zlib.crc32(said.encode())},{said[1:]}\n'.encode()
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":  # half a line: it stays one of its own
            whole = b"\n" + whole
        write_all(file, whole, size)
        flush(file)
    finally:
        os.close(file)


def read(folder: Path) -> tuple[dict[int, Entry], End | None]:
    """The shards that the indexes of all ranks have, by block, and the end if one has it.

    A block that was done again has several lines: the later one of a file counts, and of several
    files one that is there in its size.
    """
    found: dict[int, dict[str, Entry]] = {}
    end = None
    for path in sorted(folder.glob("index-rank*.jsonl")):
        for line in _lines(path):
            if "entry" in line:
                entry = Entry(**line["entry"])
                found.setdefault(entry.block, {})[entry.file] = entry
            else:
                end = End(**line["end"])
    return {block: _best(folder, [*one.values()]) for block, one in sorted(found.items())}, end


def _best(folder: Path, entries: list[Entry]) -> Entry:
    if len(entries) == 1:
        return entries[0]
    sizes = [(folder / entry.file, entry) for entry in entries]
    there = [entry for path, entry in sizes if path.exists() and path.stat().st_size == entry.size]
    return (there or entries)[0]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_bytes().split(b"\n"):
        try:
            line = json.loads(text)
            check = line.pop("check")
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if zlib.crc32(_dumped(line).encode()) == check:
            yield line


def _dumped(line: dict[str, Any]) -> str:
    return json.dumps(line, separators=(",", ":"), sort_keys=True)
