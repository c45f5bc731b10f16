"""The driver: rules applied to a graph from its sources up, until no rule has anything to say.

In: a graph and rules, each a function `Node -> Node | None`.  Out: the graph at rest.
A node is offered to the rules when its inputs are at rest; what a rule gives back is put to rest in
its turn.  So one walk is enough, each node is rewritten once, and a rule set that never rests
shows: a node that is still being rewritten is met again below its own replacement.
Never: recurses, or knows what any operation means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from mlxgraph.errors import RewriteError
from mlxgraph.errors.tracebacks import at_the_edge
from mlxgraph.graph.base import Moved
from mlxgraph.graph.deferred import is_graph
from mlxgraph.graph.graph import Graph, HasGraph, graph_of
from mlxgraph.graph.listing import brief
from mlxgraph.graph.node import Node
from mlxgraph.graph.values import map_frozen

Rule = Callable[[Node], Node | None]
MOST_TIMES = 1000  # one node is rewritten in a row: far beyond any rule set that means to end


@at_the_edge
def rewrite(graph: Graph | HasGraph, *rules: Rule) -> Graph:
    """The graph with every rule applied wherever it fits, until none fits any more.

    Args:
        rules: functions of one node that return the node to put in its place, or None to leave
            it.  Earlier rules are asked first.  A node's `op`, `args` and `kwargs` can be taken
            apart with `match`; its inputs are at rest already.

    Returns: a graph of the same writes, saves and constants; graphs that it defers are
        rewritten too.

    Raises: RewriteError for rules that never come to rest, or that return what is no node.

    Example:
        >>> def no_tanh(node):
        ...     '''tanh(x)  ->  x'''
        ...     match node:
        ...         case Node("mx.tanh", (x,)):
        ...             return x
        >>> plain = mg.rewrite(graph, no_tanh)
    """
    graph = graph_of(graph)
    new = Driver(rules, graph.constants).rest(graph.roots)
    then = tuple(rewrite(one, *rules) if is_graph(one) else one for one in graph.then)
    if all(new[node] is node for node in graph.roots) and all(
        a is b for a, b in zip(then, graph.then, strict=True)
    ):
        return graph
    return graph.replace(
        writes=[(site, new[node]) for site, node in graph.writes],
        saves=[(name, new[node]) for name, node in graph.saves],
        notes=Moved(graph.notes, _origins(graph, new)),
        then=then,
    )


def _origins(graph: Graph, new: Mapping[Node, Node]) -> dict[Node, Node]:
    """Each node that the graph did not have before -> the first that became it."""
    before = graph.nodes()
    known = set(before)
    origins: dict[Node, Node] = {}
    for node in before:
        if new[node] not in known:
            origins.setdefault(new[node], node)
    return origins


class Driver:
    """One run of some rules: what is at rest, and what is on its way."""

    def __init__(self, rules: Sequence[Rule], constants: Sequence = ()):
        self._rules = rules
        self._constants = constants
        self._done: dict[Node, Node] = {}
        self._pending: dict[Node, str] = {}  # being rewritten -> by which rule

    def rest(self, roots: Iterable[Node]) -> dict[Node, Node]:
        """Every node that was met -> what it became."""
        for root in roots:
            self._settle(root)
        return self._done

    def _settle(self, root: Node) -> None:
        """Put one node and all below it to rest.

        The stack holds `(node, None)` for a node to look at, and `(node, other)` for a node whose
        result is what `other`, above it on the stack, comes to.
        """
        done = self._done
        stack: list[tuple[Node, Node | None]] = [(root, None)]
        while stack:
            node, other = stack[-1]
            if node in done:
                stack.pop()
            elif other is not None:
                stack.pop()
                done[node] = done[other]
                self._pending.pop(node, None)
            elif node in self._pending:
                raise self._restless(node)
            else:
                waiting = [child for child in node.inputs if child not in done]
                if waiting:
                    stack.extend((child, None) for child in reversed(waiting))
                    continue
                stack.pop()
                self._advance(node, stack)

    def _advance(self, node: Node, stack: list[tuple[Node, Node | None]]) -> None:
        """Rebuild a node on its inputs at rest, or apply the first rule that fits it."""
        after = self._rebuilt(node)
        if after is node:
            after = self._ruled(node)
        if after is node:
            self._done[node] = node
        elif after in self._done:
            self._done[node] = self._done[after]
            self._pending.pop(node, None)
        else:
            stack.append((node, after))
            stack.append((after, None))

    def _rebuilt(self, node: Node) -> Node:
        done = self._done
        for child in node.inputs:
            if done[child] is not child:
                break
        else:
            return node

        def at_rest(value: object) -> object:
            return done[value] if type(value) is Node else value

        args = tuple([map_frozen(value, at_rest) for value in node.args])
        kwargs = tuple([(name, map_frozen(value, at_rest)) for name, value in node.kwargs])
        return Node(node.op, args, kwargs)

    def _ruled(self, node: Node) -> Node:
        for rule in self._rules:
            after = rule(node)
            if after is None or after is node:
                continue
            if type(after) is not Node:
                raise RewriteError(
                    f"the rule {name_of(rule)!r} returned {after!r}, which is a "
                    f"{type(after).__name__}, for the node {self._show(node)}.\n"
                    "  A rule returns the Node to put in its place, or None to leave it."
                )
            self._pending[node] = name_of(rule)
            if len(self._pending) > MOST_TIMES:
                raise self._restless(None)
            return after
        return node

    def _restless(self, again: Node | None) -> RewriteError:
        """The error that shows the circle (or the end of an endless chain)."""
        chain = list(self._pending.items())
        if again is None:
            what = f"have not come to rest after rewriting one node {MOST_TIMES} times"
            chain = chain[-4:]
        else:
            what = "never come to rest"
            chain = chain[[node for node, _ in chain].index(again) :]
        rules = dict.fromkeys(rule for _, rule in chain)
        lines = [f"    {self._show(node)}\n      by {rule!r} becomes" for node, rule in chain[-8:]]
        last = "    ..." if again is None else f"    {self._show(again)}  again"
        return RewriteError(
            f"the rules {' and '.join(map(repr, rules))} {what}:\n"
            + "\n".join([*lines, last])
            + "\n  Make the rule's pattern too narrow for its own result."
        )

    def _show(self, node: Node) -> str:
        return brief(node, self._constants)


def name_of(rule: Rule) -> str:
    """A rule as errors name it."""
    return getattr(rule, "__name__", None) or type(rule).__name__
