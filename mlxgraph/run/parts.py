"""Of which sites a rank of a sharded model has a part, and what may be written there.

Between a projection that gives each rank some of its columns and the one that makes a whole of them
again, every value is a part.  What is written there has to mean the same on each rank: an edit of
every entry alike, or a part of a whole (`mg.part`).

In: a tree, a graph.  Out: PartError for a write that means something else on each rank.
"""

from __future__ import annotations

from collections.abc import Callable

from mlxgraph.errors import PartError
from mlxgraph.graph import ops
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.inside import parted
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import OUTPUT, Site
from mlxgraph.graph.values import Opaque
from mlxgraph.mlx_facts.processes import splits, unites
from mlxgraph.ranks.held import shares
from mlxgraph.run.tree import ModuleTree

_ALIKE = ops.ELEMENTWISE | {
    ops.ASTYPE_LIKE, ops.BROADCAST_LIKE, ops.FULL_LIKE, ops.MX_ZEROS_LIKE, ops.MX_ONES_LIKE,
    ops.MX_ASTYPE, ops.PUT, ops.ITEM, ops.LEAF, ops.UNFLATTEN_LIKE,
}  # fmt: skip


def is_part(tree: ModuleTree, site: Site) -> bool:
    """Whether a rank has a part of a site's value, or may have."""
    inside = parted(site.path)
    path = site.path if inside is None else inside[0]
    path = tree.aliases.get(path, path)
    module = tree.modules.get(path)
    if module is None:
        return False
    if inside is None and (splits(module) or unites(module)):
        return splits(module) == (site.port == OUTPUT)
    if inside is not None:
        return splits(module) or unites(module) or _shares(tree, path)
    above = path.rpartition(".")[0]
    return _shares(tree, above) and not _shares(tree, path)


def holds_part(tree: ModuleTree, path: str) -> bool:
    """Whether a rank has a part of a module's weights, or may have."""
    module = tree.modules.get(tree.aliases.get(path, path))
    return splits(module) or unites(module) or is_part(tree, Site(path, OUTPUT))


def _shares(tree: ModuleTree, path: str) -> bool:
    """Whether a module computes with parts: it has sharded projections of its own, or a group."""
    module = tree.modules.get(path)
    if module is None or any(one.startswith(f"{path}." if path else "") for one in tree.containers):
        return False
    return shares(module)


def check_parts(tree: ModuleTree, graph: Graph, part: Callable[..., object]) -> None:
    """Args: part: the function that takes a rank's part of a whole.  Raises: PartError."""
    for site, node in graph.writes:
        if is_part(tree, site) and not _means_one_thing(node, graph, part):
            raise PartError(
                str(site),
                "what is written to some of it, or from other values, is another edit on each rank",
                "Write whole = mg.gather(value), edit that, and value = mg.part(whole); for heads"
                " mg.edit(attention, function, heads=[5]), with the numbers of the whole model.",
            )


def _means_one_thing(node: Node, graph: Graph, part: Callable[..., object]) -> bool:
    if node.op in (ops.SITE, ops.NUMBER):
        return True
    if node.op == ops.APPLY:
        function = node.args[0]
        return isinstance(function, Opaque) and function.value is part
    if node.op == ops.CONSTANT:
        return getattr(graph.constants[node.args[0]], "size", 1) == 1
    if node.op not in _ALIKE:
        return node.op == ops.PARAM and node.args[1] in (None, ())
    return all(_means_one_thing(one, graph, part) for one in node.inputs)
