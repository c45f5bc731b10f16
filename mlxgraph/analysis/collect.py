"""Activations of many prompts at chosen sites and token positions, in memory or to a folder.

In: prompts of any lengths.  Out: one array for each site, a row for each prompt; or a store on disk
(`analysis.to_disk`).  Only the positions that were asked for leave a batch, and they are computed
before the next batch begins, so memory does not grow with the number of prompts beyond the result
itself; to a folder it does not grow.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, overload

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.inputs import (
    axes_at,
    check_model,
    check_position,
    choose_layers,
    computed,
    first_array,
    names_of,
    value_at,
    whole_number,
    with_axes_first,
)
from mlxgraph.analysis.positions_kept import Kept, kept
from mlxgraph.analysis.prompts_in import Row, rows_in
from mlxgraph.analysis.rows_of import RowsOf, batch_of, by_length
from mlxgraph.analysis.to_disk import to_disk
from mlxgraph.analysis.together import among_ranks, weights_of
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, ShapeError
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import at_the_edge
from mlxgraph.ranks.said import digest
from mlxgraph.ranks.together import Work
from mlxgraph.store.reader import ActivationStore

_LONG_WORK = 4  # batches from which on a bar is worth its line
_IN_MEMORY = 8  # prompts in a batch, where they are not said to be more

Numbers: TypeAlias = "int | Sequence[int]"
Ragged: TypeAlias = "str | Callable[[Any], Any]"
Folder: TypeAlias = "str | os.PathLike[str]"


@overload
def get_activations(
    model: Traceable, prompts: Any, layers: Any = None, positions: Numbers = -1, *,
    sites: Any = None, reduce: str | None = None, dtype: mx.Dtype | None = None, to: None = None,
) -> dict[str, mx.array]: ...  # fmt: skip


@overload
def get_activations(
    model: Traceable, prompts: Any, layers: Any = None, positions: Numbers | Ragged = -1, *,
    sites: Any = None, reduce: str | None = None, dtype: mx.Dtype | None = None, to: Folder,
    memory_limit: int | None = None, shard_size: int | None = None, progress: bool | None = None,
) -> ActivationStore: ...  # fmt: skip


@overload
def get_activations(
    model: Traceable, prompts: Any, layers: Any = None, *, positions: Ragged,
    sites: Any = None, reduce: str | None = None, dtype: mx.Dtype | None = None, to: None = None,
) -> dict[str, Any]: ...  # fmt: skip


@at_the_edge
def get_activations(
    model: Traceable,
    prompts: Any,
    layers: Any = None,
    positions: Numbers | Ragged = -1,
    *,
    sites: Any = None,
    reduce: str | None = None,
    dtype: mx.Dtype | None = None,
    to: Folder | None = None,
    memory_limit: int | None = None,
    shard_size: int | None = None,
    progress: bool | None = None,
) -> Any:
    """Activations at token positions, by default the residual stream after each layer.

    In memory it is one batched forward.  With `to=` they are written to a folder as they are
    computed, batch after batch, and the same line goes on where it was stopped: by Ctrl-C, a
    kill, or a full disk.  Where it came to its end before, it gives the store back and runs
    nothing.

    Args:
        prompts: a text, texts, messages or several lists of them, token ids, rows of token ids of
            any lengths, or an array whose axes are (batch, length, ...); with `to=` an iterator
            over any of these too, such as one over a dataset larger than memory.
        layers: layer numbers; all if left out.  Names and patterns of modules and module handles
            as well, and their `.input`.
        positions: one position or several, counted in each prompt by itself: 0 is its first
            token and -1 its last (`"last"`), however long the other prompts are.  `"all"`; or a
            function of a prompt's token ids that gives positions, or True and False for each.
        sites: the same as `layers`, for names and patterns: `"layers.*.mlp"`.
        reduce: `"mean"` for the mean over a prompt's positions, taken in float32.
        dtype: what they are kept in; as the model gives them, if left out.
        to: a folder: a new one, or that of the same question.
        memory_limit: with `to=`, bytes that a forward's values may take, about; a share of the
            machine's memory if left out, and 4,096 tokens at most.
        shard_size: with `to=`, bytes of a file, about; 256 MiB if left out.
        progress: with `to=`, show a bar on stderr; if left out, on a terminal after 3 seconds.
    Returns: `{"layer_3": array}`, by name where a name was given, computed; shape (batch, width)
        for one position or a mean, (batch, positions, width) for a list of them, and for
        positions that differ from prompt to prompt a list of arrays (positions, width).  With
        `to=` an ActivationStore.
    Raises: PositionError for a position that some prompt does not have, BoundsError for a layer
        (both IndexErrors), ShapeError for layers whose outputs have no positions, InputError,
        NoTokenizerError, LayersError.  With `to=` also StoreError (a ValueError) for a folder of
        another model, question or prompts, StoreWriteError (an OSError) for what the disk refuses.
        What was written stays.
    """
    asked = kept(positions, reduce)
    chosen = _chosen(model, layers, sites)
    if to is not None:
        return to_disk(
            model, prompts, chosen, asked, to, dtype=dtype, memory_limit=memory_limit,
            shard_size=shard_size, progress=progress,
        )  # fmt: skip
    _only_with_to(memory_limit=memory_limit, shard_size=shard_size, progress=progress)
    with among_ranks("mg.get_activations", model) as work:
        rows = rows_in(model, prompts)
        size = -(-max(1, len(rows)) // work.size)
        return _in_memory(model, rows, chosen, asked, dtype, size, False, work)


@overload
def batch_get_activations(
    model: Traceable, prompts: Any, layers: Any = None, positions: Numbers = -1,
    batch_size: int | None = None, progress: bool | None = None, *, sites: Any = None,
    reduce: str | None = None, dtype: mx.Dtype | None = None, to: None = None,
) -> dict[str, mx.array]: ...  # fmt: skip


@overload
def batch_get_activations(
    model: Traceable, prompts: Any, layers: Any = None, positions: Numbers | Ragged = -1,
    batch_size: int | None = None, progress: bool | None = None, *, sites: Any = None,
    reduce: str | None = None, dtype: mx.Dtype | None = None, to: Folder,
    memory_limit: int | None = None, shard_size: int | None = None,
) -> ActivationStore: ...  # fmt: skip


@overload
def batch_get_activations(
    model: Traceable, prompts: Any, layers: Any = None, *, positions: Ragged,
    batch_size: int | None = None, progress: bool | None = None, sites: Any = None,
    reduce: str | None = None, dtype: mx.Dtype | None = None, to: None = None,
) -> dict[str, Any]: ...  # fmt: skip


@at_the_edge
def batch_get_activations(
    model: Traceable,
    prompts: Any,
    layers: Any = None,
    positions: Numbers | Ragged = -1,
    batch_size: int | None = None,
    progress: bool | None = None,
    *,
    sites: Any = None,
    reduce: str | None = None,
    dtype: mx.Dtype | None = None,
    to: Folder | None = None,
    memory_limit: int | None = None,
    shard_size: int | None = None,
) -> Any:
    """`get_activations` for many prompts, a batch at a time.

    Memory holds one batch and the results; with `to=` one batch and what waits for the disk.

    Args:
        prompts, layers, positions, sites, reduce, dtype, to, memory_limit, shard_size: as for
            `get_activations`.
        batch_size: prompts in one forward; 8 if left out, and with `to=` as many as
            `memory_limit` allows.  Prompts of like length share a batch, which saves
            padding; the result is in the order given.
        progress: show a bar on stderr, where tqdm is installed (mlx-lm brings it); if left out,
            on a terminal and for four batches or more.
    Returns, Raises: as `get_activations`, and InputError for a batch size below 1.
    """
    if batch_size is not None and whole_number(batch_size, "batch_size") < 1:
        raise InputError(f"a batch holds at least one prompt; batch_size is {batch_size}.")
    asked = kept(positions, reduce)
    chosen = _chosen(model, layers, sites)
    if to is not None:
        return to_disk(
            model, prompts, chosen, asked, to, dtype=dtype, batch_size=batch_size,
            memory_limit=memory_limit, shard_size=shard_size, progress=progress,
        )  # fmt: skip
    _only_with_to(memory_limit=memory_limit, shard_size=shard_size)
    with among_ranks("mg.batch_get_activations", model) as work:
        rows, size = rows_in(model, prompts), batch_size or _IN_MEMORY
        return _in_memory(model, rows, chosen, asked, dtype, size, progress, work)


def _only_with_to(**options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            raise InputError(
                f"{name}= is for activations that go to a folder.\n"
                "  Give to=folder, or leave it out."
            )


def _in_memory(
    model: Traceable,
    rows: list[Row],
    chosen: dict[str, str],
    asked: Kept,
    dtype: mx.Dtype | None,
    batch_size: int,
    progress: bool | None,
    work: Work,
) -> dict[str, Any]:
    """The activations of all prompts: one array, or a list where prompts have rows of their own."""
    positions: list[Any]
    plain = asked.numbers is not None and asked.reduce is None and dtype is None
    if plain:
        wanted = list(asked.numbers or ())
        positions = [_columns(row, wanted, number) for number, row in enumerate(rows)]
    else:
        positions = [asked.of(row, number) for number, row in enumerate(rows)]
    if work.size > 1:
        what = digest(list(chosen.items()), positions, asked.reduce, str(dtype), batch_size)
        work.agree(
            f"{len(rows)} prompts", prompts=digest(rows), arguments=what, weights=weights_of(model)
        )
    if plain:
        return _collect(model, rows, chosen, positions, asked.single, batch_size, progress, work)
    rows_of = RowsOf(model, chosen, asked, dtype, rows[0])
    batches = by_length([len(row) for row in rows], sys.maxsize, batch_size)
    mine = [batches[number] for number in work.mine(_costs(batches, rows))]
    own: dict[int, list[mx.array]] = {}
    for batch in _watched(mine, sum(map(len, mine)), progress if work.shows else False):
        values = rows_of([rows[n] for n in batch], [positions[n] for n in batch])
        counts = [1 if asked.reduce else len(positions[n]) for n in batch]
        ends = np.cumsum(counts)[:-1].tolist()
        split = [mx.split(values[name], ends) for name in chosen]
        for k, number in enumerate(batch):
            own[number] = [parts[k][0] if asked.single else parts[k] for parts in split]
        mx.eval([own[number] for number in batch])
        work.check()
    every = work.exchanged(own)
    found = {
        name: [every[number][k] for number in range(len(rows))] for k, name in enumerate(chosen)
    }
    if asked.numbers is None and not asked.reduce:
        return found
    return {name: mx.stack(parts) for name, parts in found.items()}


def _costs(batches: Sequence[Sequence[int]], rows: Sequence[Row]) -> list[float]:
    """Tokens of each batch, padding included."""
    return [float(len(batch) * max(len(rows[n]) for n in batch)) for batch in batches]


def _collect(
    model: Traceable,
    rows: list[Row],
    chosen: dict[str, str],
    columns: list[list[int]],
    single: bool,
    batch_size: int,
    progress: bool | None,
    work: Work,
) -> dict[str, mx.array]:
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    mine = [batches[number] for number in work.mine(_costs(batches, rows))]
    found: dict[str, list[mx.array]] = {name: [] for name in chosen}
    for batch in _watched(mine, sum(map(len, mine)), progress if work.shows else False):
        values = _one_batch(
            model, [rows[n] for n in batch], [columns[n] for n in batch], chosen.values(), single
        )
        for value in values:  # layer by layer: what a layer gave is let go before the next
            computed(value)
        for name, value in zip(chosen, values, strict=True):
            found[name].append(value)
        work.check()
    order = [number for batch in mine for number in batch]
    parts: dict[str, mx.array] = {}
    for name in chosen if mine else ():  # its batches are let go before the next layer's are joined
        parts[name] = mx.concatenate(found.pop(name))
        mx.eval(parts[name])
    ranks = work.exchanged({work.rank: (order, parts)})
    return _in_order([ranks[rank] for rank in range(work.size)], chosen)


def _in_order(
    parts: list[tuple[list[int], dict[str, mx.array]]], names: Iterable[str]
) -> dict[str, mx.array]:
    """What each rank has found, in the order of the prompts."""
    back = mx.array(np.argsort([number for order, _ in parts for number in order]))
    result = {}
    for name in names:
        result[name] = mx.concatenate([some.pop(name) for order, some in parts if order])[back]
        mx.eval(result[name])
    return result


def _chosen(model: Traceable, layers: Any, sites: Any) -> dict[str, str]:
    """What each result is called, and the site that it is of."""
    check_model(model)
    if sites is not None:
        if layers is not None:
            raise InputError("sites= and layers= mean the same.\n  Give one of them.")
        layers = sites
    several = layers is None or isinstance(layers, (list, tuple, range, np.ndarray))
    given = [layers] if not several else range(len(model.layers)) if layers is None else layers
    found: dict[str, str] = {}
    for one in given:
        if isinstance(one, (int, np.integer)):
            (number,) = choose_layers(model, [int(one)])
            found[f"layer_{number}"] = model.layers[number].path
        else:
            found.update((name, name) for name in names_of(model, one))
    return found


def _columns(row: Row, positions: list[int], number: int) -> list[int]:
    """Positions of one prompt, counted from its end: padding on the left does not move them."""
    length = len(row)
    what = f"prompt {number}"
    return [check_position(position, length, what) - length for position in positions]


def _one_batch(
    model: Traceable,
    rows: list[Row],
    columns: list[list[int]],
    names: Iterable[str],
    single: bool,
) -> list[mx.array]:
    """Each layer's states at the wanted columns, (batch, width) or (batch, positions, width)."""
    longest = max(len(row) for row in rows)
    at = mx.array([[column + longest for column in row] for row in columns])
    which = mx.arange(len(rows))[:, None]
    if single:
        at, which = at[:, 0], which[:, 0]
    kept = []
    axes = axes_at(model, names := list(names), rows)
    with model.trace(batch_of(rows)):
        for name in names:
            stream = first_array(value_at(model, name))
            batch, positions = axes[name]
            if stream.ndim < 3 or batch is None or len(positions) != 1:
                several = "several axes of" if len(positions) > 1 else "no"
                raise ShapeError(
                    f"{name} gives {stream.shape}, which has {several} positions", str(here()),
                    "Give inputs with axes (batch, length, ...), or use collect_activations.",
                )  # fmt: skip
            kept.append(with_axes_first(stream, batch, positions[0])[which, at].save())
    return kept


def _watched(batches: list[list[int]], total: int, progress: bool | None) -> Iterable[list[int]]:
    """The batches, with a bar on stderr where one is wanted and tqdm is there."""
    if progress is None:
        progress = sys.stderr.isatty() and len(batches) >= _LONG_WORK
    if not progress:
        return batches
    try:
        from tqdm import tqdm  # type: ignore[import-untyped]  # comes with mlx-lm; without it there is no bar, and no harm
    except ImportError:
        return batches
    return _with_bar(batches, tqdm(total=total, unit="prompt", desc="activations"))


def _with_bar(batches: list[list[int]], bar: Any) -> Iterable[list[int]]:
    with bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))
