"""Writes of a block at tokens that a prompt cache holds: no forward of this generation has them.

A graph that is given, or that stays on a model, may have edited these tokens when the cache was
filled, and is asked nothing.

In: what a block recorded, and how many tokens the cache holds.  Out: nothing, or PartOfTextError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlxgraph.errors import PartOfTextError
from mlxgraph.graph import ops
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import Site
from mlxgraph.graph.values import FrozenList, Slice
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record.recording import Recording
from mlxgraph.trace.indices import line_of


def written_so_far(recording: Recording) -> frozenset[Node]:
    """What is written before the block begins."""
    return frozenset(node for _, node in recording.sites.writes())


def check_to_come(
    recording: Recording,
    graph: Graph,
    before: frozenset[Node],
    held: int,
    axes_of: Callable[[Site], Any],
) -> None:
    """Raise where the block writes at tokens alone that the cache holds.

    Args: before: what was written before the block; held: how many tokens the cache holds;
        axes_of: the axis of a site's positions, counted from the last, or whatever else for a value
        that has none, or keys, which a forward is given again.
    """
    sites = {site for site, _ in graph.writes}
    for site, node in recording.sites.writes():
        if site not in sites:  # a sum of the stream, which no module gives: as the layer's output
            site = site._replace(path=site.path.rpartition(".")[0])
        while node.op in (ops.UPDATE, ops.AT_STEPS) and node not in before:
            if node.op == ops.AT_STEPS:
                node = node.args[2]  # the value at these steps
                continue
            base, index, _ = node.args
            place = _place(index, axes_of(site), recording.info(base).value)
            if place is not None and _is_held(place, held):
                raise PartOfTextError(
                    f"position {_said(place)} is written, and the prompt cache holds the first"
                    f" {held} tokens: no forward of this generation has it.",
                    line_of(graph, node),
                    "Write it where the cache is filled, or model.generate(prompt) with the whole"
                    " prompt and no prompt_cache.",
                )
            node = base


def _place(index: Any, axis: Any, value: Any) -> Any:
    """What an index says of the positions; None where it says nothing, or nobody can tell."""
    parts = index if type(index) is tuple else (index,)
    if type(axis) is not int or not isinstance(value, ARRAY):
        return None
    axis += value.ndim
    if axis >= len(parts) or not all(map(_is_plain, parts[: axis + 1])):
        return None
    return parts[axis]


def _is_plain(part: Any) -> bool:
    return type(part) in (int, Slice, FrozenList)


def _is_held(place: Any, held: int) -> bool:
    """Whether a place, or one of several that are listed, is among the first tokens."""
    if type(place) is Slice:
        start, stop, step = place.value
        known = all(type(one) in (int, type(None)) for one in place.value)
        whole = known and step in (None, 1) and type(stop) is int
        return whole and 0 <= (start or 0) < stop <= held
    numbers = place.value if type(place) is FrozenList else (place,)
    return any(type(one) is int and 0 <= one < held for one in numbers)


def _said(place: Any) -> str:
    if type(place) is Slice:
        return f"{'' if place.value[0] is None else place.value[0]}:{place.value[1]}"
    return str(list(place.value) if type(place) is FrozenList else place)
