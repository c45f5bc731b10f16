"""A run that begins at the first edited token of a text that was run before.

What is kept of a text is its unedited run's keys and values.  They are kept for a few texts, as
long as the model is what it was: its modules, their settings and every number of its weights.

In: a run that is asked for.  Out: its values from a forward on the rest of the text, or None where
it has to be run as a whole.  Never: answers from what is not as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.graph.node import Node
from mlxgraph.mlx_facts.buffers import SeenArrays
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

MOST_TEXTS = 4


class Kept(NamedTuple):
    """What is kept of one model: texts' runs, by their ids, and the weights that these are of."""

    weights: SeenArrays
    texts: Recent[Any, Prefix]


def reused(engine: Engine, job: Job, wanted: Sequence[Node]) -> list[Any] | None:
    """What is wanted of a run, from a forward on the tokens that it is concerned with; None where
    it has to be run as a whole.

    Raises: as `execute`.
    """
    with paused():
        if known_reason(engine.runner, job.call):
            return None
        shift = _shift(engine, job, wanted)
        if isinstance(shift, str) or why_no_prefix(engine.runner, job.call):
            return None
        kept = _kept(engine, job.call)
    if kept is None:
        return None
    start = _start(shift, kept.length)
    graph = shift.at(start)
    params = {name: job.params[name] for name in graph.params if name in job.params}
    call = kept.call(start)
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
    shift = _shift(engine, job, wanted)
    return shift if isinstance(shift, str) else _start(shift, job.call.args[0].shape[1])


def _start(shift: Shift, length: int) -> int:
    return min(shift.first, length - 1)


def _shift(engine: Engine, job: Job, wanted: Sequence[Node]) -> Shift | str:
    """The run's graph as it is done to a part of the text, or why it cannot be."""
    runner, call = engine.runner, job.call
    census = runner.census(call)
    runner.look_again_with(census, call)
    graph = as_written(job.graph, tuple(wanted), census).graph
    graph = graph.replace(saves=[(str(k), node) for k, node in enumerate(wanted)])
    numbers = numbers_in(graph, job.params)
    length = call.args[0].shape[1]
    shift = shiftable(graph, text_axes(runner, call), census.values, length, numbers)
    if shift is None:
        return "it is not of named positions alone"
    return "it is of the first token" if shift.first == 0 else shift


def _kept(engine: Engine, call: Call) -> Prefix | None:
    """The text's own run, made now where there is none, or where the model has changed; None where
    ids or weights are not known, since a transformation follows them."""
    runner, tokens = engine.runner, call.args[0]
    weights = runner.tree.weights()
    try:
        if is_followed(tokens):
            return None
        ids = tokens.tolist()
        kept: Kept | None = runner.kept
        if kept is None or not kept.weights.are(weights):
            runner.kept = None  # first: the old weights go before there are others
            kept = Kept(SeenArrays(weights), Recent(MOST_TEXTS))
    except (RuntimeError, ValueError) as error:
        if says_followed(error) or says_holds_nothing(error):
            return None
        raise
    key = (repr(ids), tokens.dtype, runner.root.training, stream_name())
    known = kept.texts.get(key)
    if known is None:
        check_ids(runner.census(call).rows, call)
        found = prefix_of(runner, call)
        assert isinstance(found, Prefix)
        known = found.computed(mx.array(ids, tokens.dtype))
        kept.texts.put(key, known)
        runner.kept = kept
    return known
