"""The listing: a graph as a page that a person can read."""

from __future__ import annotations

import pytest

from mlxgraph.graph.deferred import Edit, Read
from mlxgraph.graph.graph import Graph, Note
from mlxgraph.graph.listing import around, brief, expression, listing
from mlxgraph.graph.node import APPLY, CALL, NUMBER, PARAM, Node, site_node
from mlxgraph.graph.site import Site
from mlxgraph.graph.values import DType, FrozenDict, FrozenList, Literal, Opaque, Slice
from tests.graph.fakes import small_graph

H = site_node("model.layers.1")


def half(x):
    """An edit's function."""
    return x


PAGE = """\
graph: 1 write, 2 saves, 1 deferred read, 1 deferred edit, 1 deferred graph
  %0 = model.layers.1.output                                     (1, 2, 3) float32  a.py:3
  %1 = %0[:, -1]
  %2 = %1 + $0:float32[3]
  %3 = 4.0 * %2
  %4 = update(%0, [:, -1], %3)                                   (1, 2, 3) float32  a.py:4
  %5 = concatenate([%0, %4], True, float32, ..., None, axis=-1,
       how={'a': (1, 2.5)})
  write model.layers.1.output <- %4
  save 'odd' <- %5
  save 'model.layers.1.output' <- %0
  then save layers.*.mlp.output as 'h'  a.py:9
  then edit layers.3.output with half, positions=-1
  then
    %0 = b.output
    write __model_output__ <- %0
    save 'number' <- 4.0"""


def test_a_page_looks_like_this():
    number = ("number", Node(NUMBER, (0, "float")))
    inner = Graph([(Site(""), site_node("b"))], [number], [4.0])
    steps = [Read("layers.*.mlp", "h", where="a.py:9"), Edit("layers.3", half, -1), inner]
    assert str(small_graph().replace(then=steps)) == PAGE


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (Node("mx.add", (H, 1)), "h + 1"),
        (Node("mx.matmul", (H, H)), "h @ h"),
        (Node("mx.add", (H, 1), (("stream", None),)), "add(h, 1, stream=None)"),
        (Node("getitem", (H, (None, Ellipsis, Slice(0, None, 2)))), "h[None, ..., 0::2]"),
        (Node("getitem", (H, (3,))), "h[3,]"),
        (Node("getitem", (H, ())), "h[()]"),
        (Node("getitem", (H, FrozenList((0, 2)))), "h[[0, 2]]"),
        (Node("item", (H, "key")), "h['key']"),
        (Node("update", (H, 0, H)), "update(h, [0], h)"),
        (Node(APPLY, (Opaque(half), H)), "half(h)"),
        (Node(CALL, ("model.norm", H)), "model.norm(h)"),
        (Node(CALL, ("", H)), "model(h)"),
        (Node(PARAM, ("alpha", None, None)), "param('alpha')"),
        (Node(PARAM, ("v", (3,), "float16")), "param('v', shape=(3,), float16)"),
        (Node("mx.astype", (H, DType("float16"))), "astype(h, float16)"),
        (Node("nn.gelu", (H, Literal(True))), "nn.gelu(h, True)"),
        (Node("put", (H, 0, FrozenDict((("a", H),)))), "put(h, 0, {'a': h})"),
    ],
)
def test_a_node_reads_as_python_would_write_it(node, text):
    assert expression(node, {H: "h"}) == text


def test_an_arrow_points_at_a_marked_node_and_at_no_other():
    graph = small_graph()
    (taken,) = [node for node in graph.nodes() if node.op == "getitem"]
    lines = listing(graph, taken).split("\n")
    assert [line for line in lines if line.startswith("->")] == ["->%1 = %0[:, -1]"]
    assert "->" not in listing(graph)


def test_around_a_node_stand_its_neighbours():
    graph = small_graph()
    (faulty,) = [node for node in graph.nodes() if node.op == "mx.add"]
    assert around(graph, faulty, lines=1) == (
        "  %1 = %0[:, -1]\n->%2 = %1 + $0:float32[3]\n  %3 = 4.0 * %2"
    )
    assert around(graph, graph.nodes()[0], lines=0).startswith("->%0 = model.layers.1.output")
    whole = around(graph, faulty, lines=99).split("\n")
    assert [line[2:] for line in whole] == [line[2:] for line in str(graph).split("\n")[1:8]]


def test_around_works_on_bare_nodes_and_is_silent_about_strangers():
    double = Node("mx.add", (H, H))
    notes = {double: Note("a.py:1", (2,), "float32")}
    text = around([H, double], double, notes=notes)
    assert (
        text == "  %0 = model.layers.1.output\n->%1 = %0 + %0                (2,) float32  a.py:1"
    )
    assert around([H, double], site_node("elsewhere")) == ""


def test_long_expressions_are_wrapped_and_endless_ones_cut():
    for count, ending in ((40, "%0])"), (4000, " ...")):
        page = str(Graph((), [("x", Node("mx.concatenate", (FrozenList((H,) * count),)))]))
        lines = page.split("\n")[2:-1]
        assert 1 < len(lines) <= 6
        assert all(len(line) <= 80 for line in lines)
        assert lines[-1].endswith(ending)


def test_of_a_long_graph_the_middle_is_left_out():
    node = H
    for _ in range(1000):
        node = Node("mx.add", (node, 1))
    graph = Graph([(Site("a"), node)])
    page = listing(graph, most=10).split("\n")
    assert len(page) == 1 + 10 + 1 + 1
    assert page[6] == "  ... 991 more ..."
    assert page[-2].startswith("  %1000 = ") and page[-1] == "  write a.output <- %1000"
    assert len(listing(graph, most=2000).split("\n")) == 1 + 1001 + 1


def test_nothing_in_a_name_breaks_the_page():
    odd = "a\nb\x1b[31m\u2028"
    graph = Graph([(Site(odd), site_node(odd))], [(odd, site_node(odd))], then=[Read(odd, odd)])
    page = str(graph)
    assert page.count("\n") == 4
    assert all(c.isprintable() or c == "\n" for c in page)
    assert r"a\nb\x1b[31m" in page


def test_the_headline_counts_and_names_the_params():
    alpha = Node("mx.multiply", (H, Node(PARAM, ("alpha", None, None))))
    assert str(Graph()) == "graph: 0 writes, 0 saves"
    head = str(Graph([(Site("model.layers.1"), alpha)])).split("\n")[0]
    assert head == "graph: 1 write, 0 saves; params alpha"


def test_a_brief_expression_writes_its_inputs_out_and_stops():
    node = Node("mx.exp", (Node("mx.add", (H, 1)),))
    assert brief(node) == "exp(model.layers.1.output + 1)"
    assert brief(Node("mx.exp", (Node("mx.log", (node,)),)), depth=1) == "exp(log(...))"
