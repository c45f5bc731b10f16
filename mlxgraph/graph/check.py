"""The verifier: what a well-formed graph is, as rules.

Each rule is a small function whose docstring is the law; it says what is wrong, or nothing.
Rules come in three kinds, and each rule believes what the ones before it have checked:

    FORMS    of a graph: writes, saves and constants are of their kind, and nodes can be walked
    EVERY    of one node among its graph's constants, so it can be printed, planned and run
             (they stand in `graph.check_nodes`, and so do those OF one operation)
    WHOLES   of a graph of such nodes

What a graph defers (edits, reads, graphs) has rules of its own.  That no node is below itself
needs none: a node is made of nodes that are there already.

The rules hold for every graph, recorded or made by hand.  They run on loading (a file is
believed in nothing), on what every rewrite makes in the tests, and, where the environment says
MLXGRAPH_CHECK=1, on every recording.
Never: changes a graph, looks into an array, or knows a model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from mlxgraph.errors import MalformedGraphError
from mlxgraph.graph import ops
from mlxgraph.graph.base import GraphBase
from mlxgraph.graph.check_nodes import (
    EVERY,
    OF,
    NodeRule,
    dtype_fault,
    is_whole,
    port_fault,
    shape_fault,
    site_fault,
    text_fault,
)
from mlxgraph.graph.deferred import Edit, Read, is_graph
from mlxgraph.graph.named import is_array
from mlxgraph.graph.node import Node, walk
from mlxgraph.graph.site import INPUTS, SKIP, Site

SWITCH = "MLXGRAPH_CHECK"
MOST_SHOWN = 8  # faults in one error


class Fault(NamedTuple):
    """One way in which a graph is malformed: the rule, what is wrong, and where."""

    rule: str
    what: str
    node: Node | None = None
    where: str = ""  # `node 3, mx.add, at a.py:17`

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


def faults(graph: GraphBase) -> list[Fault]:
    """Every fault of a graph; of a fault that makes others meaningless, only that one."""
    found = list(form_faults(graph))
    if found:
        return found
    nodes = graph.nodes()
    for k, node in enumerate(nodes):
        if fault := node_fault(node, graph.constants):
            found.append(fault._replace(where=_told(graph, node, k)))
    if found:
        return found
    return [*whole_faults(graph, nodes), *deferred_faults(graph)]


def check(graph: GraphBase) -> None:
    """Nothing, if the graph is well-formed.

    Raises: MalformedGraphError, with what is wrong, at which node and on which line of the user's.
    """
    found = faults(graph)
    if found:
        lines = [f"  {fault}  [{fault.rule}]" for fault in found[:MOST_SHOWN]]
        if len(found) > MOST_SHOWN:
            lines.append(f"  ... and {len(found) - MOST_SHOWN} more")
        raise MalformedGraphError("this graph is malformed.\n" + "\n".join(lines))


def is_asked() -> bool:
    """Whether the environment asks for every recording to be checked: MLXGRAPH_CHECK=1."""
    return os.environ.get(SWITCH, "") not in ("", "0")


ASKED = is_asked()  # once: the environment is slow to look at, for each of many recordings


def if_asked(graph: GraphBase) -> None:
    """`check`, behind the switch as it was when the library was imported."""
    if ASKED:
        check(graph)


def form_faults(graph: GraphBase, rules: Iterable[FormRule] | None = None) -> Iterator[Fault]:
    """What is wrong with a graph's writes, saves and constants, whatever its nodes mean."""
    for rule in FORMS if rules is None else rules:
        found = [Fault(_name(rule), what) for what in rule(graph)]
        if found:
            yield from found
            return


def node_fault(
    node: Node, constants: Sequence[Any], every: tuple[NodeRule, ...] = EVERY
) -> Fault | None:
    """What is wrong with one node among these constants: the first rule that it breaks."""
    for rule in every + OF.get(node.op, ()):
        if what := rule(node, constants):
            return Fault(_name(rule), what, node)
    return None


def whole_faults(
    graph: GraphBase, nodes: Sequence[Node], rules: Iterable[WholeRule] | None = None
) -> Iterator[Fault]:
    """What is wrong with a graph of well-formed nodes."""
    for rule in WHOLES if rules is None else rules:
        for node, what in rule(graph, nodes):
            yield Fault(_name(rule), what, node, _told(graph, node, nodes.index(node)))


def deferred_faults(graph: GraphBase) -> Iterator[Fault]:
    """What is wrong with what a graph defers: edits, reads, and graphs, which are checked whole."""
    for k, deferred in enumerate(graph.then):
        if is_graph(deferred):
            for fault in faults(deferred):
                yield fault._replace(where=f"then {k}, {fault.where}".removesuffix(", "))
        elif what := deferred_is_an_edit_or_a_read(deferred):
            yield Fault(_name(deferred_is_an_edit_or_a_read), what, None, f"then {k}")


def _told(graph: GraphBase, node: Node, k: int) -> str:
    note = graph.notes.get(node)
    line = f", at {note.where}" if note is not None and note.where else ""
    return f"node {k}, {str(node.op)[:80]}{line}"


def _name(rule: Callable[..., Any]) -> str:
    return rule.__name__.replace("_", " ")


# -- the form of a graph --------------------------------------------------------------------------


FormRule = Callable[[GraphBase], Iterator[str]]


def writes_are_sites_and_nodes(graph: GraphBase) -> Iterator[str]:
    """A write is a site and the node that it becomes; no site is written twice."""
    sites = []
    for write in graph.writes:
        site, node = write if type(write) is tuple and len(write) == 2 else (None, None)
        if type(site) is not Site or type(node) is not Node:
            yield "a write is no site and node"
        elif wrong := site_fault(*site):
            yield wrong
        else:
            sites.append(site)
    yield from _unique(sites, "writes to a site")


def saves_are_names_and_nodes(graph: GraphBase) -> Iterator[str]:
    """A save is a name and a node; no name is used twice."""
    names = []
    for save in graph.saves:
        name, node = save if type(save) is tuple and len(save) == 2 else (None, None)
        if wrong := text_fault(name, "a save"):
            yield wrong
        elif type(node) is not Node:
            yield "a save is of no node"
        else:
            names.append(name)
    yield from _unique(names, "saves")


def constants_are_arrays_or_numbers(graph: GraphBase) -> Iterator[str]:
    """A constant is an array or a Python number."""
    for k, value in enumerate(graph.constants):
        if not is_array(value) and type(value) not in (int, float, bool, complex):
            yield f"constant {k} is a {type(value).__name__}"


def nodes_can_be_walked(graph: GraphBase) -> Iterator[str]:
    """A node has a tuple of arguments, and one of pairs of a keyword and an argument."""
    done: set[Node] = set()
    waiting = [*graph.roots]
    while waiting:
        node = waiting.pop()
        if node in done:
            continue
        done.add(node)
        pairs = node.kwargs if type(node.kwargs) is tuple else (None,)
        if type(node.args) is tuple and all(type(p) is tuple and len(p) == 2 for p in pairs):
            waiting += node.inputs
        else:
            yield f"the arguments of {str(node.op)[:80]} are no arguments and keywords"


def _unique(names: list[Any], what: str) -> Iterator[str]:
    if len(set(names)) < len(names):
        yield f"it has two {what} of one name"


# -- a graph of well-formed nodes -----------------------------------------------------------------

Found = Iterator[tuple[Node, str]]
WholeRule = Callable[[GraphBase, Sequence[Node]], Found]


def params_agree(graph: GraphBase, nodes: Sequence[Node]) -> Found:
    """Params of one name are one hole: where two of them say a shape or a dtype, it is the same."""
    shapes: dict[str, Any] = {}
    dtypes: dict[str, Any] = {}
    for node in nodes:
        if node.op == ops.PARAM:
            name, shape, dtype = node.args
            for known, said, what in ((shapes, shape, "shape"), (dtypes, dtype, "dtype")):
                if said is not None and known.setdefault(name, said) != said:
                    yield node, f"the param {name!r} has another {what} elsewhere"


def gradients_are_of_the_forward(graph: GraphBase, nodes: Sequence[Node]) -> Found:
    """A loss holds no gradient itself, and nothing that is written does: it is known too late."""
    late: set[Node] = set()
    if not any(node.op == ops.GRAD for node in nodes):
        return
    for node in nodes:
        if node.op == ops.GRAD and node.args[0] in late:
            yield node, "its loss holds a gradient"
        if node.op == ops.GRAD or any(child in late for child in node.inputs):
            late.add(node)
    for site, node in graph.writes:
        if node in late:
            yield node, f"what is written at {site.spoken} needs a gradient"


def skipped_modules_compute_nothing(graph: GraphBase, nodes: Sequence[Node]) -> Found:
    """What stands for a skipped module's output is computed before the module would run."""
    for site, node in graph.writes:
        if site.port == SKIP:
            for below in walk([node]):
                if below.op == ops.SITE and _is_within(Site(*below.args), site):
                    yield node, f"the output of the skipped {site.path} needs {Site(*below.args)}"


def _is_within(read: Site, skipped: Site) -> bool:
    if read.path == skipped.path:
        return read.port != INPUTS and read.call == skipped.call
    return not skipped.call and read.path.startswith(skipped.path + ".")


def notes_are_notes(graph: GraphBase, nodes: Sequence[Node]) -> Found:
    """A note says a line, and a shape and a dtype or None."""
    for node in nodes:
        note = graph.notes.get(node)
        if note is not None and (wrong := note_fault(*note)):
            yield node, wrong


def note_fault(where: Any, shape: Any, dtype: Any) -> str | None:
    """A note's line is text, its shape and dtype are ones that an array can have."""
    wrong = text_fault(where, "a note") or (None if dtype is None else dtype_fault(dtype))
    return wrong or (None if shape is None else shape_fault(shape))


# -- what is deferred -----------------------------------------------------------------------------


def deferred_is_an_edit_or_a_read(deferred: Any) -> str | None:
    """An edit has a pattern, a function and where it acts; a read a pattern and perhaps a name."""
    if type(deferred) not in (Edit, Read):
        return f"a {type(deferred).__name__} is no edit, read or graph"
    wrong = text_fault(deferred.pattern, "pattern") or text_fault(deferred.where, "where")
    wrong = wrong or port_fault(deferred.port)
    if wrong is None and deferred.expect is not None and not is_whole(deferred.expect, 0):
        return "`expect` is no count"
    if type(deferred) is Read:
        return wrong or (None if deferred.name is None else text_fault(deferred.name, "a save"))
    if wrong is None and not callable(deferred.function):
        return "an edit has no function"
    return wrong or positions_fault(deferred.positions) or heads_fault(deferred.heads)


def positions_fault(positions: Any) -> str | None:
    """Positions are a number, a slice, a tuple of numbers, or None; from either end."""
    if isinstance(positions, slice):
        if positions.step == 0:
            return "positions have a step of 0"
        positions = (positions.start, positions.stop, positions.step)
        positions = tuple(part for part in positions if part is not None)
    numbers = positions if type(positions) is tuple else (positions,)
    if positions is None or all(is_whole(number) for number in numbers):
        return None
    return "positions are no numbers"


def heads_fault(heads: Any) -> str | None:
    """Heads are a tuple of numbers, from either end, or None."""
    if heads is None or (type(heads) is tuple and all(is_whole(head) for head in heads)):
        return None
    return "heads are no numbers"


FORMS: tuple[FormRule, ...] = (
    writes_are_sites_and_nodes,
    saves_are_names_and_nodes,
    constants_are_arrays_or_numbers,
    nodes_can_be_walked,
)
WHOLES: tuple[WholeRule, ...] = (
    params_agree,
    gradients_are_of_the_forward,
    skipped_modules_compute_nothing,
    notes_are_notes,
)
