"""A run as the sum of what was written: stream, writers, final norm, logits.

In: a text and positions.  Out: a `Written`, in which every equality that attribution goes by has been
checked: each layer's output is its input plus its writers, each layer is given what the one before
it gave, the final norm is given the last one's, and is linear once its scale is fixed.
Raises: DecompositionError for a model of which one does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.analysis.frozen_norm import FrozenNorm, frozen_norm
from mlxgraph.analysis.inputs import first_array
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.analysis.unembed import check_head, final_norm
from mlxgraph.analysis.writers import (
    Block,
    Called,
    Writer,
    at,
    block_of,
    children,
    embeddings,
    is_sum,
    same,
    states_of,
    step_of,
    writers_of,
)
from mlxgraph.errors import DecompositionError


class Written(NamedTuple):
    """What a run wrote, (positions, width) each, and how the logits come of it.

    Attributes:
        embed: label and value of what is in the stream before the first layer.
        writers: of each layer, by number; blocks: what they were found in.
        last: the stream after the last layer; norm: the final norm, fixed; None without one.
        logits: of some tokens, (positions, tokens); bias: the head's for these, or None.
        step: the relative distance of neighbouring numbers in the dtype of the run.
        more: what was saved for the layers besides, by number.
    """

    embed: list[tuple[str, mx.array]]
    writers: dict[int, list[Writer]]
    blocks: dict[int, Block]
    last: mx.array
    norm: FrozenNorm | None
    logits: mx.array
    bias: mx.array | None
    step: float
    more: dict[int, Any]

    def before_norm(self, directions: mx.array) -> mx.array:
        """Directions of logits (tokens, width) as directions of the stream, (tokens, positions,
        width)."""
        wide = mx.broadcast_to(
            directions[:, None], (directions.shape[0], self.last.shape[0], directions.shape[1])
        )
        return wide if self.norm is None else self.norm.pulled(wide)


def run_written(
    model: Traceable,
    row: mx.array,
    index: Any,
    tokens: Sequence[int],
    more: Callable[[int, str, dict[str, list[str]]], Any] | None = None,
) -> Written:
    """Run a text once and take it apart.

    Args:
        row: the text; index: of its positions; tokens: whose logits are wanted.
        more: called in the block with a layer's number, its path and the modules that each module
            holds: saves what else is wanted of it.
    """
    norm_path = final_norm(model)
    tree, count, length = children(model), len(model.layers), row.shape[1]
    ids = mx.array(list(tokens))
    blocks: list[Block] = []
    extra: dict[int, Any] = {}
    with model.trace(row):
        for layer in range(count):
            path = model.layers[layer].path
            blocks.append(block_of(model, layer, index, tree))
            if more is not None:
                extra[layer] = more(layer, path, tree)
        width = blocks[0].stream.made.shape[-1]
        embedded = embeddings(model, index, length, width)
        shape = (1, length, width)
        normed = None if norm_path is None else states_of(model, norm_path, index, shape)
        scores = first_array(model.output)
        check_head(model, scores, width)
        logits = at(scores, index)[:, ids].save()
        bias = _bias(model, scores.shape[-1])
    mx.eval([b.stream for b in blocks], [list(b.inside.values()) for b in blocks], normed, logits)
    return _checked(model, blocks, embedded, norm_path, normed, logits, bias, ids, extra)


def _checked(
    model: Traceable,
    blocks: list[Block],
    embedded: list[tuple[str, Any]],
    norm_path: str | None,
    normed: Called | None,
    logits: mx.array,
    bias: mx.array | None,
    ids: mx.array,
    extra: dict[int, Any],
) -> Written:
    stream, before = blocks[0].stream.given, list[str]()
    writers: dict[int, list[Writer]] = {}
    step = 0.0
    for block in blocks:
        if not same(block.stream.given, stream):
            raise DecompositionError(
                f"something comes to the residual stream between {block.path} and the layer before"
            )
        writers[block.number] = writers_of(block, before, f"layers.{block.number}")
        before = [w.path.removeprefix(f"{block.path}.") for w in writers[block.number]]
        stream = block.stream.made
        step = max(step, step_of(stream.dtype))
    norm = None
    last = stream.astype(mx.float32)
    if norm_path is not None:
        if normed is None or normed.given is None or not same(normed.given, stream):
            raise DecompositionError(
                f"the final norm, {norm_path}, is not given what the last layer gives"
            )
        norm = fixed(model, norm_path, normed)
    start = blocks[0].stream.given
    embed = [("embed", start.astype(mx.float32))]
    if len(embedded) > 1 and is_sum(start, [value for _, value in embedded]):
        names = ["embed", "pos_embed", *(path for path, _ in embedded[2:])]
        embed = [(n, v.astype(mx.float32)) for n, (_, v) in zip(names, embedded, strict=True)]
    head = None if bias is None else bias[ids].astype(mx.float32)
    by_number = {block.number: block for block in blocks}
    return Written(
        embed, writers, by_number, last, norm, logits.astype(mx.float32), head, step, extra
    )


def fixed(model: Traceable, path: str, called: Called) -> FrozenNorm:
    """A norm as the linear map that it was in a run.  Raises: DecompositionError."""
    step = step_of(called.made.dtype)
    given, made = called.given.astype(mx.float32), called.made.astype(mx.float32)
    norm = frozen_norm(model[path].module, given, made, step)
    if norm is None:
        raise DecompositionError(
            f"{path} ({type(model[path].module).__name__}) is no norm that is linear once its scale"
            " is fixed"
        )
    return norm


def _bias(model: Traceable, size: int) -> mx.array | None:
    """In a block: the bias of the head, which gives so many scores."""
    for path, module in model.named_modules():
        inner = module["linear"] if "linear" in module else module
        bias = inner.get("bias")
        if not isinstance(bias, mx.array) or tuple(bias.shape) != (size,):
            continue
        if any(path.startswith(f"{model.layers[k].path}.") for k in range(len(model.layers))):
            continue
        return bias
    return None
