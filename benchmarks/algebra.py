"""What the algebra of graphs costs: microseconds a node, on graphs of 10 to 10,000 nodes.

    python benchmarks/algebra.py [--nodes 10 1000 10000] [--repeat 5]

Predicted: every operation walks the graph a fixed number of times, so the cost of a node does not
depend on how many there are: from 1,000 nodes to 10,000 it should stay within a factor of two
(caches of the processor account for some growth, fixed costs for the high figures at 10 nodes).

Two shapes of graph: *wide*, as many writes to many sites as people record them (`h[:, -1] *= 2`),
and *deep*, one site written again and again, each write on the one before.

Found, on two cores of a shared Linux machine with CPython 3.11, in microseconds a node at 1,000 and
at 10,000 nodes (wide graphs): build 0.32 and 0.34, hash 0.69 and 0.73, compare 2.5 and 2.7, `>>`
6.1 and 7.3, merge 10 and 11, retarget 4.5 and 5.1, diff 16 and 24, rewriting by one rule 3.9 and
4.5, all passes of a run 15 and 16.  Deep graphs cost the same but for the passes of a run, 94 and
64, whose reads look through a dozen writes each.  So: as predicted, with one exception, building a
deep graph (0.24 and 0.56), where letting go of the last one is in the figure.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable

import mlxgraph as mg
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
    times = []
    gc.disable()
    try:
        for _ in range(repeat):
            start = time.perf_counter()
            job()
            times.append(time.perf_counter() - start)
    finally:
        gc.enable()
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 1000, 10_000])
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    for make in (wide, deep):
        print(f"\n{make.__name__} graphs, microseconds a node")
        print(f"{'':22}" + "".join(f"{n:>10,}" for n in options.nodes) + "    last / one before")
        table = [jobs(make, n) for n in options.nodes]
        for name in table[0]:
            costs = []
            for nodes, row in zip(options.nodes, table, strict=True):
                few = options.repeat * (20 if nodes < 100 else 1)
                costs.append(best(row[name], few) / nodes * 1e6)
            growth = f"{costs[-1] / costs[-2]:.2f}" if len(costs) > 1 else ""
            print(f"{name:22}" + "".join(f"{cost:>10.2f}" for cost in costs) + f"{growth:>15}")


if __name__ == "__main__":
    main()
