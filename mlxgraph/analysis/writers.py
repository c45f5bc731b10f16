"""What a model's layers write to the residual stream: found in a run, and checked there.

A layer's output is its input plus what some of its own modules gave: attention and the MLP, or the
norms after them, as they are or by a factor.  Which these are `model.residual_stream` says; that
their sum is what the layer added in this run, at every position that is looked at, up to the
rounding of the additions, is checked.

In: a run's values.  Out: the writers of each layer.  Raises where a layer is no such sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxgraph.analysis.inputs import arrays_in, first_array
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import DecompositionError, NeverCalledError, UnknownSiteError
from mlxgraph.ranks.held import is_given_parts
from mlxgraph.ranks.parts import gather

ROUNDINGS = 4  # half steps of the dtype that an addition may be off by, relative to what is added
ATTENTION, MLP = "attn", "mlp"
_ORDER = {ATTENTION: 0, MLP: 2}


class Called(NamedTuple):
    """What a module was given first and what it gave, (positions, width) each; `given` is None
    where it is no states, or was not asked for."""

    given: Any
    made: Any


class Block(NamedTuple):
    """One layer in a run.

    Attributes:
        path: the module; known: `"attn"` and `"mlp"` by the paths of what goes by these names;
            inside: its own modules that were called on states, by path.
        step: how far apart neighbouring numbers of its dtype are, relative to them.
        parts: name and factor of each module whose output it adds, as `model.residual_stream` says.
    """

    number: int
    path: str
    stream: Called
    known: dict[str, str]
    inside: dict[str, Called]
    step: float
    parts: tuple[tuple[str, float], ...]


class Writer(NamedTuple):
    """A module whose output a layer adds to the stream.

    Attributes:
        label: `"layers.3.attn"`; kind: `"attn"`, `"mlp"`, or the module's own name.
        path: the module; source: the one whose output it norms, or the same.
        value: (positions, width), float32, as it is added: what the module gives by `factor`.
    """

    label: str
    layer: int
    kind: str
    path: str
    source: str
    value: np.ndarray
    factor: float = 1.0


# -- the tree --------------------------------------------------------------------------------------


def children(model: Traceable) -> dict[str, list[str]]:
    """The paths of the modules that each module itself holds, lists and dicts of them looked
    through."""
    paths = [path for path, _ in model.named_modules()]
    there, found = set(paths), dict[str, list[str]]()
    for path in paths:
        above = path.rpartition(".")[0]
        while above and above not in there:
            above = above.rpartition(".")[0]
        found.setdefault(above, []).append(path)
    return found


def below(tree: Mapping[str, list[str]], path: str) -> Iterator[str]:
    """A module and all that it holds."""
    yield path
    for child in tree.get(path, ()):
        if child != path:
            yield from below(tree, child)


# -- in a block ------------------------------------------------------------------------------------


def states_of(
    model: Traceable, path: str, index: Any, shape: Sequence[int], with_given: bool = True
) -> Called | None:
    """What a module is given and gives at some positions, saved; None where it is not called, or
    does not give states of this shape."""
    try:
        handle = model[path]
        made = first_array(handle.output)
        if not isinstance(made, mx.array) or tuple(made.shape) != tuple(shape):
            return None
        given = next(arrays_in(handle.inputs), None) if with_given else None
    except (NeverCalledError, UnknownSiteError):
        return None
    if given is not None and is_given_parts(handle.module):
        given = gather(given, -1)
    of_states = isinstance(given, mx.array) and given.shape[:-1] == made.shape[:-1]
    return Called(at(given, index).save() if of_states else None, at(made, index).save())  # type: ignore


def at(value: Any, index: Any) -> Any:
    """A value (1, length, width) at some positions."""
    return value[0, index]


def block_of(
    model: Traceable,
    number: int,
    index: Any,
    own: Mapping[str, bool],
    known: dict[str, str],
    parts: tuple[tuple[str, float], ...],
) -> Block:
    """What a layer and its own modules are given and give, saved.

    Args:
        own: the modules to look at, and whether at what they are given too.
        parts: what it adds, as `model.residual_stream` says.
    Raises: DecompositionError for a layer that does not take and give one stream.
    """
    path = model.layers[number].path
    try:
        made = first_array(model[path].output)
    except NeverCalledError as error:
        raise DecompositionError(f"{path} is never called by itself") from error
    shape = tuple(made.shape)
    stream = states_of(model, path, index, shape) if len(shape) == 3 else None
    if stream is None or stream.given is None:
        raise DecompositionError(f"{path} does not take one stream and give one")
    found = {name: states_of(model, name, index, shape, given) for name, given in own.items()}
    inside = {name: called for name, called in found.items() if called is not None}
    return Block(number, path, stream, known, inside, step_of(made.dtype), parts)


def own_modules(
    model: Traceable, tree: Mapping[str, list[str]], path: str
) -> tuple[dict[str, bool], dict[str, str]]:
    """A layer's own modules that are called, and what goes by the names of attention and MLP."""
    names = [name for child in tree.get(path, ()) for name in _called_in(model, tree, child)]
    known = {}
    for kind in (ATTENTION, MLP):
        try:
            known[model[f"{path}.{kind}"].path] = kind
        except UnknownSiteError:
            pass
    return dict.fromkeys(names, True), known


def _called_in(model: Traceable, tree: Mapping[str, list[str]], path: str) -> list[str]:
    """A module; if it only holds those that are called, these."""
    try:
        first_array(model[path].output)
    except (NeverCalledError, UnknownSiteError):
        return [name for child in tree.get(path, ()) for name in _called_in(model, tree, child)]
    return [path]


def embeddings(model: Traceable, index: Any, length: int, width: int) -> list[Any]:
    """What each embedding outside of the layers gives at some positions, saved."""
    layers = tuple(f"{model.layers[k].path}." for k in range(len(model.layers)))
    found = []
    for path, module in model.named_modules():
        if not isinstance(module, (nn.Embedding, nn.QuantizedEmbedding)) or path.startswith(layers):
            continue
        try:
            made = first_array(model[path].output)
        except (NeverCalledError, UnknownSiteError):
            continue
        if isinstance(made, mx.array) and tuple(made.shape[-2:]) == (length, width):
            found.append(made.reshape(-1, width)[index].save())  # type: ignore[attr-defined]
    return found


# -- after it --------------------------------------------------------------------------------------


def writers_of(block: Block) -> list[Writer]:
    """The modules whose outputs a layer adds to its input.

    Raises: DecompositionError where what it adds in this run is not the sum of these.
    """
    given, made = block.stream
    known = [(name, factor) for name, factor in block.parts if name in block.inside]
    added = [factor * block.inside[name].made for name, factor in known]
    if not added or len(known) < len(block.parts) or not is_sum(made, [given, *added], block.step):
        raise DecompositionError(
            f"what {block.path} adds to the residual stream is not the sum of what its modules give"
        )
    found = [_writer(block, name, factor) for name, factor in known]
    return sorted(found, key=lambda writer: _ORDER.get(writer.kind, 1))


def is_sum(made: np.ndarray, parts: Sequence[np.ndarray], step: float) -> bool:
    """Whether an array is the sum of others, up to the rounding of each addition."""
    if any(part.shape != made.shape for part in parts):
        return False
    total, size = np.zeros_like(made), np.zeros_like(made)
    for part in parts:
        total, size = total + part, size + np.abs(part)
    return bool(np.all(np.abs(made - total) <= ROUNDINGS * step / 2 * size))


def step_of(dtype: mx.Dtype) -> float:
    """How far apart neighbouring numbers of a dtype are, relative to them."""
    return float(mx.finfo(dtype).eps)


def _writer(block: Block, path: str, factor: float) -> Writer:
    source, given = path, block.inside[path].given
    if path not in block.known and given is not None:
        for name, called in block.inside.items():  # a norm after a module is given what that gives
            if name in block.known and np.array_equal(given, called.made):
                source = name
    kind = block.known.get(source) or path.removeprefix(f"{block.path}.")
    label = f"layers.{block.number}.{kind}"
    value = factor * block.inside[path].made
    return Writer(label, block.number, kind, path, source, value, factor)
