"""The rewrites that see a whole graph, and the pipeline: each works, and can be turned off."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph.errors import UnknownNameError
from mlxgraph.evaluate.evaluate import evaluate
from mlxgraph.evaluate.values import Values
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node, site_node
from mlxgraph.graph.site import Site
from mlxgraph.graph.values import Opaque, Slice
from mlxgraph.rewrite import whole_graph
from mlxgraph.rewrite.pipeline import ALL, FOR_RUNS, NAMES, is_touchy, simplify
from tests.rewrite.examples import LAST, C, N, V, X, Y, checked, getitem, like, mx_, update

SITE = Site("layers.0")
AT_SITE = site_node("layers.0")


def saves(*nodes: Node) -> list[tuple[str, Node]]:
    return [(str(k), node) for k, node in enumerate(nodes)]


def number(index: int, kind: str = "float") -> Node:
    return Node("number", (index, kind))


# one graph for each rewrite, that this rewrite alone changes
WORK = {
    "updates": Graph(saves=saves(update(update(X, LAST, V), LAST, Y))),
    "noops": Graph(saves=saves(update(X, LAST, getitem(X, LAST)))),
    "reads": Graph(saves=saves(getitem(X, Slice(None, None, None)))),
    "views": Graph(saves=saves(mx_("swapaxes", mx_("swapaxes", X, 0, 1), 0, 1))),
    "casts": Graph(saves=saves(like("broadcast", mx_("tanh", X), X))),
    "twins": Graph(saves=saves(mx_("add", X, Y), mx_("tanh", mx_("add", Y, X)))),
    "constants": Graph(
        saves=saves(mx_("add", X, number(0)), mx_("tanh", mx_("add", X, number(1)))),
        constants=(2.0, 2.0),
    ),
    "folding": Graph(
        saves=saves(mx_("add", X, mx_("add", number(0), number(1)))), constants=(2.0, 0.5)
    ),
    "dead": Graph([(SITE, AT_SITE)], saves(X), constants=(1.0,)),
}


def test_every_rewrite_has_a_graph_to_work_on():
    assert set(WORK) == set(NAMES)
    assert {one.name for one in FOR_RUNS} == set(NAMES) - {"constants", "folding"}


@pytest.mark.parametrize("name", WORK)
def test_each_rewrite_does_its_work_and_can_be_turned_off(name):
    graph = WORK[name]
    done = checked(simplify(graph, evaluate=evaluate))
    assert name in [change.name for change in done.history]
    assert done.graph is not graph and str(done.graph) != str(graph)
    others = [one for one in NAMES if one != name]
    alone = simplify(graph, without=others, evaluate=evaluate)
    assert [change.name for change in alone.history] == [name]
    off = simplify(graph, without=[name], evaluate=evaluate)
    assert name not in [change.name for change in off.history]


@pytest.mark.parametrize("name", WORK)
def test_without_any_rewrite_a_graph_stays(name):
    graph = WORK[name]
    assert simplify(graph, without=NAMES, evaluate=evaluate).graph is graph
    assert simplify(graph, ()).history == ()


def test_a_rewrite_that_does_not_exist_is_an_error():
    with pytest.raises(UnknownNameError, match="updates"):
        simplify(Graph(), without=["update"])
    with pytest.raises(UnknownNameError, match="noops"):
        mg.simplify(Graph(), without="noop")


def test_the_history_leads_from_the_graph_to_the_result():
    graph = Graph(
        [(SITE, update(AT_SITE, LAST, getitem(AT_SITE, LAST)))],
        saves(mx_("add", Y, X), getitem(update(update(X, LAST, V), LAST, V), LAST)),
    )
    done = checked(simplify(graph))
    assert done.history[0].before is graph and done.history[-1].after == done.graph
    for one, other in zip(done.history, done.history[1:], strict=False):
        assert one.after is other.before
    assert {"updates", "noops", "reads"} <= {change.name for change in done.history}
    assert simplify(done.graph).history == ()


def test_a_plus_b_and_b_plus_a_become_one_node():
    one, other = simplify(WORK["twins"]).graph.roots
    assert other is mx_("tanh", one)


@pytest.mark.parametrize("op", ["subtract", "divide", "maximum", "power", "matmul", "less"])
def test_what_does_not_commute_stays_two(op):
    graph = Graph(saves=saves(mx_(op, X, Y), mx_(op, Y, X)))
    assert whole_graph.merge_twins(graph) is graph


def test_constants_merge_by_identity_and_numbers_by_value_and_kind():
    a, b = mx.zeros(6), mx.zeros(6)
    leaves = [Node("constant", (k, (6,), "float32")) for k in range(3)]
    leaves += [number(3), number(4), number(5, "int"), number(6)]
    graph = Graph(saves=saves(*leaves), constants=(a, b, a, 1.0, 1.0, 1, -0.0))
    merged = whole_graph.merge_constants(graph)
    assert [n.args[0] for n in merged.roots] == [0, 1, 0, 3, 3, 5, 6]
    assert whole_graph.drop_dead(merged).constants == (a, b, 1.0, 1, -0.0)
    zero = Graph(saves=saves(number(0), number(1)), constants=(0.0, -0.0))
    assert whole_graph.merge_constants(zero) is zero


def test_folding_computes_as_mlx_does():
    half = mx.array([0.5, 1.5], mx.float16)
    c = Node("constant", (2, (2,), "float16"))
    total = mx_("add", mx_("multiply", number(0), number(1)), mx_("multiply", c, number(0)))
    graph = Graph(saves=saves(mx_("add", X, total)), constants=(0.1, 3.0, half))
    folded = mg.simplify(graph)
    ((_, root),) = folded.saves
    assert root.op == "mx.add" and root.args[1].op == "constant"
    expected = Values({number(0): 0.1, number(1): 3.0, c: half})[total]
    (value,) = folded.constants
    assert value.dtype == expected.dtype and mx.array_equal(value, expected)
    assert len(mg.simplify(graph, without="folding").constants) == 3


def test_folded_numbers_stay_numbers_and_are_arrays_on_their_own():
    total = mx_("multiply", number(0), number(1))
    graph = Graph(saves=saves(mx_("add", X, total), total), constants=(0.1, 3.0))
    (_, root), (_, alone) = mg.simplify(graph).saves
    folded = mg.simplify(graph)
    assert root.args[1].op == "number" and alone.op == "constant"
    assert abs(folded.constants[root.args[1].args[0]] - 0.3) < 1e-6
    assert folded.constants[alone.args[0]].dtype == mx.float32


def test_folding_leaves_draws_modules_and_functions_for_the_run():
    nodes = [
        Node("mx.random.normal_like", (1, C)),
        Node("call", ("layers.0", C)),
        Node("apply", (Opaque(mx.abs), C)),
        Node("grad", (C, C)),
    ]
    graph = Graph(saves=saves(*nodes), constants=(1.0, mx.zeros(6)))
    assert whole_graph.fold_constants(graph, evaluate) is graph
    control = graph.replace(saves=saves(mx_("tanh", C)))
    assert whole_graph.fold_constants(control, evaluate) is not control


def test_what_cannot_be_folded_keeps_its_error_for_the_run():
    graph = Graph(saves=saves(mx_("matmul", C, N)), constants=(1.0, mx.zeros(6)))
    assert whole_graph.fold_constants(graph, evaluate).roots == graph.roots


def test_draws_and_gradients_leave_a_graph_as_it_is():
    work = update(update(X, LAST, V), LAST, V)
    draw = Node("mx.random.normal_like", (1, work))
    assert simplify(Graph(saves=saves(work))).history
    for touchy in (draw, Node("grad", (work, work))):
        graph = Graph(saves=saves(touchy))
        assert is_touchy(graph) and simplify(graph).graph is graph


def test_rewrites_for_runs_keep_the_numbers_of_constants():
    graph = Graph(
        [(SITE, AT_SITE)], saves(mx_("add", X, number(3))), constants=(5.0, 6.0, 7.0, 8.0)
    )
    done = simplify(graph, FOR_RUNS).graph
    assert (
        done.writes == ()
        and done.constants == graph.constants
        and done.roots == (mx_("add", X, number(3)),)
    )
    assert simplify(graph, ALL).graph.constants == (8.0,)


def test_graphs_that_a_graph_defers_are_simplified():
    whole = Graph(then=(WORK["noops"], WORK["dead"]))
    assert simplify(whole).graph.then[0].roots == (X,)
    assert simplify(whole).graph.then[1].writes == ()
