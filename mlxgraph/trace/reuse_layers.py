"""A run that begins after a layer, with what that gave in the unedited run of the same text.

The layer is skipped, and answers with what is kept.  Those before it are built and never computed:
MLX computes what is looked at, and nobody looks at them.

In: a graph, a kept run.  Out: the graph that goes on from a layer.
Never: takes a model's word for it.  What a layer gives might not be all that later ones take from
it; so the unedited run goes on from it once, and has to come out as it was.
"""

from __future__ import annotations

import mlx.core as mx

from mlxgraph.graph import ops
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node, site_node, site_of
from mlxgraph.graph.site import OUTPUT, SKIP, Site
from mlxgraph.graph.values import dtype_name
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.probes import says_followed
from mlxgraph.run.call import Call
from mlxgraph.run.engine import Engine
from mlxgraph.run.prefix import LARGE, Prefix
from mlxgraph.run.pushdown import WHOLE, stream_entry
from mlxgraph.trace.execute import Job, Options, execute

NEAR = {mx.float32: 1e-5}  # of the largest number
ROUGH = 0.03  # in half precision


def layers_of(engine: Engine, call: Call) -> list[str]:
    """The layers that are called once and give one array, (rows, length, width)."""
    census, container = engine.runner.census(call), engine.names.container
    found = []
    for site in census.outputs():
        value = census.values[site]
        is_stream = isinstance(value, ARRAY) and value.shape[:2] == call.args[0].shape
        above = site.path.rpartition(".")[0]
        if container and above == container and is_stream and value.ndim == 3:
            found.append(site.path)
    return [path for path in dict.fromkeys(found) if census.calls(path) == 1]


def begins_after(engine: Engine, call: Call, graph: Graph) -> str | None:
    """The last layer before all that a graph reads or writes; None where there is none."""
    census, nodes = engine.runner.census(call), graph.nodes()
    if any(node.op == ops.GRAD for node in nodes):
        return None  # it goes back through all layers
    sites = {site_of(node) for node in nodes if node.op == ops.SITE} | {s for s, _ in graph.writes}
    first = min(map(census.position, sites), default=-1)
    before = [p for p in layers_of(engine, call) if census.position(Site(p, OUTPUT)) < first]
    return before[-1] if before else None


def going_on_from(graph: Graph, layer: str, stream: mx.array) -> Graph:
    """A graph whose run begins after a layer.  Args: stream: what that gives."""
    number = len(graph.constants)
    kept = Node(ops.CONSTANT, (number, stream.shape, dtype_name(stream.dtype)))
    return graph.replace(
        writes=[*graph.writes, (Site(layer, SKIP), kept)], constants=(*graph.constants, stream)
    )


def goes_on_from(engine: Engine, kept: Prefix, call: Call, layer: str) -> bool:
    """Whether the unedited run comes out as it was when it begins after a layer; asked once for a
    layer and a kind of call, and again once weights have changed."""
    runner = engine.runner
    if layer not in kept.streams:
        return False
    key = ("layer", layer, call.key, runner.root.training)
    known = runner.prefixes.get(key)
    if known is None or not runner.tree.are_weights(known[1]):
        seen = runner.tree.seen_now()
        try:
            sure = _comes_out(engine, kept, call, layer)
        except (ValueError, TypeError, IndexError, RuntimeError, KeyError, AttributeError) as error:
            if says_followed(error):
                return False  # nothing can be computed here; the next call outside asks again
            sure = False
        known = runner.prefixes.put(key, (sure, seen))
    return bool(known[0])


def _comes_out(engine: Engine, kept: Prefix, call: Call, layer: str) -> bool:
    plain = Graph(saves=[("end", _end(engine, call))])
    graph = going_on_from(plain, layer, kept.streams[layer])
    options = Options(compile=False)
    mine, whole = (execute(engine, Job(one, call, {}, options))[0] for one in (graph, plain))
    if not isinstance(mine, ARRAY) or not isinstance(whole, ARRAY):
        return False
    size = mx.abs(whole.astype(mx.float32)).max().item()
    off = mx.abs(mine.astype(mx.float32) - whole.astype(mx.float32)).max().item()
    return off <= NEAR.get(whole.dtype, ROUGH) * size


def _end(engine: Engine, call: Call) -> Node:
    """What is to come out: the model's output; or, where its logits would be large and follow from
    it at each position by itself, what enters the final norm."""
    census = engine.runner.census(call)
    output = census.values.get(WHOLE)
    if isinstance(output, ARRAY) and output.size > LARGE:
        norm = stream_entry(census, engine.runner.tree)
        if norm is not None:
            return Node(ops.ITEM, (Node(ops.ITEM, (site_node(*norm), 0)), 0))
    return site_node("")
