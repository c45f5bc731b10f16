"""The library's rewrites, in the order in which they are tried.

    updates     a write that a later write covers goes
    noops       a write that changes nothing goes
    reads       reading what was just written gives what was written
    views       there and back again is nowhere
    casts       a shape or dtype that is there already is not made again
    twins       a + b is b + a
    constants   one value that came in twice comes in once        (looks at values)
    folding     what rests on constants alone is computed now     (looks at values)
    dead        what is left without a use goes

In: a graph and which rewrites to use.  Out: a graph that computes the same, and its history.
Rewrites that look at values serve who simplifies a graph by hand.  A compiled pass takes other
values at its next run, so `FOR_RUNS` leaves them out, and keeps the constants' numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from mlxgraph.errors import UnknownNameError
from mlxgraph.graph import ops
from mlxgraph.graph.deferred import is_graph
from mlxgraph.graph.graph import Graph
from mlxgraph.rewrite import rules, whole_graph
from mlxgraph.rewrite.driver import Rule, rewrite

MOST_ROUNDS = 8


class Rewrite(NamedTuple):
    """One rewrite of the pipeline: a name to turn it off by, its law, and what it does."""

    name: str
    law: str
    run: Callable[[Graph], Graph]


class Change(NamedTuple):
    """What one rewrite made of a graph."""

    name: str
    before: Graph
    after: Graph


class Simplified(NamedTuple):
    """A graph at rest under its rewrites, and how it came there."""

    graph: Graph
    history: tuple[Change, ...]


def _by_rules(name: str, law: str, using: tuple[Rule, ...]) -> Rewrite:
    return Rewrite(name, law, lambda graph: rewrite(graph, *using))


LOCAL = (
    _by_rules("updates", "the last write is the one that counts", rules.UPDATES),
    _by_rules("noops", "what is written with its own value is unchanged", rules.NOOPS),
    _by_rules("reads", "what was written is what is read", rules.READS),
    _by_rules("views", "a view of a view is one view", rules.VIEWS),
    _by_rules("casts", "what has a shape and dtype already is not given it again", rules.CASTS),
    Rewrite("twins", "operands of + and * can be exchanged", whole_graph.merge_twins),
)
BY_VALUE = (
    Rewrite("constants", "one value needs one input", whole_graph.merge_constants),
    Rewrite("folding", "what rests on constants is a constant", lambda graph: graph),
)
ALL = (*LOCAL, *BY_VALUE, Rewrite("dead", "what nothing uses can go", whole_graph.drop_dead))
FOR_RUNS = (*LOCAL, Rewrite("dead", "what nothing uses can go", whole_graph.drop_idle_writes))
NAMES = tuple(one.name for one in ALL)


def simplify(
    graph: Graph,
    using: Iterable[Rewrite] = ALL,
    without: Iterable[str] = (),
    evaluate: whole_graph.Evaluate | None = None,
) -> Simplified:
    """The graph at rest under the rewrites: none of them changes it any more.

    They are tried in rounds, and no more than MOST_ROUNDS of them.  A graph with random draws or
    gradients is left as it is (see `is_touchy`); the graphs that it defers are not.

    Args:
        using: the rewrites, in order; without: names of rewrites to leave out.
        evaluate: MLX's arithmetic, for `folding`; without it nothing is folded.

    Raises: UnknownNameError for a name that is no rewrite.
    """
    left_out = set(without)
    for name in left_out:
        if name not in NAMES:
            raise UnknownNameError("rewrite", name, NAMES)
    chosen = [_armed(one, evaluate) for one in using if one.name not in left_out]
    history: list[Change] = []
    if not is_touchy(graph):
        for _ in range(MOST_ROUNDS):
            before = graph
            for one in chosen:
                graph = _apply(one, graph, history)
            if graph is before:
                break
    then = tuple(simplify(one, chosen).graph if is_graph(one) else one for one in graph.then)
    if any(a is not b for a, b in zip(then, graph.then, strict=True)):
        graph = graph.replace(then=then)
    return Simplified(graph, tuple(history))


def _armed(one: Rewrite, evaluate: whole_graph.Evaluate | None) -> Rewrite:
    if one.name != "folding" or evaluate is None:
        return one
    return one._replace(run=partial(whole_graph.fold_constants, evaluate=evaluate))


def _apply(one: Rewrite, graph: Graph, history: list[Change]) -> Graph:
    after = one.run(graph)
    if after is graph:
        return graph
    history.append(Change(one.name, graph, after))
    return after


def is_touchy(graph: Graph) -> bool:
    """Whether a graph is left as it is.

    With random draws, which of them comes first is part of what is computed; and a gradient is
    taken at one node, so that another node of the same value does not stand in for it.
    """
    return any(node.op == ops.GRAD or ops.is_random(node.op) for node in graph.nodes())
