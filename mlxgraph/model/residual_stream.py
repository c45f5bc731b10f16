"""`model.residual_stream`: what writes to the residual stream, layer by layer, found by a forward.

In: a model, inputs.  Out: for each layer its writers in order, by how much of each, and what the
stream between its parts is.  Never: looks at the edits that stay on a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import mlx.core as mx

from mlxgraph.errors import NoLayerError
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import with_edges
from mlxgraph.graph.stream import RESID_MID, Term
from mlxgraph.mlx_facts.originals import zeros
from mlxgraph.record.stack import paused
from mlxgraph.run.stream import LENGTH, Layer, layers_in
from mlxgraph.trace.inputs import prepare
from mlxgraph.trace.open_block import refreshed

Parts = tuple[tuple[str, float], ...]


class LayerStream(NamedTuple):
    """What one layer does to the residual stream.

    Attributes:
        path: of the layer.
        writers: name and factor of each module whose output it adds to its input, in the order of
            the forward; none where it gives no such sum.
        middle: name and factor of what is in `resid_mid` beside the layer's input; none where there
            is no `resid_mid`.
        reason: why there is none.
        carries: by how much the layer's input is in its output: 1, as a rule.
    """

    path: str
    writers: Parts
    middle: Parts
    reason: str = ""
    carries: float = 1.0

    def __str__(self) -> str:
        whole = self._said(self.writers, self.carries)
        line = f"{self.path}: {whole or 'no sum of what its modules give'}"
        middle = f"{RESID_MID} = {self._said(self.middle)}"
        return f"{line}; {middle}" if self.middle else f"{line}; no {RESID_MID}: {self.reason}"

    def _said(self, parts: Parts, carries: float = 1.0) -> str:
        start = f"{self.path}."
        names = [(name.removeprefix(start), factor) for name, factor in parts]
        said = [
            name if factor == 1 else f"{factor:.4g} {name}"
            for name, factor in [("input", carries), *names]
        ]
        return " + ".join(said) if parts else ""


@with_edges
class ResidualStream(Sequence[LayerStream]):
    """What each layer does to the residual stream, by the layer's number; prints as a line each."""

    def __init__(self, layers: Sequence[LayerStream]):
        self._layers = tuple(layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[LayerStream]:
        return iter(self._layers)

    @overload
    def __getitem__(self, layer: int) -> LayerStream: ...

    @overload
    def __getitem__(self, layer: slice) -> Sequence[LayerStream]: ...

    def __getitem__(self, layer: Any) -> Any:
        if isinstance(layer, int) and not -len(self) <= layer < len(self):
            raise NoLayerError("layers", layer, len(self), str(here()))
        return self._layers[layer]

    def __repr__(self) -> str:
        return "\n".join(map(str, self._layers))


def residual_stream(self: Any, *inputs: Any) -> ResidualStream:
    """What writes to the residual stream: each layer's writers, and by how much of each.

    A layer's output is its input plus what some of its modules give: attention and MLP, or the
    norms after these, as they are or times a number.  Which, and that it is so, a short forward
    shows in which they answer with noise; it computes next to nothing, and is made once for a
    structure of modules and a kind of input.  Edits that stay on the model are not looked at.

    Args: inputs: as for `trace`, where the model takes other things than tokens.
    Returns: a sequence, by layer number: `path`, `writers` as (name, factor), and `middle`: what is
        added to the input in `resid_mid`, or `reason`, why there is no such sum.  Prints as a line
        a layer.
    Raises: LayersError, InputError as `trace`.

    Example:
        >>> model.residual_stream()[2].writers
        (('model.layers.2.self_attn', 1.0), ('model.layers.2.mlp', 1.0))
    """
    engine = refreshed(self._engine)
    names = engine.names
    if names.container is None:
        raise names.no_layers()
    with paused():
        call = prepare(inputs or (zeros((1, LENGTH), mx.int32),), engine)
        found = layers_in(engine.runner.tree, call, names.container)
    count = len(engine.names.tree.containers[names.container])
    paths = [f"{names.container}.{number}" for number in range(count)]
    aliases = names.tree.aliases
    return ResidualStream([_layer(path, found[aliases.get(path, path)]) for path in paths])


def _layer(path: str, layer: Layer) -> LayerStream:
    middle = layer.middle.terms[1:] if layer.middle is not None else ()
    return LayerStream(path, _named(layer.writers), _named(middle), layer.reason, layer.carries)


def _named(terms: Sequence[Term]) -> Parts:
    return tuple([(term.site.name, term.scale) for term in terms])
