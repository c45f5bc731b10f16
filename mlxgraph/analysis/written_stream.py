"""A run as the sum of what was written: stream, writers, final norm, logits.

In: a text and positions.  Out: a `Written`, of which every equality that attribution goes by has
been checked: each layer's output is its input plus its writers, each layer is given what the one
before it gave, the final norm is given the last one's, and is linear once its scale is fixed.
Raises: DecompositionError for a model of which one does not hold.

What was found of a model says where to look first the next time.  It is checked as if it were new.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.frozen_norm import FrozenNorm, frozen_norm
from mlxgraph.analysis.inputs import first_array
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.analysis.unembed import (
    MOST_SCORES,
    are_scores_of,
    check_head,
    check_positions,
    final_norm,
    has_last_edits,
    own_scores,
    scores_in_blocks,
)
from mlxgraph.analysis.writers import (
    Block,
    Called,
    Writer,
    at,
    block_of,
    children,
    embeddings,
    is_sum,
    own_modules,
    states_of,
    writers_of,
)
from mlxgraph.errors import DecompositionError, VocabularyError
from mlxgraph.errors.source_line import here

PROBES = 8  # tokens beside the asked ones whose logits are compared with the model's own


@dataclasses.dataclass
class Found:
    """What was found of a model: where to look.

    Attributes:
        norm: the final norm; tree: the modules that each module holds.
        own: of each layer by its path, the modules that `block_of` takes.
        projections: of an attention or MLP by its path, the module that it ends in.
    """

    norm: str | None
    tree: dict[str, list[str]]
    own: dict[str, tuple[dict[str, bool], dict[str, str]]] = dataclasses.field(default_factory=dict)
    projections: dict[str, str] = dataclasses.field(default_factory=dict)


_found: WeakKeyDictionary[Any, Found] = WeakKeyDictionary()


def is_known(model: Traceable) -> bool:
    """Whether anything was found of a model before."""
    return model in _found


def forget(model: Traceable) -> None:
    """Look everywhere the next time."""
    _found.pop(model, None)


class Written(NamedTuple):
    """What a run wrote, (positions, width) each, and how the logits come of it.

    Attributes:
        embed: label and value of what is in the stream before the first layer.
        writers: of each layer, by number; blocks: what they were found in.
        last: the stream after the last layer; norm: the final norm, fixed; None without one.
        tokens: those asked for, and others all over the vocabulary; logits: theirs, (positions,
            tokens); bias: the head's for these, or None.
        step: the relative distance of neighbouring numbers in the dtype of the run.
        more: what was saved for the layers besides, by number; found: where things are.
    """

    embed: list[tuple[str, np.ndarray]]
    writers: dict[int, list[Writer]]
    blocks: dict[int, Block]
    last: np.ndarray
    norm: FrozenNorm | None
    tokens: list[int]
    logits: np.ndarray
    bias: np.ndarray | None
    step: float
    more: dict[int, Any]
    found: Found

    def before_norm(self, directions: np.ndarray) -> np.ndarray:
        """Directions of logits (tokens, width) as directions of the stream, (tokens, positions,
        width)."""
        shape = (directions.shape[0], self.last.shape[0], directions.shape[1])
        wide = np.broadcast_to(directions[:, None], shape)
        return wide if self.norm is None else self.norm.pulled(wide)


def run_written(
    model: Traceable,
    row: mx.array,
    index: Any,
    asked: Sequence[int],
    more: Callable[[int, str, Found], Any] | None = None,
) -> Written:
    """Run a text once and take it apart.

    Args:
        row: the text; index: of its positions; asked: tokens whose logits are wanted.
        more: called in the block with a layer's number, its path and what is known: saves what
            else is wanted of it.
    Raises: DecompositionError, VocabularyError.
    """
    found = _found.get(model) or Found(final_norm(model), children(model))
    length = row.shape[1]
    blocks: list[Block] = []
    extra: dict[int, Any] = {}
    stream = model.residual_stream(row)
    with model.trace(row):
        scores = first_array(model.output)
        check_positions(scores)
        tokens = _with_probes(asked, scores.shape[-1])
        for layer in range(len(model.layers)):
            path = model.layers[layer].path
            own = found.own.get(path) or own_modules(model, found.tree, path)
            blocks.append(block_of(model, layer, index, *own, stream[layer].writers))
            if more is not None:
                extra[layer] = more(layer, path, found)
        width = blocks[0].stream.made.shape[-1]
        check_head(model, scores, width)
        large = scores.shape[1] * scores.shape[2] > MOST_SCORES
        logits = None if large else at(scores, index)[:, mx.array(tokens)].save()
        last = first_array(model.layers[-1].output).save() if large else None
        embedded = embeddings(model, index, length, width)
        normed = None
        if found.norm is not None:
            normed = states_of(model, found.norm, index, (1, length, width))
        bias = _bias(model, scores.shape[-1])
    if logits is None:
        logits = _of_few(model, row, last, index, mx.array(tokens))
    if bias is not None:
        bias = bias[mx.array(tokens)]
    saved = (blocks, extra, embedded, normed, logits, bias)
    blocks, extra, embedded, normed, logits, bias = in_numpy(saved)
    writers, step = _writers(blocks)
    norm = _final(model, found, blocks[-1], normed)
    for block in blocks:
        found.own[block.path] = _wanted(block, writers[block.number]), block.known
    _found[model] = found
    return Written(
        _embed(blocks[0], embedded), writers, {block.number: block for block in blocks},
        blocks[-1].stream.made, norm, tokens, logits, bias, step, extra, found,
    )  # fmt: skip


def _of_few(
    model: Traceable, row: mx.array, stream: mx.array, index: Any, tokens: mx.array
) -> mx.array:
    """The model's logits of some tokens at some positions, without those of all.

    Args: stream: what its last layer gave, (1, length, width).
    """
    states = stream[0, index]
    one = index.stop - 1 if isinstance(index, slice) else index[-1].item()
    if not has_last_edits(model):
        own = own_scores(model, row, stream, slice(one, one + 1))[0]
        if are_scores_of(model, states[-1], own):
            found = []
            for scores in scores_in_blocks(model, states):
                found.append(scores[:, tokens])
                mx.eval(found[-1])
            return mx.concatenate(found)
    return own_scores(model, row, stream, index)[:, tokens]


def _with_probes(asked: Sequence[int], size: int) -> list[int]:
    """The asked tokens, and others all over the vocabulary.  Raises: VocabularyError."""
    for token in asked:
        if not 0 <= token < size:
            raise VocabularyError(token, "the model's output", size, str(here()))
    return [*asked, *range(0, size, max(1, size // PROBES))]


def in_numpy(value: Any) -> Any:
    """A nested value with its arrays in numpy, float32, computed in one go."""
    flat: list[mx.array] = []
    _mapped(value, lambda array: flat.append(array.astype(mx.float32)))
    mx.eval(flat)
    arrays = iter(flat)
    return _mapped(value, lambda _: np.array(next(arrays)))


def _mapped(value: Any, of: Callable[[mx.array], Any]) -> Any:
    if isinstance(value, mx.array):
        return of(value)
    if isinstance(value, dict):
        return {key: _mapped(part, of) for key, part in value.items()}
    if isinstance(value, list) or type(value) is tuple:
        return type(value)(_mapped(part, of) for part in value)
    if isinstance(value, tuple):  # a named one
        return type(value)(*(_mapped(part, of) for part in value))
    return value


def _writers(blocks: list[Block]) -> tuple[dict[int, list[Writer]], float]:
    stream = blocks[0].stream.given
    writers: dict[int, list[Writer]] = {}
    for block in blocks:
        if not np.array_equal(block.stream.given, stream):
            raise DecompositionError(
                f"something comes to the residual stream between {block.path} and the layer before"
            )
        writers[block.number] = writers_of(block)
        stream = block.stream.made
    return writers, max(block.step for block in blocks)


def _final(model: Traceable, found: Found, last: Block, normed: Called | None) -> FrozenNorm | None:
    if found.norm is None:
        return None
    if normed is None or normed.given is None or not np.array_equal(normed.given, last.stream.made):
        raise DecompositionError(
            f"the final norm, {found.norm}, is not given what the last layer gives"
        )
    return fixed(model, found.norm, normed, last.step)


def fixed(model: Traceable, path: str, called: Called, step: float) -> FrozenNorm:
    """A norm as the linear map that it was in a run.  Raises: DecompositionError."""
    module = model[path].module
    norm = frozen_norm(module, called.given, called.made, step)
    if norm is None:
        raise DecompositionError(
            f"{path} ({type(module).__name__}) is no norm that is linear once its scale is fixed"
        )
    return norm


def _embed(first: Block, embedded: list[np.ndarray]) -> list[tuple[str, np.ndarray]]:
    start = first.stream.given
    if len(embedded) == 2 and is_sum(start, embedded, first.step):
        return [("embed", embedded[0]), ("pos_embed", embedded[1])]
    return [("embed", start)]


def _bias(model: Traceable, size: int) -> mx.array | None:
    """The bias of the head, which gives so many scores."""
    layers = tuple(f"{model.layers[k].path}." for k in range(len(model.layers)))
    for path, module in model.named_modules():
        inner = module["linear"] if "linear" in module else module
        bias = inner.get("bias")
        if isinstance(bias, mx.array) and tuple(bias.shape) == (size,):
            if not path.startswith(layers):
                return bias
    return None


def _wanted(block: Block, writers: list[Writer]) -> dict[str, bool]:
    """What to look at the next time: the writers, and what they norm; and at what these norms are
    given."""
    is_norm = {writer.path: writer.path != writer.source for writer in writers}
    return {writer.source: False for writer in writers} | is_norm
