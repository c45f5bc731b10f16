"""Where the batch of a sweep grows, and where it is made smaller.

In: the sites of first writes, a census.  Out: a Route.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from mlxgraph.graph.census import Census
from mlxgraph.graph.inside import parted
from mlxgraph.graph.nested import leaves
from mlxgraph.graph.site import INPUTS, OUTPUT, Site
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.run.slabs import Slabs
from mlxgraph.run.tree import ModuleTree


class Route(NamedTuple):
    """Where a batch grows, and where it is made smaller.

    Attributes:
        holders: modules, none of which holds the layers, that some run writes inside of.
        spared: modules in these that need not see the rows of runs that have not been written to.
        carried: modules that are given several arrays with slabs, some of them from long before.
    """

    holders: frozenset[str]
    spared: frozenset[str]
    carried: frozenset[str]


def route(
    firsts: Iterable[Site],
    census: Census,
    slabs: Slabs,
    containers: frozenset[str],
    tree: ModuleTree,
) -> Route:
    """Where a batch grows.  Args: firsts: the sites at which runs join."""
    called = {site.path for site in census.outputs()}
    holders = {path for site in firsts for path in _around(site) if path in called - containers}
    above = {path: next((p for p in _ancestors(path) if p in called), None) for path in called}
    spared = {
        path
        for path in called - holders - containers
        if above[path] in holders and _is_heavy(tree.modules.get(path))
    }
    carried = {
        path
        for path in called - containers
        if above[path] in containers
        and sum(one is not None for one in slabs.of(Site(path, INPUTS))) > 1
    }
    return Route(frozenset(holders), frozenset(spared), frozenset(carried))


def _around(site: Site) -> list[str]:
    """The modules that a site is inside of, the innermost first."""
    inside = parted(site.path)
    module = site.path if inside is None else inside[0]
    own = [module] if inside is not None or site.port != OUTPUT else []
    return [*own, *_ancestors(module)]


def _ancestors(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:k]) for k in range(len(parts) - 1, 0, -1)] + ([""] if path else [])


def _is_heavy(module: Any) -> bool:
    """Whether a module multiplies by a matrix: the rest costs no more than copying its values."""
    return module is not None and any(
        isinstance(value, ARRAY) and value.ndim > 1 for value in leaves(module.parameters())
    )
