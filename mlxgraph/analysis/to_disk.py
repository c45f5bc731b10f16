"""Activations of many prompts to a folder, as they are computed.

In: prompts, an iterator over more than memory too.  Out: an `ActivationStore`.  Memory holds a
batch, those that wait for the disk, and the token ids of one block, however many prompts there are.
The folder's layout, and how several processes share it, stand in `mlxgraph.store`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.fingerprint import edits_hash, model_hash
from mlxgraph.analysis.positions_kept import Kept
from mlxgraph.analysis.progress import Progress
from mlxgraph.analysis.prompts_in import count_of, stream_of
from mlxgraph.analysis.rows_of import RowsOf, by_length
from mlxgraph.analysis.together import among_ranks
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, RankError, RanksDifferError
from mlxgraph.ranks.held import is_spread
from mlxgraph.ranks.said import digest
from mlxgraph.store.blocks import Block, Limits, Prompt, cut
from mlxgraph.store.index import name_of
from mlxgraph.store.layout import carried, dtype_name
from mlxgraph.store.manifest import Question, Site, folder_of
from mlxgraph.store.reader import ActivationStore
from mlxgraph.store.shard import OWN, Rows
from mlxgraph.store.writer import StoreWriter

_SAYS: dict[str, Any] = {"what": "activations", "unit": "prompt"}


def to_disk(
    model: Traceable,
    prompts: Any,
    sites: Mapping[str, str],
    kept: Kept,
    folder: str | os.PathLike[str],
    *,
    dtype: mx.Dtype | None = None,
    batch_size: int | None = None,
    memory_limit: int | None = None,
    shard_size: int | None = None,
    progress: bool | None = None,
    rank: int | None = None,
    world: int | None = None,
) -> ActivationStore:
    """Write what `get_activations` gives to a folder, going on where a run before was stopped.

    In several processes each rank writes its own shards, and returns when all are written.

    Args:
        sites: by the name that activations are kept under the site.
        shard_size: bytes of a shard, about; rank, world: which of how many processes this is, where
            they do not speak to each other.
    Returns: the store; of several machines that share no folder, what this one has of it.
    """
    for name, value in {"shard_size": shard_size, "memory_limit": memory_limit}.items():
        if value is not None and (type(value) is not int or value < 1):
            raise InputError(f"{name}={value!r:.40} is no number of bytes.\n  Write 256 << 20.")
    path = folder_of(folder)
    _check_names(sites)
    if is_spread(module for _, module in model.named_modules()):
        raise RankError(
            "this model is spread over several ranks, each of which would write the same folder",
            "Leave to= out, for some prompts at a time, and keep what it gives on rank 0.",
        )
    with among_ranks("activations to a folder", model) as work:
        stream = _prompts(model, prompts, kept)
        first = next(stream, None)
        if first is None:
            raise InputError("there are no prompts.\n  Give at least one.")
        rows_of = RowsOf(model, sites, kept, dtype, first.row)
        question = _question(model, sites, kept, rows_of, first)
        limits = None if shard_size is None else Limits(bytes=shard_size)
        tokens = rows_of.tokens_at_once(memory_limit)
        if batch_size is not None and memory_limit is None:
            tokens = _UNBOUND
        if work.size > 1:
            asked = digest(str(question), shard_size, path.name)
            work.agree(f"to {path.name}", question=asked, prompts=digest(first.row))
        shown = progress if work.shows else False
        with (
            StoreWriter(path, question, limits, rank or work.rank, world or work.size) as writer,
            Progress(count_of(prompts), shown, **_SAYS, terminal=True) as bar,
        ):
            chained = _chained(first, stream)
            blocks = cut(chained, writer.limits, question.row, kept.reduce is not None)
            for block in blocks:
                if writer.begin(block):
                    for batch in _batches(block, tokens, batch_size):
                        writer.put(_rows(rows_of, block, batch))
                        bar.advance(len(batch))
                        work.check()
                    writer.finish()
                else:
                    bar.advance(len(block.prompts))
            writer.end()
        said = work.exchanged({work.rank: [writer.prompts, writer.walked]})
    return ActivationStore(path, partial=world is not None or _is_elsewhere(path, said))


def _is_elsewhere(path: Path, said: Mapping[int, Any]) -> bool:
    """Whether some ranks have written to folders of other machines.

    Args: said: how many prompts each rank has walked through, and a hash of them.
    Raises: RanksDifferError where these are not the same.
    """
    if len({tuple(one) for one in said.values()}) > 1:
        counts = [f"{said[rank][0]:,} prompts" for rank in sorted(said)]
        raise RanksDifferError("prompts", counts)
    return not all((path / name_of(rank)).exists() for rank in said)


def _check_names(sites: Mapping[str, str]) -> None:
    """Raise InputError where there is nothing to keep, or no room for a name."""
    if not sites:
        raise InputError("no site is to be kept.\n  Write sites='layers.*.mlp', or leave it out.")
    for name in sites:
        if name in (*OWN, "__metadata__"):
            raise InputError(
                f"{name} is a name that shards have for something else.\n"
                f"  Write another form of the site's name: {'model.' + name!r}."
            )


_UNBOUND = 1 << 62


def _chained(first: Prompt, rest: Iterator[Prompt]) -> Iterator[Prompt]:
    yield first
    del first
    yield from rest


def _prompts(model: Traceable, prompts: Any, kept: Kept) -> Iterator[Prompt]:
    """Each prompt with the positions that are kept of it."""
    tokens = None
    for number, row in enumerate(stream_of(model, prompts)):
        one = Prompt(
            np.array(row, np.int32) if isinstance(row, list) else row, kept.of(row, number)
        )
        if tokens not in (None, one.has_tokens):
            raise InputError(
                f"prompt {number} is {'token ids' if one.has_tokens else 'an array'}, and those"
                " before it are not.\n  Give prompts of one kind."
            )
        tokens = one.has_tokens
        yield one


def _question(
    model: Traceable, sites: Mapping[str, str], kept: Kept, rows_of: RowsOf, first: Prompt
) -> Question:
    found = []
    for name, site in sites.items():
        (canonical,) = model.sites(site)
        shape, dtype = rows_of.values[site].shape, dtype_name(rows_of.kept_dtype(name))
        found.append(Site(name, canonical, dtype, shape))
    return Question(
        model_hash(model), edits_hash(model), tuple(found), kept.said, kept.single, kept.reduce,
        first.has_tokens,
    )  # fmt: skip


def _batches(block: Block, tokens: int, most: int | None) -> Iterator[list[int]]:
    """The batches of a block; arrays of a custom model share one where they have one shape."""
    alike: dict[Any, list[int]] = {}
    for number, prompt in enumerate(block.prompts):
        kind = None if prompt.has_tokens else (prompt.row.shape, prompt.row.dtype)
        alike.setdefault(kind, []).append(number)
    for numbers in alike.values():
        for batch in by_length([block.prompts[n].length for n in numbers], tokens, most):
            yield [numbers[place] for place in batch]


def _rows(rows_of: RowsOf, block: Block, batch: list[int]) -> Rows:
    prompts = [block.prompts[number] for number in batch]
    found = rows_of([prompt.row for prompt in prompts], [prompt.positions for prompt in prompts])
    plain = {name: carried(value) for name, value in found.items()}
    mx.eval(plain)  # views of the same bytes: the writer's thread asks nothing of MLX
    return Rows(batch, {name: np.array(value, copy=False) for name, value in plain.items()})
