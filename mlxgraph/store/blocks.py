"""Blocks: a stream of prompts cut into pieces, always the same ones.

In: prompts, one after the other, and limits.  Out: blocks of consecutive prompts, numbered from 0.
Never: looks further than one prompt beyond a block, or at anything but prompts and limits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.store.layout import carried


class Limits(NamedTuple):
    """When a block is full: by its prompts, its tokens, or the bytes of its shard."""

    prompts: int = 4_096
    tokens: int = 65_536
    bytes: int = 256 << 20


@dataclass(frozen=True)
class Prompt:
    """One prompt: its token ids, int32, or a custom model's array (length, ...); and the positions
    that are kept of it, int32, counted from its start."""

    row: Any
    positions: np.ndarray

    @property
    def length(self) -> int:
        return len(self.row)

    @property
    def has_tokens(self) -> bool:
        return isinstance(self.row, np.ndarray)


@dataclass(frozen=True)
class Block:
    """Consecutive prompts.  `first` is the number of the first of them in the stream."""

    number: int
    first: int
    prompts: tuple[Prompt, ...]

    @property
    def tokens(self) -> int:
        return sum(prompt.length for prompt in self.prompts)

    @cached_property
    def digest(self) -> str:
        """What the prompts are, and which of their positions are kept."""
        found = hashlib.sha256()
        for prompt in self.prompts:
            row = prompt.row
            if isinstance(row, mx.array):
                found.update(f"{row.dtype}{row.shape}".encode())
                row = np.array(carried(row))
            found.update(np.array([len(row), len(prompt.positions)], np.int64).tobytes())
            found.update(row.tobytes() + prompt.positions.tobytes())
        return found.hexdigest()


def cut(prompts: Iterable[Prompt], limits: Limits, row: int, reduced: bool) -> Iterator[Block]:
    """The blocks of a stream.  Each is as large as the limits allow, and has a prompt at least.

    Args:
        row: bytes of one row of all sites; reduced: whether a prompt has one row, whatever is kept.
    """
    number = first = tokens = size = 0
    held: list[Prompt] = []
    for prompt in prompts:
        more = row * (1 if reduced else len(prompt.positions))
        full = (
            len(held) >= limits.prompts
            or tokens + prompt.length > limits.tokens
            or size + more > limits.bytes
        )
        if held and full:
            yield Block(number, first, tuple(held))
            number, first = number + 1, first + len(held)
            held, tokens, size = [], 0, 0
        held.append(prompt)
        tokens, size = tokens + prompt.length, size + more
    if held:
        yield Block(number, first, tuple(held))
