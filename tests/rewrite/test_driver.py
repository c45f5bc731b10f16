"""The driver: rules come to rest, in one walk whatever the graph's size, or say why they cannot."""

from __future__ import annotations

import pytest

from mlxgraph.errors import MLXGraphError, RewriteError
from mlxgraph.graph.graph import Graph, Note
from mlxgraph.graph.node import Node, site_node
from mlxgraph.graph.site import Site
from mlxgraph.graph.values import FrozenList, Slice
from mlxgraph.rewrite.driver import rewrite

X = site_node("layers.0")
SITE = Site("layers.1")


def f(*args):
    return Node("f", args)


def g(*args):
    return Node("g", args)


def h(*args):
    return Node("h", args)


def graph_of(*nodes: Node) -> Graph:
    return Graph(saves=[(str(k), node) for k, node in enumerate(nodes)])


def f_to_g(node):
    """f(x) -> g(x)"""
    match node:
        case Node("f", args):
            return Node("g", args)


def g_to_h(node):
    """g(x) -> h(x)"""
    match node:
        case Node("g", args):
            return Node("h", args)


def h_to_f(node):
    """h(x) -> f(x)"""
    match node:
        case Node("h", args):
            return Node("f", args)


def drop_f(node):
    """f(x) -> x"""
    match node:
        case Node("f", (x,)):
            return x


def test_a_rule_applies_everywhere_in_a_graph():
    whole = Graph([(SITE, f(g(f(X))))], [("kept", f(X)), ("same", g(X))])
    done = rewrite(whole, drop_f)
    assert dict(done.writes) == {SITE: g(X)}
    assert dict(done.saves) == {"kept": X, "same": g(X)}


def test_rules_feed_each_other_until_none_fits():
    assert rewrite(graph_of(f(f(X))), f_to_g, g_to_h).roots == (h(h(X)),)
    assert rewrite(graph_of(f(f(X))), g_to_h, f_to_g).roots == (h(h(X)),)


def test_a_graph_at_rest_is_the_same_object():
    whole = graph_of(f(X))
    assert rewrite(whole) is whole
    assert rewrite(whole, g_to_h) is whole
    once = rewrite(whole, f_to_g)
    assert once is not whole and rewrite(once, f_to_g) is once


def test_earlier_rules_are_asked_first():
    assert rewrite(graph_of(f(X)), f_to_g, drop_f).roots == (g(X),)
    assert rewrite(graph_of(f(X)), drop_f, f_to_g).roots == (X,)


def test_a_rule_sees_inputs_that_are_at_rest():
    seen = []

    def watch(node):
        seen.append(node)

    rewrite(graph_of(h(f(X), Slice(f(X), None, None))), drop_f, watch)
    assert f(X) not in seen and h(X, Slice(X, None, None)) in seen


def test_nodes_inside_containers_are_rewritten():
    inside = h(FrozenList((f(X), 1)), (f(X), Slice(f(X), 2, None)))
    named = Node("h", (), (("axis", f(X)),))
    done = rewrite(graph_of(inside, named), drop_f).roots
    assert done == (h(FrozenList((X, 1)), (X, Slice(X, 2, None))), Node("h", (), (("axis", X),)))


def test_a_leaf_can_be_replaced():
    other = site_node("layers.5")
    done = rewrite(graph_of(f(X, X)), lambda node: other if node is X else None)
    assert done.roots == (f(other, other),)


def test_what_a_rule_builds_is_rewritten_in_its_turn():
    def unfold(node):
        match node:
            case Node("three", (x,)):
                return f(f(f(x)))

    assert rewrite(graph_of(Node("three", (X,))), unfold, drop_f).roots == (X,)


def test_graphs_among_the_steps_are_rewritten():
    whole = Graph(then=(graph_of(f(X)),))
    assert rewrite(whole, drop_f).then == (graph_of(X),)


def test_a_circle_of_rules_is_an_error_that_shows_it():
    with pytest.raises(RewriteError) as caught:
        rewrite(graph_of(f(X)), f_to_g, g_to_h, h_to_f)
    text = str(caught.value)
    assert all(name in text for name in ("'f_to_g'", "'g_to_h'", "'h_to_f'"))
    assert text.index("f(layers.0.output)") < text.index("g(layers.0.output)")
    assert text.index("g(layers.0.output)") < text.index("h(layers.0.output)")
    assert "never come to rest" in text and "again" in text
    assert isinstance(caught.value, MLXGraphError) and isinstance(caught.value, RuntimeError)


def test_two_of_the_three_rules_are_no_circle():
    assert rewrite(graph_of(f(X)), f_to_g, g_to_h).roots == (h(X),)


def test_a_circle_names_only_the_rules_in_it():
    with pytest.raises(RewriteError) as caught:
        rewrite(graph_of(h(f(X))), drop_f, g_to_h, lambda n: g(*n.args) if n.op == "h" else None)
    assert "drop_f" not in str(caught.value) and "g_to_h" in str(caught.value)


def test_a_rule_that_fits_its_own_result_is_an_error():
    def wrap(node):
        return f(node) if node is X else None

    with pytest.raises(RewriteError, match="'wrap' never come to rest"):
        rewrite(graph_of(X), wrap)


def test_a_rule_that_grows_without_end_is_an_error():
    def count(node):
        match node:
            case Node("n", (k,)):
                return Node("n", (k + 1,))

    def nest(node):
        match node:
            case Node("n", (k,)):
                return f(Node("n", (k + 1,)))

    for endless in (count, nest):
        with pytest.raises(RewriteError, match="have not come to rest"):
            rewrite(graph_of(Node("n", (0,))), endless)


def test_counting_to_an_end_is_no_error():
    def count(node):
        match node:
            case Node("n", (k,)) if k < 500:
                return Node("n", (k + 1,))

    assert rewrite(graph_of(Node("n", (0,))), count).roots == (Node("n", (500,)),)


@pytest.mark.parametrize("wrong", ["f", 3, (X,), True])
def test_a_rule_has_to_return_a_node(wrong):
    def bad(node):
        return wrong

    with pytest.raises(RewriteError, match="'bad' returned") as caught:
        rewrite(graph_of(f(X)), bad)
    assert type(wrong).__name__ in str(caught.value)


def test_an_exception_of_a_rule_is_its_own():
    def bad(node):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        rewrite(graph_of(f(X)), bad)


def test_ten_thousand_nodes_deep_is_no_deeper_than_ten():
    node = X
    for k in range(10_000):
        node = f(node) if k % 2 else h(node, k)
    deep = graph_of(node)
    done = rewrite(deep, drop_f)
    assert len(done.nodes()) == 5001 and not any(n.op == "f" for n in done.nodes())
    all_gone = rewrite(graph_of(node), lambda n: n.args[0] if n.op in "fh" else None)
    assert all_gone.roots == (X,)


def test_each_node_is_offered_to_a_rule_a_bounded_number_of_times():
    counts = []
    for size in (100, 1000):
        node, asked = X, []
        for k in range(size):
            node = f(h(node, k))
        rewrite(graph_of(node), lambda n, asked=asked: asked.append(n), drop_f)
        counts.append(len(asked) / size)
    assert counts[1] <= counts[0] * 1.1


def test_a_shared_node_is_rewritten_once():
    asked = []

    def count(node):
        asked.append(node)
        return drop_f(node)

    shared = f(X)
    rewrite(graph_of(*[h(shared, k) for k in range(50)]), count)
    assert asked.count(shared) == 1


def test_notes_go_along():
    note = Note("script.py:3", (2, 3), "float32")
    before = Graph(saves=[("a", h(f(X)))], notes={h(f(X)): note, X: Note("script.py:1")})
    done = rewrite(before, drop_f)
    assert done.notes.get(h(X)) == note
    assert done.notes.get(X).where == "script.py:1"
