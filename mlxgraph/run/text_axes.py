"""Where the positions of a text are in what a call's forward visits, and which are named by what
comes with a run.

In: a runner, a call of token ids; a graph and the values of its params.  Out: what
`rewrite.shift` asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

from mlxgraph.graph import ops
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.nested import leaves
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import Site
from mlxgraph.mlx_facts.originals import ARRAY, zeros
from mlxgraph.mlx_facts.probes import holds_nothing, is_followed
from mlxgraph.run.along import HAD, NEW, UNKNOWN, axes_of, of_all_so_far
from mlxgraph.run.call import Call, describe_call
from mlxgraph.run.runner import Runner
from mlxgraph.run.short_cache import census_with_cache


class TextAxes:
    """A site's value with the axis of its positions in place of each array, as `run.along` has it.

    Args: call: of nothing but token ids, (rows, length).
    """

    def __init__(self, runner: Runner, call: Call):
        tokens = call.args[0]
        self._runner = runner
        self._rows, self._length = tokens.shape
        self._call, self._longer = (
            describe_call((ids,), {}, tokens=ids, lengths=[ids.shape[1]] * self._rows)
            for ids in (zeros((self._rows, self._length + n), tokens.dtype) for n in (0, 1))
        )
        self._found: dict[Site, Any] = {}

    def __call__(self, site: Site) -> Any:
        if site not in self._found:
            self._found[site] = self._axes(site)
        return self._found[site]

    def _axes(self, site: Site) -> Any:
        runner = self._runner
        try:
            census, longer = runner.census(self._call), runner.census(self._longer)
        except Exception:  # whatever the model's own code has against a token more
            return UNKNOWN
        inside = census.is_inside(site)
        if inside:
            census.look_inside()
            longer.look_inside()
        axes = axes_of(site, self._length, census, longer)
        if inside or any(isinstance(one, frozenset) for one in leaves(axes)):
            short = census_with_cache(runner, self._rows, HAD, NEW)
            return axes if short is None else of_all_so_far(site, axes, short)
        return axes


def text_axes(runner: Runner, call: Call) -> TextAxes:
    """The axes of a call's sites, kept with what else was worked out about the model."""
    key = ("axes", call.key, runner.root.training)
    known = runner.prefixes.get(key)
    return known[0] if known else runner.prefixes.put(key, (TextAxes(runner, call),))[0]


def numbers_in(graph: Graph, params: Mapping[str, Any]) -> Callable[[Node], Any]:
    """The whole number, or the list of them, that a node of an index is in one run; None where that
    is something else."""

    def number(node: Node) -> Any:
        if node.op == ops.PARAM:
            value = params.get(node.args[0])
        elif node.op in (ops.CONSTANT, ops.NUMBER):
            value = graph.constants[node.args[0]]
        else:
            return None
        if isinstance(value, ARRAY):
            if value.ndim > 1 or not mx.issubdtype(value.dtype, mx.integer):
                return None
            return None if is_followed(value) or holds_nothing(value) else value.tolist()
        return value if type(value) is int else None

    return number
