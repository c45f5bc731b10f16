"""`mg.directional_ablation`: a direction removed from all that writes to the residual stream.

In: a model, directions.  Out: a graph of edits, which is checked on the model.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlxgraph.analysis.inputs import check_model, first_array, one_row
from mlxgraph.analysis.stream_writers import check_without, residual_writers
from mlxgraph.errors import ShapeError
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import at_the_edge
from mlxgraph.graph.deferred import Edit
from mlxgraph.graph.graph import Graph, chain
from mlxgraph.interventions.operands import operand
from mlxgraph.interventions.subspaces import basis_of, project_out


@at_the_edge
def directional_ablation(model: Any, directions: mx.array, *, example: Any = None) -> Graph:
    """A graph that removes a direction from the residual stream: at everything that writes to it.

    `iv.project_out(directions)` at the embedding and at what each layer adds, its attention's and
    its MLP's output, or the norm after these where a model has one.  Which modules these are, a
    forward on the bare model shows: their outputs sum to the stream.  Another, with the edits,
    shows that no layer's output has anything along the direction.

    Args:
        model: an InterpretableModel; edits that stay on it are left out.
        directions: one, shape (width,), or rows (number, width).
        example: a text, or token ids, to look at; some token ids if left out.
    Returns: a graph of one edit for each module.  `model.edit(graph)` makes it stay, and
        `model.fold(graph)` writes it into weights where there is no norm after a writer.
    Raises: WritersError (a ValueError) where it is not certain what writes to the stream;
        InterventionError, ShapeError as `iv.project_out`; LayersError.
    Source: Arditi et al. 2024, "Refusal in Language Models Is Mediated by a Single Direction",
        arXiv:2406.11717.

    Example:
        >>> ablated = model.edit(mg.directional_ablation(model, v))
    """
    check_model(model)
    basis = basis_of(operand(directions, "project_out"), "project_out", may_be_empty=False)
    plain = model.without_edits()
    row = mx.arange(1, 9, dtype=mx.int32)[None] if example is None else one_row(plain, example)
    writers = residual_writers(plain, row)
    removed = project_out(directions)
    where = str(here())
    graph = chain(*(Graph(then=[Edit(name, removed, where=where)]) for name in writers))
    with plain.trace(row):
        width = first_array(plain.layers[-1].output).shape[-1]
    if width != basis.shape[-1]:
        raise ShapeError(
            f"directions of width {basis.shape[-1]} for a stream of width {width}",
            where,
            f"Give directions of width {width}.",
        )
    check_without(plain.edit(graph), row, basis)
    return graph
