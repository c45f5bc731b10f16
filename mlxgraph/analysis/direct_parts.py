"""What heads, neurons and positions add to a logit: the parts of what attention and MLPs write.

Attention writes its heads' outputs through the output projection, a head through its own columns;
an MLP its hidden units through the down projection.  A norm after either is linear once its scale
is fixed.  Which module the projection is the numbers say: the one that gives what attention gives,
and is given its heads side by side.

In: a run that was taken apart.  Out: numbers for each part, and their sums, to be compared with
the whole.  Raises where there is no such projection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.inputs import first_array
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.analysis.writers import (
    ATTENTION,
    MLP,
    Called,
    Writer,
    below,
    is_sum,
    states_of,
)
from mlxgraph.analysis.written_stream import Found, Written, fixed, in_numpy
from mlxgraph.errors import DecompositionError, NeverCalledError, NoMatrixError, UnknownSiteError
from mlxgraph.ranks.held import shares
from mlxgraph.ranks.parts import gather

HEADS = 1  # the axis, of values of an attention
_LAYERS = ", or name other layers, layers=[0]"


class Part(NamedTuple):
    """Numbers of the parts.

    Attributes:
        what: they are, in a word; table: (targets, positions, *axes); axes: their labels.
        totals: the sum of a component's parts, biases included, (targets, positions) by its label.
    """

    what: str
    table: np.ndarray
    axes: dict[str, Sequence[Any]]
    totals: dict[str, np.ndarray]


class Kind(NamedTuple):
    """A way of taking components apart.

    Attributes: what: the parts; of: the kind of component; inside: the values of an attention that
        are needed; axis: the name of the parts' axis.
    """

    what: str
    of: str
    inside: tuple[str, ...]
    axis: str

    def reader(
        self, model: Traceable, index: Any, layers: list[int], asked: bool
    ) -> Callable[[int, str, Found], Any]:
        """What saves, in the block of a run, what is needed of a layer."""

        def read(layer: int, path: str, found: Found) -> Any:
            return self._read(model, index, path, found, asked) if layer in layers else None

        return read

    def _read(
        self, model: Traceable, index: Any, path: str, found: Found, asked: bool
    ) -> _Inner | None:
        shape = first_array(model[path].output).shape
        try:
            module = model[f"{path}.{self.of}"].path
            values = {name: _value(model, module, name, index) for name in self.inside}
        except (UnknownSiteError, NeverCalledError):
            if asked:
                raise
            return None
        known = found.projections.get(module)
        names = below(found.tree, module) if known is None else [known]
        called = {name: states_of(model, name, index, shape) for name in names}
        linear = {n: c for n, c in called.items() if c is not None and c.given is not None}
        return _Inner(module, values, linear)


class _Inner(NamedTuple):
    """What was saved of one attention or MLP: values by name, and what its modules are given and
    give."""

    path: str
    values: dict[str, Any]
    called: dict[str, Called]


def _value(model: Traceable, module: str, name: str, index: Any) -> Any:
    value = model[f"{module}.{name}"].output
    value = (gather(value, HEADS) if shares(model[module].module) else value)[0]
    whole = name == "values"  # of every key; the others of some queries
    return (value if whole else value[:, index]).save()


PARTS: Mapping[str, Kind] = {
    "head": Kind("the heads", ATTENTION, ("heads",), "head"),
    "neuron": Kind("the neurons", MLP, (), "neuron"),
    "position": Kind("the positions", ATTENTION, ("heads", "pattern", "values"), "position"),
}


def own_part(
    kind: Kind, model: Any, written: Written, directions: np.ndarray, layers: list[int]
) -> Part:
    """The numbers of one kind of parts.

    Args: directions: of the stream, (targets, positions, width).
    Raises: DecompositionError.
    """
    ends = {
        layer: _end(kind, model, written, layer, directions)
        for layer in layers
        if written.more.get(layer) is not None
    }
    if not ends:
        raise DecompositionError(
            f"no layer has {kind.what.removeprefix('the ')}", f"Write by='component'{_LAYERS}."
        )
    befores = in_numpy({layer: end.before for layer, end in ends.items()})
    rows: dict[int, np.ndarray] = {}
    totals: dict[str, np.ndarray] = {}
    for layer, end in ends.items():
        rows[layer] = _BY[kind.axis](written.more[layer], end.linear, befores[layer], written.step)
        totals[end.label] = np.sum(rows[layer], axis=-1) + end.constant
    size = max(part.shape[-1] for part in rows.values())
    table = np.stack([_filled(part, size) for part in rows.values()], axis=2)
    return Part(kind.what, table, {"layer": list(rows), kind.axis: range(size)}, totals)


class _End(NamedTuple):
    """The projection that a component ends in.

    Attributes:
        linear: its call; before: directions of what it is given, (targets, positions, features),
            lazy; constant: what biases add, (targets, positions).
    """

    label: str
    linear: Called
    before: mx.array
    constant: np.ndarray


def _end(kind: Kind, model: Any, written: Written, layer: int, directions: np.ndarray) -> _End:
    inner, block = written.more[layer], written.blocks[layer]
    writer = _writer(written, layer, inner.path)
    constant = np.zeros(directions.shape[:2], dtype=np.float32)
    directions = directions * writer.factor
    if writer.path != writer.source:
        norm = fixed(model, writer.path, block.inside[writer.path], block.step)
        constant = constant + directions @ norm.bias
        directions = norm.pulled(directions)
    path, linear, matrix = _last_linear(kind, model, inner, block.inside[writer.source].made)
    written.found.projections[inner.path] = path
    module = model[path].module
    bias = (module["linear"] if "linear" in module else module).get("bias")
    if isinstance(bias, mx.array):
        constant = constant + directions @ np.array(bias.astype(mx.float32))
    return _End(writer.label, linear, mx.array(directions) @ matrix, constant)


def _writer(written: Written, layer: int, path: str) -> Writer:
    for writer in written.writers[layer]:
        if path in (writer.path, writer.source):
            return writer
    raise DecompositionError(f"{path} does not write to the residual stream by itself")


def _last_linear(
    kind: Kind, model: Any, inner: _Inner, made: np.ndarray
) -> tuple[str, Called, mx.array]:
    """The module that gives what a component gives, as a linear map of what it is given."""
    for path, called in reversed(inner.called.items()):
        if not np.array_equal(called.made, made):
            continue
        try:
            matrix = model.weight(path)
        except NoMatrixError:
            continue
        if matrix.ndim == 2 and matrix.shape == (made.shape[-1], called.given.shape[-1]):
            return path, called, matrix
    raise DecompositionError(
        f"{inner.path} ends in no single projection of {kind.what} (a mixture of experts has"
        " several)",
        f"Write by='component' for what it writes as a whole{_LAYERS}.",
    )


def _heads(inner: _Inner, linear: Called, step: float) -> np.ndarray:
    """Each head's output, (heads, positions, head dimension)."""
    heads: np.ndarray = inner.values["heads"]
    beside = heads.swapaxes(0, 1).reshape(heads.shape[1], -1)
    if not is_sum(linear.given, [beside], step):
        raise DecompositionError(
            f"the heads of {inner.path} are not given to its output projection as they are (a gate"
            " or a norm is between)",
            "Write by='component' for what the attention writes as a whole.",
        )
    return heads


def _by_head(inner: _Inner, linear: Called, before: np.ndarray, step: float) -> np.ndarray:
    heads = _heads(inner, linear, step)
    count, _, size = heads.shape
    aims = before.reshape(*before.shape[:2], count, size)
    return np.einsum("tphd,hpd->tph", aims, heads)


def _by_position(inner: _Inner, linear: Called, before: np.ndarray, step: float) -> np.ndarray:
    heads = _heads(inner, linear, step)
    values = inner.values["values"]
    values = np.repeat(values, heads.shape[0] // values.shape[0], axis=0)
    aims = before.reshape(*before.shape[:2], heads.shape[0], -1)
    along = np.einsum("tphd,hkd->tphk", aims, values)  # of each key's value, whoever looks at it
    return np.einsum("hpk,tphk->tpk", inner.values["pattern"], along)


def _by_neuron(inner: _Inner, linear: Called, before: np.ndarray, step: float) -> np.ndarray:
    return before * linear.given


_BY: Mapping[str, Callable[[_Inner, Called, np.ndarray, float], np.ndarray]] = {
    "head": _by_head,
    "neuron": _by_neuron,
    "position": _by_position,
}


def _filled(part: np.ndarray, size: int) -> np.ndarray:
    around = [(0, 0)] * (part.ndim - 1) + [(0, size - part.shape[-1])]
    return np.pad(part, around, constant_values=math.nan)
