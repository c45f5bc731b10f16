"""Ids that an embedding has no row for: MLX gives zeros for them, or what lies there, or ends the
process.

In: a call, and which of its arrays the forward looks up in an embedding (the census knows); or a
module that is called by hand, and with what.  Out: nothing, or a VocabularyError.
Never: waits for ids that a transformation follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlxgraph.errors import VocabularyError
from mlxgraph.errors.source_line import here
from mlxgraph.graph.nested import leaves, map_nested
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.probes import known_range
from mlxgraph.record.handle import is_handle
from mlxgraph.record.rows import as_placeholder
from mlxgraph.record.stack import paused, stack
from mlxgraph.run.call import Call
from mlxgraph.run.engine import Engine
from mlxgraph.run.rows import rows_of, rows_taken
from mlxgraph.run.tree import ModuleTree


def check_ids(rows: Mapping[int, tuple[str, int]], call: Call) -> None:
    """Raise VocabularyError where an id among the inputs is no row of the embedding it goes into.

    Negative ones count from the end, as MLX has it; among token ids they are a mistake.
    """
    for number, (path, size) in rows.items():
        ids = call.arrays[number]
        known = known_range(ids)
        if known is None:
            continue
        are_tokens = call.tokens is not None and number == 0
        lowest = 0 if are_tokens else -size
        if lowest <= known[0] and known[1] < size:
            continue
        if are_tokens and call.is_ragged:  # the padding is masked, whatever its id
            known = _of_real_tokens(call)
        for token in known:
            if not lowest <= token < size:
                raise VocabularyError(token, path, size, str(here()), are_tokens)


def _of_real_tokens(call: Call) -> tuple[int, int]:
    assert isinstance(call.tokens, ARRAY) and call.lengths is not None
    rows = zip(call.tokens.tolist(), call.lengths, strict=True)  # type: ignore[arg-type]
    real = [token for row, length in rows for token in row[len(row) - length :]]  # type: ignore[misc, index]
    return min(real), max(real)


def check_by_hand(tree: ModuleTree, path: str, args: tuple, kwargs: dict[str, Any]) -> None:
    """Raise VocabularyError where a module called by hand looks an id up that has no row.

    Which arrays are looked up is only asked where one of them cannot be all rows' numbers.
    """
    if not tree.embeddings:
        return
    given = map_nested((args, kwargs), as_placeholder, lambda value: not is_handle(value))
    smallest = min(map(rows_of, tree.embeddings.values()))
    arrays = [value for value in leaves(given) if isinstance(value, ARRAY)]
    outside = {k: found for k, found in _ranges(arrays) if found[0] < 0 or found[1] >= smallest}
    if not outside:
        return
    with paused():
        taken = rows_taken(tree, path, given)
    for k, (embedding, size) in taken.items():
        for number in outside.get(k, ()):
            if not -size <= number < size:
                raise VocabularyError(number, embedding, size, str(here()), False)


def check_plain(engine: Engine, call: Call) -> None:
    """Raise VocabularyError where the bare model would look an id up that has no row.

    A cache among the inputs is whoever's who calls: there ids may come from the model itself, and
    are not waited for.
    """
    found = [*_ranges(call.arrays)] if call.plain else []
    if not found:
        return
    runner = engine.runner
    tree = runner.tree if stack.open else runner.refresh()  # as it was when the block opened
    smallest = min(map(rows_of, tree.embeddings.values()), default=None)
    if smallest is None:
        return
    if any(low < 0 or high >= smallest for _, (low, high) in found):
        check_ids(runner.census(call).rows, call)


def _ranges(arrays: list[Any]) -> Iterator[tuple[int, tuple[int, int]]]:
    for k, array in enumerate(arrays):
        found = known_range(array)
        if found is not None:
            yield k, found
