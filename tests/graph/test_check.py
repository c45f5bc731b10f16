"""The verifier: each rule finds the graph that breaks just it, and no other graph."""

from __future__ import annotations

import pytest
from hypothesis import given

from mlxgraph.errors import MalformedGraphError
from mlxgraph.graph import check, check_nodes, ops
from mlxgraph.graph.deferred import Edit, Read
from mlxgraph.graph.graph import Graph, Note
from mlxgraph.graph.node import Node, site_node
from mlxgraph.graph.site import INPUTS, SKIP, Site
from mlxgraph.graph.values import DType, FrozenList, Literal, Opaque, Slice
from tests.graph.fakes import FakeArray, small_graph
from tests.graph.test_file import graphs

A, B = Site("a"), Site("b")
H, X = site_node("a"), site_node("b")
LOSS = Node(ops.MX_SOFTMAX, (H,))
SLOPE = Node(ops.GRAD, (LOSS, H))
NEST = Node(ops.UNFLATTEN_LIKE, (H, H, X))
CONSTANTS = (FakeArray((3,)), 4.0, FakeArray((2,), "bool"))


def of(*nodes: Node, **fields) -> Graph:
    """A graph that saves these nodes."""
    saves = [(str(k), node) for k, node in enumerate(nodes)]
    return Graph(**{"saves": saves, "constants": CONSTANTS, **fields})


def op(name: str, *args, **kwargs) -> Node:
    return Node(name, args, tuple(kwargs.items()))


# rule -> (graphs that break it, graphs that do not and look alike)
CASES = {
    "writes are sites and nodes": (
        [
            Graph([(A, H), (B, X), (A, X)]), Graph([("a", H)]), Graph([(A, 3)]), Graph([(A, H, X)]),
            Graph([(Site("a", "out put"), H)]), Graph([(Site("a", "output", -1), H)]),
            Graph([(Site(3), H)]), Graph([(Site([]), H)]),
        ],
        [Graph([(A, H), (Site("a", INPUTS), H), (Site("a", "output", 1), H)])],
    ),
    "saves are names and nodes": (
        [
            of(saves=[("x", H), ("x", X)]), of(saves=[(3, H)]), of(saves=[("x", "y")]),
            of(saves=[("\ud800", H)]), of(saves=[([], H)]), of(saves=["xy"]),
        ],
        [of(saves=[("x", H), ("y", H), ("", H), ("\u00e9", H)])],
    ),
    "constants are arrays or numbers": (
        [of(constants=["text"]), of(constants=[None]), of(constants=[object()])],
        [of(constants=[1, 2.0, True, 1j, FakeArray(())])],
    ),
    "arguments are frozen": (
        [
            of(op("mx.add", H, 2.0)), of(op("mx.add", H, True)), of(op("mx.add", H, (1, 2j))),
            of(op("mx.add", H, print)), of(Node("mx.add", (H, X), (("a-b", 1),))),
            of(op("mx.add", H, axis=0.5)), of(Node("mx.add", (H,), (("k", 1), ("k", 2)))),
        ],
        [of(op("mx.add", (2, None, "x", Ellipsis, Literal(2.0)), k=FrozenList((Slice(0, H, 1),))))],
    ),
    "nodes can be walked": (
        [
            of(Node("mx.add", (H, X), ("k",))), of(Node("mx.add", "h")), of(Node("a", None)),
            of(Node("mx.add", (H,), 3)), of(op("mx.abs", Node("mx.add", (H,), ((1, 2, 3),)))),
        ],
        [of(Node("mx.add", (H, X), (("k", 1),)))],
    ),
    "operation is known": (
        [of(op("os.system", "true")), of(op("add", H, X)), of(op("mx", H)), of(op("at.floor", H))],
        [of(op("mx.brand_new", H)), of(op("nn.losses.new_loss", H)), of(op("at.add", H, 0, X))],
    ),
    "sources have their arguments": (
        [
            of(op(ops.SITE, "a", "output")), of(op(ops.NUMBER, 1, "float", 2)),
            of(op(ops.PARAM, "x", None)), of(Node(ops.CONSTANT, (0, (3,), "float32"), (("k", 1),))),
        ],
        [of(op(ops.SITE, "a", "output", 0), op(ops.NUMBER, 1, "float"))],
    ),
    "arguments are enough": (
        [
            of(op(ops.GETITEM, H)), of(op(ops.UPDATE, H, 0)), of(op(ops.SPLIT_PART, H, 2, 0)),
            of(op(ops.ITEM, H, 0, 1)), of(op(ops.AT["add"], H, 0)), of(op(ops.UNFLATTEN_LIKE)),
        ],
        [of(op(ops.UNFLATTEN_LIKE, H, X, X, X), op(ops.ARRAY_MAKE, H), op("mx.add", H))],
    ),
    "site is a site": (
        [
            of(op(ops.SITE, 3, "output", 0)), of(op(ops.SITE, "a", "out put", 0)),
            of(op(ops.SITE, "a", "output", -1)), of(op(ops.SITE, "a", "output", 2**40)),
            of(op(ops.SITE, "a", SKIP, 0)), of(op(ops.SITE, "a", "output", Literal(True))),
        ],
        [of(op(ops.SITE, "", INPUTS, 3))],
    ),
    "constant is an array": (
        [
            of(op(ops.CONSTANT, 9, (3,), "float32")), of(op(ops.CONSTANT, -1, (2,), "bool")),
            of(op(ops.CONSTANT, "0", (3,), "float32")), of(op(ops.CONSTANT, 1, (), "float32")),
            of(op(ops.CONSTANT, 0, (4,), "float32")), of(op(ops.CONSTANT, 0, 3, "float32")),
            of(op(ops.CONSTANT, 0, (3,), "bfloat16")), of(op(ops.CONSTANT, 0, (3,), "x.float32")),
        ],
        [of(op(ops.CONSTANT, 0, (3,), "float32"), op(ops.CONSTANT, 2, (2,), "bool_"))],
    ),
    "number is a number": (
        [
            of(op(ops.NUMBER, 0, "float")), of(op(ops.NUMBER, 1, "int")),
            of(op(ops.NUMBER, 9, "int")), of(op(ops.NUMBER, 1, ("float",))),
            of(op(ops.NUMBER, H, "float")),
        ],
        [of(op(ops.NUMBER, 1, "float"))],
    ),
    "param is a hole": (
        [
            of(op(ops.PARAM, "a b", None, None)), of(op(ops.PARAM, 3, None, None)),
            of(op(ops.PARAM, "a", (2**40,), None)), of(op(ops.PARAM, "a", (2**30, 2**30), None)),
            of(op(ops.PARAM, "a", (-1,), None)), of(op(ops.PARAM, "a", 3, None)),
            of(op(ops.PARAM, "a", (1,) * 65, None)), of(op(ops.PARAM, "a", (2,), "object")),
        ],
        [of(op(ops.PARAM, "a", (2, 0), "bool_"), op(ops.PARAM, "b", None, None))],
    ),
    "call names a module": (
        [of(op(ops.CALL)), of(op(ops.CALL, 3)), of(op(ops.CALL, H))],
        [of(op(ops.CALL, "layers.0", H, mask=None))],
    ),
    "apply holds a function": (
        [of(op(ops.APPLY, "print", H)), of(op(ops.APPLY, H))],
        [of(op(ops.APPLY, Opaque(print), H))],
    ),
    "gradient is of a node": (
        [
            of(op(ops.GRAD, H)), of(op(ops.GRAD, LOSS, 0)), of(op(ops.GRAD, LOSS, H, H)),
            of(op(ops.GRAD, LOSS, H, axis=0)),
        ],
        [of(SLOPE)],
    ),
    "draws are numbered": (
        [
            of(op("mx.random.normal")), of(op("mx.random.normal", (3,))), of(op("mx.random.split")),
            of(op("mx.random.uniform", 0)), of(op(ops.NORMAL_LIKE, H, 1)),
        ],
        [
            of(op("mx.random.normal", 1, (3,)), op("mx.random.normal", (3,), key=H)),
            of(op("mx.random.normal", (3,), DType("float32"), H), op("mx.random.split", H)),
        ],
    ),
    "leaves are there": (
        [of(op(ops.LEAF, NEST, 2)), of(op(ops.LEAF, H, -1)), of(op(ops.LEAF, H, "0"))],
        [of(op(ops.LEAF, NEST, 1), op(ops.LEAF, H, 9))],
    ),
    "dtypes are known": (
        [
            of(op(ops.MX_ASTYPE, H, DType("object"))), of(op("mx.zeros", (3,), dtype=DType(3))),
            of(op("mx.zeros", FrozenList((DType("__class__"),)))),
        ],
        [of(*[op(ops.MX_ASTYPE, H, DType(name)) for name in ("bool_", "bfloat16", "complex64")])],
    ),
    "params agree": (
        [
            of(op(ops.PARAM, "a", (2,), None), op(ops.PARAM, "a", (3,), None)),
            of(op(ops.PARAM, "a", None, "float32"), op(ops.PARAM, "a", None, "int32")),
        ],
        [of(op(ops.PARAM, "a", (2,), None), op(ops.PARAM, "a", None, "int32"))],
    ),
    "gradients are of the forward": (
        [
            of(op(ops.GRAD, op("mx.sum", SLOPE), H)),
            of(writes=[(B, op("mx.add", X, SLOPE))]), of(writes=[(B, SLOPE)]),
        ],
        [of(op("mx.add", SLOPE, SLOPE), writes=[(B, X)])],
    ),
    "skipped modules compute nothing": (
        [
            of(writes=[(Site("a", SKIP), op("mx.negative", H))]),
            of(writes=[(Site("a", SKIP), site_node("a.b", INPUTS))]),
        ],
        [
            of(writes=[(Site("a", SKIP), site_node("a", INPUTS)), (B, site_node("a.b"))]),
            of(writes=[(Site("a", SKIP, 1), H), (B, site_node("a2"))]),
        ],
    ),
    "notes are notes": (
        [
            of(H, notes={H: Note(3)}), of(H, notes={H: Note("", (-1,))}),
            of(H, notes={H: Note("", None, "str")}), of(H, notes={H: Note("", [2])}),
        ],
        [of(H, notes={H: Note("a.py:3", (2, 0), "bool_")})],
    ),
    "deferred is an edit or a read": (
        [
            of(then=["a"]), of(then=[Edit(3, print)]), of(then=[Edit("a", "print")]),
            of(then=[Edit("a", print, positions="all")]), of(then=[Edit("a", print, (0, None))]),
            of(then=[Edit("a", print, slice("x", None))]), of(then=[Edit("a", print, heads=[0])]),
            of(then=[Edit("a", print, heads=("a",))]), of(then=[Edit("a", print, expect=-1)]),
            of(then=[Read("a", port="out put")]), of(then=[Read("a", name=3)]),
            of(then=[Graph(then=[Read(3)])]),
        ],
        [of(then=[Edit("a", print, slice(1, None), (0, -1), 2), Read("a", "x", 0), small_graph()])],
    ),
}  # fmt: skip
RULES = (*check.FORMS, *check_nodes.NODES, *check.WHOLES, check.deferred_is_an_edit_or_a_read)
BROKEN = [(rule, graph) for rule, (broken, _) in CASES.items() for graph in broken]
SOUND = [(rule, graph) for rule, (_, sound) in CASES.items() for graph in sound]


def named(cases: list) -> list[str]:
    return [f"{rule}-{k}" for k, (rule, _) in enumerate(cases)]


def test_every_rule_has_its_graphs_and_its_law():
    assert set(CASES) == {rule.__name__.replace("_", " ") for rule in RULES}
    assert all(rule.__doc__ for rule in RULES)


@pytest.mark.parametrize(("rule", "graph"), BROKEN, ids=named(BROKEN))
def test_a_graph_that_breaks_a_rule_breaks_that_rule_alone(rule, graph):
    assert {fault.rule for fault in check.faults(graph)} == {rule}
    with pytest.raises(MalformedGraphError, match=rule):
        check.check(graph)


@pytest.mark.parametrize(("rule", "graph"), SOUND, ids=named(SOUND))
def test_a_graph_that_only_looks_alike_breaks_no_rule(rule, graph):
    assert check.faults(graph) == []


@given(graph=graphs())
def test_random_graphs_break_no_rule(graph):
    check.check(graph)


def test_the_error_says_which_node_on_which_line_and_by_which_rule():
    node = op(ops.GETITEM, H)
    graph = of(H, node, notes={node: Note("probe.py:17")})
    with pytest.raises(MalformedGraphError) as caught:
        check.check(graph)
    said = str(caught.value)
    assert "node 1, getitem, at probe.py:17: getitem has too few arguments" in said
    assert "[arguments are enough]" in said and isinstance(caught.value, ValueError)
    inside = check.faults(Graph(then=[graph]))
    assert str(inside[0]).startswith("then 0, node 1, getitem")


def test_a_graph_with_many_faults_shows_the_first_of_them():
    with pytest.raises(MalformedGraphError, match=r"and 92 more"):
        check.check(of(*[op(ops.GETITEM, k) for k in range(100)]))


@pytest.mark.parametrize(
    ("value", "asked"), [(None, False), ("", False), ("0", False), ("1", True)]
)
def test_recordings_are_checked_where_the_environment_asks(monkeypatch, value, asked):
    monkeypatch.delenv(check.SWITCH, raising=False)
    if value is not None:
        monkeypatch.setenv(check.SWITCH, value)
    assert check.is_asked() is asked
    monkeypatch.setattr(check, "ASKED", check.is_asked())
    broken = of(op(ops.GETITEM, H))
    if asked:
        with pytest.raises(MalformedGraphError):
            check.if_asked(broken)
    else:
        check.if_asked(broken)
