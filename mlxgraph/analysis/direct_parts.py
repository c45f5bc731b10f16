"""What heads, neurons and positions add to a logit: the parts of what attention and MLPs write.

Attention writes its heads' outputs through the output projection, a head through its own columns;
an MLP its hidden units through the down projection.  A norm after either is linear once its scale is
fixed.  Which module the projection is the numbers say: the one that is given the heads side by
side, and gives what attention gives.

In: a run that was taken apart.  Out: numbers for each part, and their sums, to be compared with
the whole.  Raises where there is no such projection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.analysis.inputs import first_array
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.analysis.writers import (
    ATTENTION,
    MLP,
    Called,
    Writer,
    below,
    is_sum,
    same,
    states_of,
)
from mlxgraph.analysis.written_stream import Written, fixed
from mlxgraph.errors import DecompositionError, NeverCalledError, NoMatrixError, UnknownSiteError


class Part(NamedTuple):
    """Numbers of the parts.

    Attributes:
        what: they are, in a word; table: (targets, positions, *axes); axes: their labels.
        totals: the sum of a component's parts, biases included, (targets, positions) by its label.
    """

    what: str
    table: mx.array
    axes: dict[str, Sequence[Any]]
    totals: dict[str, mx.array]


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
        self, model: Traceable, row: mx.array, index: Any, layers: list[int], asked: bool
    ) -> Callable[[int, str, dict[str, list[str]]], Any]:
        """What saves, in the block of a run, what is needed of a layer."""

        def read(layer: int, path: str, tree: dict[str, list[str]]) -> Any:
            return self._read(model, index, path, tree, asked) if layer in layers else None

        return read

    def _read(
        self, model: Traceable, index: Any, path: str, tree: dict[str, list[str]], asked: bool
    ) -> _Inner | None:
        shape = first_array(model[path].output).shape
        try:
            module = model[f"{path}.{self.of}"].path
            values = {name: _value(model, module, name, index) for name in self.inside}
        except (UnknownSiteError, NeverCalledError):
            if asked:
                raise
            return None
        called = {name: states_of(model, name, index, shape) for name in below(tree, module)}
        linear = {n: c for n, c in called.items() if c is not None and c.given is not None}
        return _Inner(module, values, linear)


class _Inner(NamedTuple):
    """What was saved of one attention or MLP: values by name, and what its modules are given and
    give."""

    path: str
    values: dict[str, Any]
    called: dict[str, Called]


def _value(model: Traceable, module: str, name: str, index: Any) -> Any:
    value = model[f"{module}.{name}"].output[0]
    whole = name == "values"  # of every key; the others of some queries
    return (value if whole else value[:, index]).save()


PARTS: Mapping[str, Kind] = {
    "head": Kind("the heads", ATTENTION, ("heads",), "head"),
    "neuron": Kind("the neurons", MLP, (), "neuron"),
    "position": Kind("the positions", ATTENTION, ("heads", "pattern", "values"), "position"),
}


def own_part(
    kind: Kind, model: Traceable, written: Written, directions: mx.array, layers: list[int]
) -> Part:
    """The numbers of one kind of parts.

    Args: directions: of the stream, (targets, positions, width).
    Raises: DecompositionError.
    """
    rows: dict[int, mx.array] = {}
    totals: dict[str, mx.array] = {}
    for layer in layers:
        inner = written.more.get(layer)
        if inner is None:
            continue
        writer = _writer(written, layer, inner.path)
        linear, before, constant = _projected(kind, model, written, writer, inner, directions)
        parts = _BY[kind.axis](inner, linear, before)
        rows[layer] = parts
        totals[writer.label] = mx.sum(parts, axis=-1) + constant
    if not rows:
        raise DecompositionError(f"no layer has {kind.what.removeprefix('the ')} to take apart")
    size = max(part.shape[-1] for part in rows.values())
    table = mx.stack([_filled(part, size) for part in rows.values()], axis=2)
    return Part(kind.what, table, {"layer": list(rows), kind.axis: range(size)}, totals)


def _writer(written: Written, layer: int, path: str) -> Writer:
    for writer in written.writers[layer]:
        if path in (writer.path, writer.source):
            return writer
    raise DecompositionError(f"{path} does not write to the residual stream by itself")


def _projected(
    kind: Kind,
    model: Traceable,
    written: Written,
    writer: Writer,
    inner: _Inner,
    directions: mx.array,
) -> tuple[Called, mx.array, mx.array]:
    """The call of the projection that a component ends in; directions of what it is given,
    (targets, positions, features); what biases add, (targets, positions)."""
    constant = mx.zeros(directions.shape[:2])
    made = written.blocks[writer.layer].inside[writer.path].made
    if writer.path != writer.source:
        norm = fixed(model, writer.path, written.blocks[writer.layer].inside[writer.path])
        constant = constant + directions @ norm.bias
        directions = norm.pulled(directions)
        made = written.blocks[writer.layer].inside[writer.source].made
    path, linear, matrix = _last_linear(kind, model, inner, made)
    module = model[path].module
    bias = (module["linear"] if "linear" in module else module).get("bias")
    if isinstance(bias, mx.array):
        constant = constant + directions @ bias.astype(mx.float32)
    return linear, directions @ matrix, constant


def _last_linear(
    kind: Kind, model: Traceable, inner: _Inner, made: mx.array
) -> tuple[str, Called, mx.array]:
    """The module that gives what a component gives, as a linear map of what it is given."""
    for path, called in reversed(inner.called.items()):
        if not same(called.made, made):
            continue
        try:
            matrix = model.weight(path)  # type: ignore[attr-defined]
        except NoMatrixError:
            continue
        if matrix.ndim == 2 and matrix.shape == (made.shape[-1], called.given.shape[-1]):
            return path, called, matrix
    raise DecompositionError(
        f"{inner.path} does not end in one projection of {kind.what}, as a mixture of experts does"
        " not",
        "Write by='component' for what it writes as a whole, or name other layers, layers=[0].",
    )


def _heads(inner: _Inner, linear: Called) -> mx.array:
    """Each head's output, (heads, positions, head dimension)."""
    heads: mx.array = inner.values["heads"]
    beside = heads.swapaxes(0, 1).reshape(heads.shape[1], -1)
    if not is_sum(linear.given, [beside]):
        raise DecompositionError(
            f"the heads of {inner.path} are not given to its output projection as they are (a gate"
            " or a norm is between)",
            "Write by='component' for what the attention writes as a whole.",
        )
    return heads.astype(mx.float32)


def _by_head(inner: _Inner, linear: Called, before: mx.array) -> mx.array:
    heads = _heads(inner, linear)
    count, positions, size = heads.shape
    aims = before.reshape(*before.shape[:2], count, size)
    return mx.sum(aims * heads.swapaxes(0, 1), axis=-1)


def _by_position(inner: _Inner, linear: Called, before: mx.array) -> mx.array:
    heads = _heads(inner, linear)
    pattern = inner.values["pattern"].astype(mx.float32)
    values = inner.values["values"].astype(mx.float32)
    values = mx.repeat(values, heads.shape[0] // values.shape[0], axis=0)
    aims = before.reshape(*before.shape[:2], heads.shape[0], -1)
    along = mx.einsum("tphd,hkd->tphk", aims, values)  # of each key's value, whoever looks at it
    return mx.einsum("hpk,tphk->tpk", pattern, along)


def _by_neuron(inner: _Inner, linear: Called, before: mx.array) -> mx.array:
    return before * linear.given.astype(mx.float32)


_BY: Mapping[str, Callable[[_Inner, Called, mx.array], mx.array]] = {
    "head": _by_head,
    "neuron": _by_neuron,
    "position": _by_position,
}


def _filled(part: mx.array, size: int) -> mx.array:
    missing = size - part.shape[-1]
    if not missing:
        return part
    return mx.pad(part, [(0, 0)] * (part.ndim - 1) + [(0, missing)], constant_values=math.nan)
