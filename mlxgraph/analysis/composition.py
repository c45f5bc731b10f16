"""Composition scores: how much of what a head writes, a later head's weights would read.

A head reads the stream by its queries, keys and values, and writes by its values and output
projection: two maps of the stream, of low rank, `W_QK = W_Q^T W_K` and `W_OV = W_O W_V`.  What one
gives the other, by their sizes, is a number between 0 and 1.

The maps are the model's own, whatever its modules are called and however its weights are stored: an
attention is given a basis of the stream, token by token, and its queries, keys and values are seen;
its heads are given a basis, and what it gives is seen.

In: a model.  Out: Effects.  Raises where an attention is not linear in these.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.effects import Effects
from mlxgraph.analysis.frozen_norm import FrozenNorm, frozen_norm
from mlxgraph.analysis.inputs import arrays_in, choose_layers, first_array
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.analysis.unembed import is_edited
from mlxgraph.analysis.writers import Block, block_of, children, own_modules, step_of, writers_of
from mlxgraph.analysis.written_stream import fixed, in_numpy
from mlxgraph.errors import (
    DecompositionError,
    InputError,
    NeverCalledError,
    RankError,
    UnknownNameError,
    UnknownSiteError,
)
from mlxgraph.ranks.held import is_spread

KINDS = ("q", "k", "v")
CLOSE = {mx.float32: 1e-3, mx.float16: 2e-2, mx.bfloat16: 8e-2}  # of a linear map and its matrix
EXAMPLE = 4  # tokens of the run in which norms and writers are found


class Head(NamedTuple):
    """What scores need of the heads of one layer, each (heads, ...), in float32.

    Attributes: queries, keys, values: (heads, head dimension, width); output: (heads, width, head
        dimension): from and to the residual stream.
    """

    queries: mx.array
    keys: mx.array
    values: mx.array
    output: mx.array


def composition_scores(model: Traceable, kind: str = "k", layers: Any = None) -> Effects:
    """How much each head's output is what a later head's weights read.

    `||A W_OV|| / (||A|| ||W_OV||)`, Frobenius norms, of the sender's `W_OV` and the receiver's
    `A = W_QK^T` by its queries (`"q"`), `W_QK` by its keys (`"k"`), `W_OV` by its values (`"v"`).
    Gains of norms before, in and after attention are part of the maps.  Left out is what is no
    matrix: biases, the scale of norms, rotation by position (maps are of position 0, where it does
    nothing), the pattern.  Matrices that have nothing to do with each other score about
    `attrs["random"]`, one over the root of the width.

    Args:
        kind: by what the receiver reads: `"q"`, `"k"` or `"v"`.
        layers: whose heads; all that have an attention if left out.
    Returns: Effects along "sender_layer", "sender_head", "receiver_layer" and "receiver_head", NaN
        where the receiver's layer is not a later one.
    Raises: UnknownNameError for a kind; DecompositionError (a ValueError) where queries, keys or
        values are no linear map of the stream; NoLayerError, InputError.
    Source: Elhage et al. 2021, "A mathematical framework for transformer circuits".

    Example:
        >>> scores = model.composition_scores("k")
        >>> scores.top(5)
        >>> scores.sel(sender_layer=0, receiver_layer=1).plot()
    """
    if kind not in KINDS:
        raise UnknownNameError("kind of composition", str(kind), KINDS)
    if is_spread(module for _, module in model.named_modules()):
        raise RankError(
            "composition scores are of whole weights, and each rank has parts of this model's",
            "Load the model in one process, without its shard(), and ask there.",
        )
    asked = layers is not None
    chosen = sorted(choose_layers(model, layers))
    try:
        found = _heads_of(model, chosen, asked, kind)
    except IndexError as error:
        if not is_edited(model):
            raise
        raise DecompositionError(
            "an edit that stays asks for positions of a text, and scores are of weights",
            "Write model.without_edits().composition_scores(...).",
        ) from error
    if len(found) < 2:
        raise InputError(
            "a head composes with one of a later layer, and there is"
            f" {'one layer' if found else 'no layer'} with heads.\n  Leave layers= out for all."
        )
    numbers = [*found]
    most = max(head.values.shape[0] for head in found.values())
    table = np.full((len(numbers), most, len(numbers), most), math.nan, dtype=np.float32)
    sizes = {layer: _Sizes.of(head) for layer, head in found.items()}
    for a, sender in enumerate(numbers):
        for b, receiver in enumerate(numbers[a + 1 :], a + 1):
            scores = np.array(_scores(kind, sizes[sender], sizes[receiver]))
            table[a, : scores.shape[0], b, : scores.shape[1]] = scores
    width = found[numbers[0]].values.shape[-1]
    heads = range(most)
    return Effects(
        table,
        {
            "sender_layer": numbers,
            "sender_head": heads,
            "receiver_layer": numbers,
            "receiver_head": heads,
        },
        name=f"{kind.upper()}-composition",
        attrs={
            "kind": kind,
            "random": 1 / math.sqrt(width),
            "title": f"{kind.upper()}-composition",
        },
    )


# -- the scores ------------------------------------------------------------------------------------


class _Sizes(NamedTuple):
    """Heads, and the squares of their factors: all that a Frobenius norm of a product needs."""

    head: Head
    of_queries: mx.array
    of_keys: mx.array
    of_values: mx.array
    of_output: mx.array

    @classmethod
    def of(cls, head: Head) -> _Sizes:
        rows = [part @ part.swapaxes(-1, -2) for part in head[:3]]
        return cls(head, rows[0], rows[1], rows[2], head.output.swapaxes(-1, -2) @ head.output)


def _size(left: mx.array, right: mx.array) -> mx.array:
    """`||X Y||` of `X^T X` and `Y Y^T`."""
    return mx.sqrt(mx.maximum(mx.sum(left * right.swapaxes(-1, -2), axis=(-2, -1)), 0.0))


def _scores(kind: str, sender: _Sizes, receiver: _Sizes) -> mx.array:
    """(sender heads, receiver heads): of the maps' factors, `X (R W_O) W_V`, where the receiver
    reads by R and goes on by X."""
    head = receiver.head
    reads = {"q": head.queries, "k": head.keys, "v": head.values}[kind]
    own = {"q": receiver.of_queries, "k": receiver.of_keys, "v": receiver.of_values}[kind]
    on = {"q": receiver.of_keys, "k": receiver.of_queries, "v": receiver.of_output}[kind]
    between = (
        reads[None] @ sender.head.output[:, None]
    )  # (senders, receivers, dimension, dimension)
    left = between.swapaxes(-1, -2) @ on[None] @ between
    whole = _size(left, sender.of_values[:, None])
    sizes = _size(sender.of_output, sender.of_values)[:, None] * _size(on, own)[None]
    return whole / mx.maximum(sizes, 1e-30)


# -- the maps --------------------------------------------------------------------------------------


def _heads_of(model: Any, layers: list[int], asked: bool, kind: str) -> dict[int, Head]:
    tree, paths = children(model), dict[int, str]()
    blocks: dict[int, Block] = {}
    tokens = mx.arange(1, EXAMPLE + 1)[None]
    stream = model.residual_stream(tokens)
    with model.trace(tokens):
        for layer in layers:
            path = model.layers[layer].path
            try:
                paths[layer] = model[f"{path}.attn"].path
                first_array(model[f"{path}.attn.heads"].output)
            except (UnknownSiteError, NeverCalledError):
                paths.pop(layer, None)
                if asked:
                    raise
                continue
            own = own_modules(model, tree, path)
            blocks[layer] = block_of(model, layer, slice(None), *own, stream[layer].writers)
    blocks = in_numpy(blocks)
    found = {}
    for layer, block in blocks.items():
        before, after, factor = _norms(model, block, paths[layer])
        queries, keys, values, output = _maps(
            model, paths[layer], block, kind, tree.get(paths[layer], [])
        )
        count = output.shape[0]
        reads = [
            mx.repeat(_reading(before, part), count // part.shape[0], axis=0)
            for part in (queries, keys, values)
        ]
        found[layer] = Head(reads[0], reads[1], reads[2], factor * _writing(after, output))
        mx.eval(found[layer])
    return found


def _reading(norm: FrozenNorm | None, maps: mx.array) -> mx.array:
    """Maps (heads, out, width) of what a norm gives, as maps of what it is given."""
    if norm is None:
        return maps
    maps = maps * mx.array(norm.gain)
    return maps - mx.mean(maps, axis=-1, keepdims=True) if norm.centred else maps


def _writing(norm: FrozenNorm | None, maps: mx.array) -> mx.array:
    """Maps (heads, width, in) with a norm after them."""
    if norm is None:
        return maps
    maps = maps - mx.mean(maps, axis=-2, keepdims=True) if norm.centred else maps
    return mx.array(norm.gain)[:, None] * maps


def _norms(
    model: Any, block: Block, attention: str
) -> tuple[FrozenNorm | None, FrozenNorm | None, float]:
    """The norms before and after attention, if there are any; by how much what comes is added."""
    writers = [w for w in writers_of(block) if attention in (w.path, w.source)]
    if len(writers) != 1:
        raise DecompositionError(f"{attention} does not write to the residual stream by itself")
    path, factor = writers[0].path, writers[0].factor
    after = None if path == attention else fixed(model, path, block.inside[path], block.step)
    given = block.inside[attention].given
    if given is not None and np.array_equal(given, block.stream.given):
        return None, after, factor
    for name, called in block.inside.items():
        if (
            given is None
            or called.given is None
            or not np.array_equal(called.given, block.stream.given)
        ):
            continue
        if np.array_equal(called.made, given):
            return fixed(model, name, called, block.step), after, factor
    raise DecompositionError(f"{attention} is not given the residual stream, or a norm of it")


def _maps(
    model: Any, path: str, block: Block, kind: str, own: list[str]
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Queries, keys, values and output of an attention's heads, as maps of what it is given."""
    width = block.stream.made.shape[-1]
    mixed = mx.cos(mx.arange(width, dtype=mx.float32))[None]
    basis = mx.concatenate([mx.eye(width), mixed, mx.zeros((1, width))])
    reads: list[Any] = []
    for name in ("queries", "keys", "values"):
        if kind == "v" and name != "values":
            reads.append(None)
            continue
        read = _read(model, path, name, basis, own)
        reads.append(_read_map(model, path, name, read, mixed))
    queries, keys, values = (reads[2] if part is None else part for part in reads)
    with model.trace(mx.zeros((1, 1), dtype=mx.int32)):
        _, heads, _, size = model[f"{path}.heads"].output.shape
    total = heads * size
    mixed = mx.cos(mx.arange(total, dtype=mx.float32))[None]
    basis = mx.concatenate([mx.eye(total), mixed, mx.zeros((1, total))])
    with model.trace(mx.zeros((total + 2, 1), dtype=mx.int32)):
        model[f"{path}.heads"].output = basis.reshape(total + 2, heads, 1, size)
        made = first_array(model[path].output)[:, 0].save()
    output = _linear(made[:, None], mixed)
    if output is None:
        raise _no_map(path, "output")
    return queries, keys, values, output[0].reshape(width, heads, size).swapaxes(0, 1)


class _Read(NamedTuple):
    """What an attention makes of states at position 0.

    Attributes: made: (states, heads, head dimension); inside: what its own modules that give so
        many numbers are given and give, by path.
    """

    made: mx.array
    inside: dict[str, tuple[mx.array, mx.array]]


def _read(model: Any, path: str, name: str, basis: mx.array, own: list[str]) -> _Read:
    """Queries, keys or values of each of some states.  Args: own: modules of the attention."""
    inside = {}
    with model.trace(mx.zeros((basis.shape[0], 1), dtype=mx.int32)):
        given = next(arrays_in(model[path].inputs))
        given[...] = basis[:, None]
        made = model[f"{path}.{name}"].output[:, :, 0].save()
        for module in own:
            try:
                before, after = (
                    next(arrays_in(value), None)
                    for value in (model[module].inputs, model[module].output)
                )
            except (NeverCalledError, UnknownSiteError):
                continue
            if isinstance(before, mx.array) and isinstance(after, mx.array):
                if before.shape == after.shape and after.size == made.size:
                    inside[module] = before.save(), after.save()  # type: ignore[attr-defined]
    return _Read(made, inside)


def _read_map(model: Any, path: str, name: str, read: _Read, mixed: mx.array) -> mx.array:
    """Queries, keys or values as a map (heads, head dimension, width); with a norm as their last
    step, but for its scale.

    Raises: DecompositionError where they are none.
    """
    made = read.made
    found = _linear(made, mixed)
    if found is not None:
        return found
    for module, (before, after) in read.inside.items():
        gap = mx.abs(after.reshape(made.shape) - made).max()
        before_it = _linear(before.reshape(made.shape), mixed)
        if before_it is None or (gap > _close(made)).item():
            continue
        size = before.shape[-1]
        one, other = in_numpy([before[-2].reshape(-1, size), after[-2].reshape(-1, size)])
        norm = frozen_norm(model[module].module, one, other, step_of(made.dtype))
        if norm is not None:
            maps = _writing(norm, before_it.reshape(-1, size, before_it.shape[-1]))
            return maps.reshape(before_it.shape)
    raise _no_map(path, name)


def _linear(made: mx.array, mixed: mx.array) -> mx.array | None:
    """The matrix, (heads, out, in), of what came of a basis, of one more state and of zeros; None
    where the one more is not what the matrix makes of it."""
    wide = made.astype(mx.float32)
    linear = wide[:-1] - wide[-1]
    matrix = linear[:-1].transpose(1, 2, 0)
    expected = (matrix @ mixed[0]).reshape(linear[-1].shape)
    gap = mx.abs(expected - linear[-1]).max()
    return matrix if (gap <= _close(made, expected)).item() else None


def _close(made: mx.array, size: mx.array | None = None) -> mx.array:
    """By how much numbers may differ that rounding sets apart."""
    of = made.astype(mx.float32) if size is None else size
    return CLOSE.get(made.dtype, 1e-3) * mx.abs(of).max() + 1e-12


def _no_map(path: str, name: str) -> DecompositionError:
    advice = "Look at the pattern instead, attn.pattern."
    if name in ("queries", "keys"):
        advice = "Write kind='v' where the values are, or look at the pattern, attn.pattern."
    return DecompositionError(
        f"the {name} of {path} are no linear map of the stream (a norm or a gate is in it)", advice
    )
