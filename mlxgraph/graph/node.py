"""Nodes: one recorded operation each, immutable and interned.

Two nodes with the same operation and arguments are the same object, so equality is identity, and
the same program recorded twice meets its prepared run at once.  Sources are nodes too:

    site(path, port, call)      the value the model computes there
    constant(k)                 the k-th array that came from outside; its value lives in the Graph
    number(k, kind)             the k-th Python number, weakly typed like MLX's own scalars
    param(name, shape, dtype)   a named hole

Never: holds an array, a line number or a shape; those are notes beside the graph.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

from mlxgraph.graph.ops import (
    APPLY,
    AT_STEPS,
    BY_OPERATORS,
    CALL,
    CONSTANT,
    GRAD,
    NUMBER,
    PARAM,
    SITE,
    SOURCES,
    is_random,
    key_position,
)
from mlxgraph.graph.site import OUTPUT, Site
from mlxgraph.graph.values import FrozenDict, FrozenList, Slice, frozen_leaves, map_frozen

__all__ = [  # the kinds of node, beside what this page defines
    "APPLY", "CALL", "CONSTANT", "GRAD", "NUMBER", "PARAM", "SITE", "SOURCES",
    "Node", "for_steps", "called", "is_draw", "is_number", "site_node", "site_of", "substitute",
    "walk",
]  # fmt: skip

_interned: dict[tuple, weakref.ref] = {}
_dead: list[weakref.ref] = []
_dropping: FrameType | None = None  # of whoever drops what is dead, for as long as it runs
_changing = (
    threading.RLock()
)  # one thread at a time takes entries out, or puts others in their stead


class _Reference(weakref.ref):
    __slots__ = ("key",)
    key: tuple


def _forget(reference: weakref.ref) -> None:
    """Drop dead entries one by one: dropping one may kill the next, ten thousand deep.

    Whoever comes in between leaves its own to the first; an interrupt leaves the rest to the next.
    """
    global _dropping
    with _changing:
        _dead.append(reference)
        if _dropping is not None and _is_running(_dropping):
            return
        try:
            _dropping = sys._getframe()
            while _dead:
                gone = _dead.pop()
                if _interned.get(gone.key) is gone:  # type: ignore[attr-defined]
                    del _interned[gone.key]  # type: ignore[attr-defined]
        finally:
            _dropping = None


def _is_running(frame: FrameType) -> bool:
    """Whether a frame is on the call stack: an interrupt may have ended it at any instruction."""
    above: FrameType | None = sys._getframe(1)
    while above is not None and above is not frame:
        above = above.f_back
    return above is frame


def _kept(node: Node, reference: _Reference) -> Node:
    """The node that is kept under a new node's key: another thread may have been quicker."""
    first = _interned.setdefault(reference.key, reference)
    known = first()
    if known is not None:
        return known
    with _changing:  # what was there has died, and is about to be forgotten
        known = _interned.setdefault(reference.key, reference)()
        if known is None:
            _interned[reference.key] = reference
        return known or node


class Node:
    """One operation.  `Node(op, args, kwargs)` returns the one node there is for these."""

    __slots__ = ("op", "args", "kwargs", "_inputs", "_structure", "__weakref__")
    op: str
    args: tuple
    kwargs: tuple
    _inputs: tuple[Node, ...] | None
    _structure: int  # there once `structure` was asked for it
    __match_args__ = ("op", "args", "kwargs")

    def __new__(cls, op: str, args: tuple = (), kwargs: tuple = ()) -> Node:
        key = (op, args, kwargs)
        reference = _interned.get(key)
        if reference is not None:
            known = reference()
            if known is not None:
                return known
        node = object.__new__(cls)
        object.__setattr__(node, "op", op)
        object.__setattr__(node, "args", args)
        object.__setattr__(node, "kwargs", kwargs)
        object.__setattr__(node, "_inputs", None)
        reference = _Reference(node, _forget)
        reference.key = key
        return _kept(node, reference)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Node is immutable; build another one instead of setting {name!r}")

    def __reduce__(self):
        return Node, (self.op, self.args, self.kwargs)

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The nodes this one reads, in order of appearance, each once."""
        inputs = self._inputs
        if inputs is None:
            found: dict[Node, None] = {}
            for argument in self.args:
                _collect(argument, found)
            for _, argument in self.kwargs:
                _collect(argument, found)
            inputs = tuple(found)
            object.__setattr__(self, "_inputs", inputs)
        return inputs

    def __repr__(self) -> str:
        return f"<node {self.op} of {len(self.inputs)}>" if self.inputs else f"<node {self.op}>"


def _collect(argument: Any, found: dict[Node, None]) -> None:
    kind = type(argument)
    if kind is Node:
        found[argument] = None
    elif kind is tuple or kind is FrozenList or kind is FrozenDict or kind is Slice:
        for leaf in frozen_leaves(argument):
            if type(leaf) is Node:
                found[leaf] = None


def site_node(path: str, port: str = OUTPUT, call: int = 0) -> Node:
    """The value that the model computes at a site."""
    return Node(SITE, (path, port, call))


def site_of(node: Node) -> Site:
    """The site that a `site` node reads."""
    return Site(*node.args)


def for_steps(node: Node, steps: Any) -> Node:
    """A value that there is at some steps of a generation alone, as `graph.steps` has them."""
    return Node(AT_STEPS, (steps, None, node))


def is_draw(node: Node) -> bool:
    """Whether a node draws from the random state: its first argument is then the draw's number.

    A module called by hand that draws has one too: before its path.

    A draw with a key of its own is a function like any other, and has no number.
    """
    if not node.args or type(node.args[0]) is not int:
        return False
    if node.op == CALL:
        return True
    if not is_random(node.op):
        return False
    if any(name == "key" for name, _ in node.kwargs):
        return False
    at = key_position(node.op)
    return len(node.args) <= at or not _is_key(node.args[at])


def called(node: Node) -> str:
    """The path of the module that a `call` node calls."""
    return node.args[1] if is_draw(node) else node.args[0]


def _is_key(value: Any) -> bool:
    return type(value) is Node and value.op == CONSTANT and value.args[1:] == ((2,), "uint32")


def is_number(node: Node) -> bool:
    """Whether a node is a Python number in disguise: it takes the dtype of the array it meets.

    So does what Python's operators make of such numbers alone: `1 - alpha`.
    """
    if node.op == NUMBER:
        return True
    if node.op != PARAM and node.op not in BY_OPERATORS:
        return False
    stack, seen = [node], 0
    while stack:
        below = stack.pop()
        seen += 1
        if below.op == NUMBER or (below.op == PARAM and below.args[1] is None):
            continue
        if below.op not in BY_OPERATORS or not below.inputs or seen > _MOST_NUMBERS:
            return False
        stack.extend(below.inputs)
    return True


_MOST_NUMBERS = 64  # nodes looked at before a value is taken for an array like any other


def walk(roots: Iterable[Node]) -> Iterator[Node]:
    """Every node below `roots`, each once, inputs before users, in a stable order."""
    done: set[Node] = set()
    for root in roots:
        stack = [root]
        while stack:
            node = stack[-1]
            if node in done:
                stack.pop()
                continue
            waiting = [child for child in node.inputs if child not in done]
            if waiting:
                stack.extend(reversed(waiting))
            else:
                stack.pop()
                done.add(node)
                yield node


def structure(root: Node) -> int:
    """A hash of what a node says, not of who it is; a node is asked once and keeps it.

    Which of a graph's constants is meant plays no part: two ways of numbering them are one graph.
    """
    if not hasattr(root, "_structure"):
        stack = [root]
        while stack:
            node = stack[-1]
            waiting = [child for child in node.inputs if not hasattr(child, "_structure")]
            if waiting:
                stack.extend(waiting)
                continue
            stack.pop()
            args = node.args[1:] if node.op in (CONSTANT, NUMBER) else node.args
            found = hash((node.op, _said(args), _said(node.kwargs)))
            object.__setattr__(node, "_structure", found)
    return root._structure


def _said(value: Any) -> Any:
    """Something that hashes as a frozen argument does, its nodes by their structure."""
    kind = type(value)
    if kind is Node:
        return value._structure
    if kind is tuple:
        return tuple([_said(item) for item in value]) if value else value
    if kind is Slice or kind is FrozenList or kind is FrozenDict:
        return kind.__name__, _said(value.value)
    return value


def substitute(roots: Iterable[Node], replace: Callable[[Node], Node | None]) -> dict[Node, Node]:
    """Rebuild everything below `roots`, where `replace(rebuilt node)` may name another node.

    Returns: a mapping from each old node to its new one.
    """
    new: dict[Node, Node] = {}

    def moved(value: Any) -> Any:
        return new[value] if type(value) is Node else value

    for node in walk(roots):
        rebuilt = node
        if any(new[child] is not child for child in node.inputs):
            args = tuple([map_frozen(a, moved) for a in node.args])
            kwargs = tuple([(name, map_frozen(a, moved)) for name, a in node.kwargs])
            rebuilt = Node(node.op, args, kwargs)
        new[node] = replace(rebuilt) or rebuilt
    return new
