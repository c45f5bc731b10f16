"""Whether runs that share a forward give what each gives alone: tried, once for a model's weights.

In: the sites at which a batch would grow.  Out: "", or why it may not.
A few edits that change much are run in one batch and one by one, on a few tokens, and everything
that the model returns is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from mlxgraph.evaluate.values import NodeFailure
from mlxgraph.graph import ops
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.held import FULL
from mlxgraph.graph.held import Along as Held
from mlxgraph.graph.nested import is_container, leaves
from mlxgraph.graph.node import Node, site_node
from mlxgraph.graph.site import OUTPUT, SKIP, Site
from mlxgraph.graph.values import Slice
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.probes import says_followed
from mlxgraph.run.call import Call, describe_call
from mlxgraph.run.grown import NEVER, row_of, run_grown
from mlxgraph.run.plan import make_plan
from mlxgraph.run.slabs import CannotGrow, repeated
from mlxgraph.sweep.shared import Shared, pattern_of
from mlxgraph.trace.execute import Job, Options, execute

FEW = 8  # tokens that it is tried on
NOISE = {mx.float32: 1e-4}  # of the largest number: kernels differ by shape, mixed rows by more
ROUGH = 0.03  # in half precision
STRENGTHS = (-0.5, 2.0, 0.25)


def why_not_grown(shared: Shared, sites: Sequence[Site]) -> str:
    """Why the batch cannot grow at these sites; "" if it can.  Tried once for each kind of site."""
    return _each_kind(shared, sites, "grown", _tried)


def why_not_grown_later(shared: Shared, sites: Sequence[Site]) -> str:
    """Why the batch cannot grow so in a forward that begins at a later position."""
    return _each_kind(shared, sites, "later", _tried_later)


def _each_kind(
    shared: Shared, sites: Sequence[Site], how: str, tried: Callable[[Shared, Sequence[Site]], str]
) -> str:
    by_kind: dict[str, list[Site]] = {}
    for site in sorted(sites, key=shared.census.position):
        by_kind.setdefault(pattern_of(site), []).append(site)
    for kind, found in by_kind.items():
        reason = _kept(shared, (how, kind), lambda few, some=found: tried(few, some))
        if reason:
            return reason
    return ""


def why_not_batched(shared: Shared) -> str:
    """Why several runs cannot be rows of one batch; "" if they can."""
    return _kept(shared, ("batched",), _tried_rows)


def _kept(shared: Shared, kind: tuple, tried: Any) -> str:
    runner = shared.runner
    few = _few(shared)
    key = (kind, few.call.key, runner.root.training)
    known = runner.certain.get(key)
    if known is None or not runner.tree.are_weights(known[1]):  # those of 0 mix nothing
        seen = runner.tree.seen_now()
        try:
            reason = tried(few)
        except (CannotGrow, NodeFailure) as failure:
            reason = str(failure) or type(failure).__name__
        except (ValueError, TypeError, IndexError, RuntimeError, KeyError, AttributeError) as error:
            if says_followed(error):
                raise  # nothing can be computed here; the next call outside asks again
            reason = str(error).split("\n")[0] or type(error).__name__  # the model's own code
        known = runner.certain.put(key, (reason, seen))
    found: str = known[0]
    return found


def _few(shared: Shared) -> Shared:
    """The same on the first tokens of at most two rows, where the call is of tokens alone."""
    call = shared.call
    if call.tokens is None or call.is_ragged or len(call.arrays) > 1:
        return shared
    tokens = call.tokens[:2, :FEW]
    if tokens.shape == call.tokens.shape:
        return shared
    lengths = [int(tokens.shape[1])] * int(tokens.shape[0])
    short: Call = describe_call((tokens,), call.kwargs, tokens=tokens, lengths=lengths)
    few = Shared(shared.engine, short)
    if shared.census.inside:
        few.census.look_inside()
    return few


def _tried(few: Shared, sites: Sequence[Site]) -> str:
    """A batch that grows at the first, a middle and the last of some sites."""
    chosen = dict.fromkeys([sites[0], sites[len(sites) // 2], sites[-1]])
    graphs = [_scaled(few, site, by) for site, by in zip(chosen, STRENGTHS, strict=False)]
    wanted = (site_node(""),)
    rows = []
    for graph in graphs:
        plan = make_plan(graph, few.census, wanted)
        rows.append(row_of(plan, {}, few.census))
    together = run_grown(rows, few.census, few.slabs, few.containers, few.runner.tree, few.call)
    return _compared(few, graphs, [values[0] for values in together])


def _tried_later(few: Shared, sites: Sequence[Site]) -> str:
    """As `_tried`, on the tokens from the second on, with keys and values of the first."""
    chosen = dict.fromkeys([sites[0], sites[-1]])
    pairs = [*zip(chosen, STRENGTHS, strict=False)]
    later = [_scaled(few, site, by) for site, by in pairs]
    whole = [_scaled_from(few, site, by, 1) for site, by in pairs]
    wanted = (site_node(""),)
    rows = []
    for graph in later:
        plan = make_plan(graph, few.census, wanted)
        rows.append(row_of(plan, {}, few.census))
    call, _ = few.from_position(1, None)
    together = run_grown(rows, few.census, few.slabs, few.containers, few.runner.tree, call)
    return _compared(few, whole, [values[0] for values in together], 1)


def _tried_rows(few: Shared) -> str:
    """A batch of two edited runs, rows from the start."""
    ends = [site for site in few.census.outputs() if site.path][:1]
    if few.layers:
        position = {few.census.order[site]: site for site in few.census.outputs()}
        ends = [position[few.layers[0]], position[few.layers[-1]]]
    graphs = [_scaled(few, site, by) for site, by in zip(ends, STRENGTHS, strict=False)]
    wanted = (site_node(""),)
    plans = [make_plan(graph, few.census, wanted) for graph in graphs]
    rows = [row_of(plan, {}, few.census)._replace(first=NEVER) for plan in plans]
    given = few.slabs, few.containers, few.runner.tree, repeated(few.call, len(rows))
    together = run_grown(rows, few.census, *given, base=None)
    return _compared(few, graphs, [values[0] for values in together])


def _scaled(few: Shared, site: Site, by: float) -> Graph:
    """An edit that multiplies the floats of a site."""
    there = site._replace(port=OUTPUT) if site.port == SKIP else site
    return _edit(few, there, lambda node, axis: Node(ops.MX_MULTIPLY, (node, by)))


def _scaled_from(few: Shared, site: Site, by: float, start: int) -> Graph:
    """The same from a position on."""
    there = site._replace(port=OUTPUT) if site.port == SKIP else site

    def scaled(node: Node, axis: Any) -> Node:
        if isinstance(axis, Held):
            axis = axis.held
        if type(axis) is not int:
            raise CannotGrow("no position of it can be named")
        index = (Ellipsis, Slice(start, None, None), *(FULL,) * (-axis - 1))
        part = Node(ops.MX_MULTIPLY, (Node(ops.GETITEM, (node, index)), by))
        return Node(ops.UPDATE, (node, index, part))

    return _edit(few, there, scaled)


def _edit(few: Shared, site: Site, changed: Callable[[Node, Any], Node]) -> Graph:
    value, node = few.census.values[site], site_node(*site)
    axes = few.positions.axes(site) if few.call.tokens is not None else None
    if not is_container(value):
        return Graph(writes=[(site, changed(node, axes))])
    along = leaves(axes) if axes is not None else [None] * len(leaves(value))
    parts = []
    for k, (leaf, axis) in enumerate(zip(leaves(value), along, strict=True)):
        part = Node(ops.LEAF, (node, k))
        floats = isinstance(leaf, ARRAY) and mx.issubdtype(leaf.dtype, mx.floating)
        parts.append(changed(part, axis) if floats and leaf.ndim > 2 else part)
    return Graph(writes=[(site, Node(ops.UNFLATTEN_LIKE, (node, *parts)))])


def _compared(few: Shared, graphs: Sequence[Graph], together: Sequence[Any], start: int = 0) -> str:
    wanted = (site_node(""),)
    for graph, mine in zip(graphs, together, strict=True):
        job = Job(graph, few.call, {}, Options(compile=False))
        alone = execute(few.engine, job, wanted)[0]
        for a, b in zip(leaves(mine), leaves(alone), strict=True):
            if isinstance(b, ARRAY) and not alike(a, b[:, start:] if start else b):
                return "what rows give together is not what each gives alone"
    return ""


def agrees(shared: Shared, kind: tuple, tried: Callable[[], bool]) -> bool:
    """Whether a run of a batch was what it is alone; asked once for each kind of batch, on this
    call: more rows or more positions than were tried before may go another way."""
    runner = shared.runner
    key = ("shape", kind, shared.call.key, runner.root.training)
    known = runner.certain.get(key)
    if known is None or not runner.tree.are_weights(known[1]):
        seen = runner.tree.seen_now()
        known = runner.certain.put(key, (tried(), seen))
    return bool(known[0])


def all_alike(mine: Any, alone: Any) -> bool:
    """Whether two nests of arrays hold the same numbers, but for what kernels differ by."""
    pairs = zip(leaves(mine), leaves(alone), strict=True)
    return all(alike(one, other) for one, other in pairs if isinstance(other, ARRAY))


def alike(one: Any, other: mx.array) -> bool:
    """Whether two arrays hold the same numbers, but for what kernels differ by."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    noise = NOISE.get(other.dtype, ROUGH)
    one, other = one.astype(mx.float32), other.astype(mx.float32)
    size = mx.abs(mx.where(mx.isfinite(other), other, 0.0)).max()
    close = mx.allclose(one, other, rtol=0.0, atol=max(noise * size.item(), 1e-30), equal_nan=True)
    return bool(close.item())
