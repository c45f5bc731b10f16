"""A run that begins at the first edited token and layer of a text that was run before.

What is kept of a text is its unedited run: keys and values, and what each layer gave.  A run begins
after the last layer, and at the first token, before which nothing is read or written.  It is kept
for a few texts, as long as the model is what it was: its modules, their settings and every number
of its weights.

In: a run that is asked for.  Out: its values from a forward on the rest of the text, or None where
it has to be run as a whole.  Never: answers from what is not as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node
from mlxgraph.mlx_facts.buffers import SeenWeights
from mlxgraph.mlx_facts.compiling import stream_name
from mlxgraph.mlx_facts.probes import is_followed, says_followed, says_holds_nothing
from mlxgraph.record.stack import paused
from mlxgraph.rewrite.shift import Shift, shiftable
from mlxgraph.run.cache import Recent
from mlxgraph.run.call import Call
from mlxgraph.run.engine import Engine
from mlxgraph.run.prefix import Prefix, known_reason, prefix_of, why_no_prefix
from mlxgraph.run.text_axes import numbers_in, text_axes
from mlxgraph.trace.execute import Job, as_written, execute
from mlxgraph.trace.ids import check_ids
from mlxgraph.trace.reuse_layers import (
    begins_after,
    goes_on_from,
    going_on_from,
    layers_of,
)

MOST_TEXTS = 4


class Kept(NamedTuple):
    """What is kept of one model: texts' runs, by their ids, and the weights that these are of."""

    weights: SeenWeights
    texts: Recent[Any, Prefix]


def reused(engine: Engine, job: Job, wanted: Sequence[Node]) -> list[Any] | None:
    """What is wanted of a run, from a forward on the tokens that it is concerned with; None where
    it has to be run as a whole.

    Raises: as `execute`.
    """
    with paused():
        if known_reason(engine.runner, job.call):
            return None
        weights = engine.runner.weights_seen()  # what was tried with others is let go of
        if weights is None:
            return None
        written = _written(engine, job, wanted)
        shift = _shift(engine, job, written)
        late = begins_after(engine, job.call, written)
        if isinstance(shift, str) and late is None or why_no_prefix(engine.runner, job.call):
            return None
        kept = _kept(engine, job.call, weights)
        if kept is not None and late is not None and not goes_on_from(engine, kept, job.call, late):
            late = None
    if kept is None or isinstance(shift, str) and late is None:
        return None
    start = 0 if isinstance(shift, str) else _start(shift, kept.length)
    graph = shift.at(start) if start and not isinstance(shift, str) else written
    if late is not None:
        graph = going_on_from(graph, late, kept.streams[late][:, start:])
    params = {name: job.params[name] for name in graph.params if name in job.params}
    call = kept.call(start) if start else job.call
    census = engine.runner.census(call)  # given, since the ids were looked at when they were kept
    part = job._replace(graph=graph, call=call, params=params, census=census, checked=False)
    return execute(engine, part)


def why_not(engine: Engine, job: Job, wanted: Sequence[Node]) -> str | int:
    """The token at which such a run begins, or why it is run as a whole; nothing is computed.

    Args: job: the params whose values are not given leave positions unknown.
    """
    reason = known_reason(engine.runner, job.call)
    if reason:
        return reason
    shift = _shift(engine, job, _written(engine, job, wanted))
    return shift if isinstance(shift, str) else _start(shift, job.call.args[0].shape[1])


def first_layer(engine: Engine, job: Job, wanted: Sequence[Node]) -> str | None:
    """The last layer that such a run need not compute, since it comes before all that the graph
    reads or writes; nothing is computed."""
    if known_reason(engine.runner, job.call):
        return None
    return begins_after(engine, job.call, _written(engine, job, wanted))


def _start(shift: Shift, length: int) -> int:
    return min(shift.first, length - 1)


def _written(engine: Engine, job: Job, wanted: Sequence[Node]) -> Graph:
    """The run's graph as far as what is wanted can see it, saving that."""
    runner, call = engine.runner, job.call
    census = runner.census(call)
    runner.look_again_with(census, call)
    graph = as_written(job.graph, tuple(wanted), census).graph
    return graph.replace(saves=[(str(k), node) for k, node in enumerate(wanted)])


def _shift(engine: Engine, job: Job, graph: Graph) -> Shift | str:
    """The run's graph as it is done to a part of the text, or why it cannot be."""
    runner, call = engine.runner, job.call
    census = runner.census(call)
    numbers = numbers_in(graph, job.params)
    length = call.args[0].shape[1]
    shift = shiftable(graph, text_axes(runner, call), census.values, length, numbers)
    if shift is None:
        return "it is not of named positions alone"
    return "it is of the first token" if shift.first == 0 else shift


def _kept(engine: Engine, call: Call, weights: SeenWeights) -> Prefix | None:
    """The text's own run, made now where there is none, or where the model has changed; None where
    ids are not known, since a transformation follows them."""
    runner, tokens = engine.runner, call.args[0]
    try:
        if is_followed(tokens):
            return None
        ids = tokens.tolist()
        kept: Kept | None = runner.kept
        if kept is None or kept.weights is not weights:
            kept = Kept(weights, Recent(MOST_TEXTS))
    except (RuntimeError, ValueError) as error:
        if says_followed(error) or says_holds_nothing(error):
            return None
        raise
    key = (repr(ids), tokens.dtype, runner.root.training, stream_name())
    known = kept.texts.get(key)
    if known is None:
        check_ids(runner.census(call).rows, call)
        found = prefix_of(runner, call, layers_of(engine, call))
        assert isinstance(found, Prefix)
        known = found.computed(mx.array(ids, tokens.dtype))
        kept.texts.put(key, known)
        runner.kept = kept
    return known
