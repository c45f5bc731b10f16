"""Ids that an embedding has no row for: MLX gives zeros for them, and says nothing.

In: a call, and which of its arrays the forward looks up in an embedding (the census knows).
Out: nothing, or an InputError.  Never: waits for ids that a transformation follows.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlxgraph.errors import InputError
from mlxgraph.errors.source_line import here
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.probes import known_range
from mlxgraph.run.call import Call


def check_ids(rows: Mapping[int, tuple[str, int]], call: Call) -> None:
    """Raise InputError where an id among the inputs is no row of the embedding it goes into.

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
                raise InputError(_said(token, path, size, are_tokens))


def _of_real_tokens(call: Call) -> tuple[int, int]:
    assert isinstance(call.tokens, ARRAY) and call.lengths is not None
    rows = zip(call.tokens.tolist(), call.lengths, strict=True)  # type: ignore[arg-type]
    real = [token for row, length in rows for token in row[len(row) - length :]]  # type: ignore[misc, index]
    return min(real), max(real)


def _said(token: int, path: str, size: int, are_tokens: bool) -> str:
    if not are_tokens:
        return f"the index {token} is outside of {path}, which has {size} rows.\n  at {here()}"
    return (
        f"token id {token} is outside the vocabulary of {size} tokens ({path}): ids go from 0 to"
        f" {size - 1}.\n  at {here()}\n  Encode the text with the tokenizer of this model."
    )
