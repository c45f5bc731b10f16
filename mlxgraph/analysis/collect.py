"""Activations of many prompts at chosen layers and token positions.

In: prompts of any lengths.  Out: one array for each layer, a row for each prompt.
Only the positions that were asked for leave a batch, and they are computed before the next batch
begins, so memory does not grow with the number of prompts beyond the result itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.inputs import (
    axes_at,
    check_model,
    check_position,
    choose_layers,
    encoded_rows,
    first_array,
    holds_tokens,
    is_encoding,
    is_messages,
    names_of,
    value_at,
    with_axes_first,
)
from mlxgraph.analysis.together import among_ranks, weights_of
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, ShapeError
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import at_the_edge
from mlxgraph.ranks.said import digest
from mlxgraph.ranks.together import Work

_LONG_WORK = 4  # batches from which on a bar is worth its line


@at_the_edge
def get_activations(
    model: Traceable,
    prompts: str | Sequence[Any] | mx.array,
    layers: Sequence[Any] | None = None,
    positions: int | Sequence[int] = -1,
) -> dict[str, mx.array]:
    """The residual stream after each layer at token positions, in one batched forward.

    Args:
        prompts: a text, texts, messages or several lists of them, token ids, rows of token ids of
            any lengths, or an array whose axes are (batch, length, ...).
        layers: layer numbers; all if left out.  Names and patterns of modules and module handles
            as well, and their `.input`.
        positions: one position or several, counted in each prompt by itself: 0 is its first
            token and -1 its last, however long the other prompts are.
    Returns: `{"layer_3": array}`, by name where a name was given, computed; shape (batch, width)
        for one position, (batch, positions, width) for a list of them.
    Raises: PositionError for a position that some prompt does not have, BoundsError for a layer
        (both IndexErrors), ShapeError for layers whose outputs have no positions, InputError,
        NoTokenizerError, LayersError.
    """
    with among_ranks("mg.get_activations", model) as work:
        rows = _rows(model, prompts)
        size = -(-max(1, len(rows)) // work.size)
        return _collect(model, rows, layers, positions, size, False, work)


@at_the_edge
def batch_get_activations(
    model: Traceable,
    prompts: Sequence[Any] | mx.array,
    layers: Sequence[Any] | None = None,
    positions: int | Sequence[int] = -1,
    batch_size: int = 8,
    progress: bool | None = None,
) -> dict[str, mx.array]:
    """`get_activations` for many prompts, a batch at a time.

    Memory holds one batch and the results.

    Args:
        prompts, layers, positions: as for `get_activations`.
        batch_size: prompts in one forward.  Prompts of like length share a batch, which saves
            padding; the result is in the order given.
        progress: show a bar on stderr, where tqdm is installed (mlx-lm brings it); if left out,
            on a terminal and for four batches or more.
    Returns, Raises: as `get_activations`, and InputError for a batch size below 1.
    """
    if batch_size < 1:
        raise InputError(f"a batch holds at least one prompt; batch_size is {batch_size}.")
    with among_ranks("mg.batch_get_activations", model) as work:
        rows = _rows(model, prompts)
        return _collect(model, rows, layers, positions, batch_size, progress, work)


Row: TypeAlias = "list[int] | mx.array"


def _rows(model: Traceable, prompts: Any) -> list[Row]:
    """One entry for each prompt: its token ids, or its array without the batch axis."""
    check_model(model)
    if isinstance(prompts, str) or is_messages(prompts):
        return [model.encode(prompts)]
    if is_encoding(prompts):
        return list(encoded_rows(model, prompts))
    if isinstance(prompts, np.ndarray) and prompts.dtype.kind in "UO":  # of texts
        return _rows(model, prompts.tolist())
    if isinstance(prompts, (mx.array, np.ndarray)):
        array = mx.array(prompts)
        if array.ndim == 1:
            return [array.tolist()]  # type: ignore[list-item]
        tokens = holds_tokens(array) and array.ndim == 2
        return array.tolist() if tokens else list(array)  # type: ignore[return-value]
    if not isinstance(prompts, Iterable):
        raise InputError(
            f"texts or token ids are needed, not a {type(prompts).__name__}.\n"
            "  Give a list of texts."
        )
    rows = list(prompts)
    if not rows:
        raise InputError("there are no prompts.\n  Give at least one.")
    if all(isinstance(row, (int, np.integer)) for row in rows):
        return [[int(token) for token in rows]]
    return [_row(model, row) for row in rows]


def _row(model: Traceable, row: Any) -> Row:
    if isinstance(row, str) or is_messages(row):
        return model.encode(row)
    array = mx.array(row)
    if array.ndim == 1 and holds_tokens(array):
        return array.tolist()  # type: ignore[return-value]
    return array


def _collect(
    model: Traceable,
    rows: list[Row],
    layers: Sequence[Any] | None,
    positions: int | Sequence[int],
    batch_size: int,
    progress: bool | None,
    work: Work,
) -> dict[str, mx.array]:
    chosen = _chosen(model, layers)
    single = isinstance(positions, (int, np.integer))
    if isinstance(positions, str):
        raise InputError(
            f"positions={positions!r} are no positions.\n  Write positions=-1 for the last token,"
            " or a list of numbers."
        )
    wanted = [int(positions)] if single else [int(p) for p in positions]  # type: ignore
    columns = [_columns(row, wanted, number) for number, row in enumerate(rows)]
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if work.size > 1:
        asked = digest(list(chosen.items()), positions, batch_size)
        what = f"{len(rows)} prompts"
        work.agree(what, prompts=digest(rows), arguments=asked, weights=weights_of(model))
    costs = [float(len(batch) * len(rows[batch[-1]])) for batch in batches]
    mine = [batches[number] for number in work.mine(costs)]
    found: dict[str, list[mx.array]] = {name: [] for name in chosen}
    for batch in _watched(mine, sum(map(len, mine)), progress if work.shows else False):
        values = _one_batch(
            model, [rows[n] for n in batch], [columns[n] for n in batch], chosen.values(), single
        )
        for value in values:  # layer by layer: what a layer gave is let go before the next
            mx.eval(value)
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


def _chosen(model: Traceable, layers: Any) -> dict[str, str]:
    """What each result is called, and the site that it is of."""
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
    with model.trace(_batch(rows)):
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


def _batch(rows: list[Row]) -> Any:
    if isinstance(rows[0], mx.array):
        return mx.stack(rows)  # type: ignore[arg-type]
    return rows


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
