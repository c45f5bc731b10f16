"""What the algebra of graphs costs: microseconds a node, on graphs of 10 to 10,000 nodes.

Predicted: every operation walks the graph a fixed number of times, so the cost of a node does not
depend on how many there are: from 1,000 nodes to 10,000 it should stay within a factor of two
(caches of the processor account for some growth, fixed costs for the high figures at 10 nodes).

Two shapes of graph: *wide*, as many writes to many sites as people record them (`h[:, -1] *= 2`),
and *deep*, one site written again and again, each write on the one before.

    python benchmarks/algebra.py [--quick]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from report import main, markdown

import mlxgraph as mg
from mlxgraph.analysis.in_turns import in_turns
from mlxgraph.graph.algebra import canonical
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node, site_node
from mlxgraph.graph.site import Site
from mlxgraph.graph.values import Slice
from mlxgraph.rewrite.pipeline import FOR_RUNS, simplify

ALL = Slice(None, None, None)


def wide(nodes: int, first: int = 0) -> Graph:
    """Four nodes a write: a site, a position of it, that scaled, and the site updated."""
    writes, constants = [], []
    for k in range(max(1, nodes // 5)):
        path = f"model.layers.{first + k}"
        site = site_node(path)
        part = Node("getitem", (site, (ALL, -1)))
        scaled = Node("mx.multiply", (part, Node("number", (k, "float"))))
        writes.append((Site(path), Node("update", (site, (ALL, -1), scaled))))
        constants.append(0.5 + k)
    return Graph(writes, constants=constants)


def deep(nodes: int, first: int = 0) -> Graph:
    """One site, written at one place after another."""
    path = f"model.layers.{first}"
    node, constants = site_node(path), []
    for k in range(max(1, nodes // 4)):
        index = (ALL, k)
        part = Node("getitem", (node, index))
        scaled = Node("mx.multiply", (part, Node("number", (k, "float"))))
        node = Node("update", (node, index, scaled))
        constants.append(0.5 + k)
    return Graph([(Site(path), node)], constants=constants)


def renamed(node: Node) -> Node | None:
    """multiply(x, n)  ->  divide(x, n)"""
    match node:
        case Node("mx.multiply", (x, n)):
            return Node("mx.divide", (x, n))
    return None


def jobs(make: Callable[..., Graph], nodes: int) -> dict[str, Callable[[], object]]:
    """What is timed, on graphs made anew where the first time is what counts."""
    whole, other, again = make(nodes), make(nodes, 10**6), make(nodes)
    path = whole.writes[0][0].path
    return {
        "build": lambda: make(nodes),
        "hash": lambda: hash(whole.replace()),
        "compare equal": lambda: whole.replace() == again.replace(),
        "canonical": lambda: canonical(whole),
        "g1 >> g2": lambda: whole >> other,
        "g >> g, same sites": lambda: whole >> again,
        "merge": lambda: mg.merge(whole, other),
        "retarget": lambda: whole.retarget({path: "model.layers.x"}),
        "diff": lambda: mg.diff(whole, again),
        "rewrite, one rule": lambda: mg.rewrite(whole, renamed),
        "rewrite, no match": lambda: mg.rewrite(whole, lambda node: None),
        "simplify for a run": lambda: simplify(whole, FOR_RUNS),
        "print": lambda: str(whole),
    }


def best(job: Callable[[], object], repeat: int) -> float:
    """Seconds of the fastest of some runs."""
    return min(in_turns({"job": job}, repeat, warm=0)["job"].host)


def measured(quick: bool) -> dict[str, Any]:
    """Seconds a node, by shape of graph, job and number of nodes."""
    sizes = (10, 100, 1000) if quick else (10, 1000, 10_000)
    repeat = 2 if quick else 5
    return {
        make.__name__: {
            str(nodes): {
                name: best(job, repeat * (20 if nodes < 100 else 1)) / nodes
                for name, job in jobs(make, nodes).items()
            }
            for nodes in sizes
        }
        for make in (wide, deep)
    }


def tables(found: dict[str, Any]) -> str:
    parts = []
    for shape, by_nodes in found.items():
        *_, before, last = by_nodes
        rows = [
            [name, *(f"{1e6 * costs[name]:.2f}" for costs in by_nodes.values()),
             f"{by_nodes[last][name] / by_nodes[before][name]:.2f}"]
            for name in by_nodes[last]
        ]  # fmt: skip
        nodes = [f"{int(count):,} nodes" for count in by_nodes]
        parts.append(f"Microseconds a node, {shape} graphs:")
        parts.append(markdown(["", *nodes, "last / one before"], rows))
    return "\n\n".join(parts)


if __name__ == "__main__":
    main(__doc__, measured, tables)
