"""Nodes are values: immutable, interned, compared by structure in the time of an identity test."""

from __future__ import annotations

import gc
import pickle
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxgraph.graph import node as nodes
from mlxgraph.graph.node import Node, site_node, site_of, substitute, walk
from mlxgraph.graph.site import INPUTS, OUTPUT, Site
from mlxgraph.graph.values import (
    DType,
    FrozenDict,
    FrozenList,
    Literal,
    Opaque,
    Slice,
    frozen_leaves,
    map_frozen,
)

A, B = site_node("a"), site_node("b")


def add(x, y):
    return Node("mx.add", (x, y))


# -- identity -------------------------------------------------------------------------------------


def test_the_same_operation_on_the_same_arguments_is_the_same_node():
    assert add(A, B) is add(A, B)
    assert site_node("a") is A and site_node("a", OUTPUT, 0) is A
    assert hash(add(A, B)) == hash(add(A, B))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (add(A, B), add(B, A)),
        (add(A, B), Node("mx.subtract", (A, B))),
        (site_node("a"), site_node("a", INPUTS)),
        (site_node("a"), site_node("a", OUTPUT, 1)),
        (Node("f", (A,), (("axis", 1),)), Node("f", (A,), (("axis", 2),))),
        (Node("f", (A,), (("axis", 1),)), Node("f", (A, 1))),
        (Node("f", (1,)), Node("f", (Literal(1.0),))),
        (Node("f", (1,)), Node("f", (Literal(True),))),
        (Node("f", (Literal(1.0),)), Node("f", (Literal(True),))),
        (Node("f", (Literal(0.0),)), Node("f", (Literal(-0.0),))),
        (Node("f", ((1, 2),)), Node("f", (FrozenList((1, 2)),))),
        (Node("f", (Slice(0, 2, None),)), Node("f", ((0, 2, None),))),
        (Node("f", (DType("float32"),)), Node("f", ("float32",))),
    ],
)
def test_what_means_something_else_is_another_node(one, other):
    assert one is not other and one != other


def test_nan_is_one_literal():
    assert Literal(float("nan")) == Literal(float("nan"))
    assert Node("f", (Literal(float("nan")),)) is Node("f", (Literal(float("nan")),))


def test_opaque_values_are_told_apart_by_identity():
    one, other = [1], [1]
    assert Opaque(one) == Opaque(one) and Opaque(one) != Opaque(other)
    assert hash(Opaque(one)) == hash(Opaque(one))


def test_nodes_are_immutable():
    for name in ("op", "args", "kwargs", "new"):
        with pytest.raises(AttributeError):
            setattr(A, name, 1)


def known(op):
    """How many nodes of one operation are known: of others, what other tests left may die now."""
    return sum(1 for key in list(nodes._interned) if key[0] == op)


def test_nodes_that_nobody_holds_are_forgotten():
    kept = [Node("forgotten", (A, k)) for k in range(1000)]
    assert known("forgotten") == 1000
    del kept
    assert known("forgotten") == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_as_a_node_is_forgotten_keeps_none_that_dies_later(monkeypatch):
    """At each instruction in turn, until one comes after the last."""

    def trace(frame, event, arg):
        nonlocal left
        if frame.f_code is not nodes._forget.__code__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before, at, left = sys.gettrace(), 0, 0
    while left <= 0:
        at += 1
        monkeypatch.setattr(nodes, "_changing", threading.RLock())  # one may stay closed
        left, node = at, Node("interrupted", (A, at))
        sys.settrace(trace)
        del node
        sys.settrace(before)
        later = Node("later", (A,))
        del later
        assert known("later") == 0, at
    assert at > 20


def test_a_chain_of_any_length_is_made_walked_and_forgotten():
    node = A
    for k in range(50_000):
        node = Node("mx.add", (node, k))
    assert sum(1 for _ in walk([node])) == 50_001
    del node
    gc.collect()


def test_pickled_nodes_come_back_as_themselves():
    node = add(A, Node("getitem", (B, (Slice(None, 2, None), Literal(1.5)))))
    assert pickle.loads(pickle.dumps(node)) is node


def test_threads_that_make_one_node_at_one_moment_get_the_same(switching):
    """All at a barrier, then all at once; and the node dies again before the next."""
    made: list[Node | None] = [None] * 4
    barrier, parted = threading.Barrier(4), []

    def work(k):
        for number in range(1000):
            barrier.wait()
            made[k] = Node("threaded", (number % 7, number // 3))
            if barrier.wait() == 0:
                parted.extend({node for node in made if node is not made[0]})
                made[:] = [None] * 4
            barrier.wait()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not parted


@pytest.fixture
def switching():
    """Threads take turns as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_interning_from_several_threads_gives_one_node():
    found: list[list[Node]] = []
    barrier = threading.Barrier(4)

    def work():
        barrier.wait()
        found.append([Node("threaded", (A, k)) for k in range(2000)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for others in found[1:]:
        assert all(a is b for a, b in zip(found[0], others, strict=True))


# -- inputs and walks -----------------------------------------------------------------------------


def test_inputs_are_found_in_every_kind_of_argument():
    c, d = site_node("c"), site_node("d")
    node = Node(
        "f",
        ((A, 1), FrozenList((B,)), Slice(c, None, None)),
        (("k", FrozenDict((("x", d), ("y", A)))),),
    )
    assert node.inputs == (A, B, c, d)


def test_a_walk_gives_each_node_once_and_inputs_first():
    shared = add(A, B)
    root = add(Node("f", (shared,)), Node("g", (shared, A)))
    order = list(walk([root, shared]))
    assert len(order) == len(set(order)) == 6
    for node in order:
        assert all(order.index(child) < order.index(node) for child in node.inputs)
    assert list(walk([root, shared])) == order


def test_site_nodes_name_their_site():
    assert site_of(site_node("a.b", INPUTS, 2)) == Site("a.b", INPUTS, 2)


def trees():
    leaf = st.sampled_from([A, B, site_node("c")])
    return st.recursive(
        leaf,
        lambda child: st.builds(
            lambda op, x, y, k: Node(op, (x, (y, k))),
            st.sampled_from(["f", "g"]),
            child,
            child,
            st.integers(0, 2),
        ),
        max_leaves=12,
    )


@given(root=trees())
def test_substituting_nothing_is_the_same_graph(root):
    assert substitute([root], lambda node: None)[root] is root


@given(root=trees())
def test_substituting_there_and_back_is_the_same_graph(root):
    fresh = site_node("fresh")
    there = substitute([root], lambda n: fresh if n is A else None)[root]
    assert A not in set(walk([there]))
    assert substitute([there], lambda n: A if n is fresh else None)[there] is root


@given(root=trees())
def test_a_walk_of_random_graphs_is_in_order(root):
    seen = set()
    for node in walk([root]):
        assert all(child in seen for child in node.inputs) and node not in seen
        seen.add(node)
    assert root in seen


@given(root=trees())
def test_a_walk_goes_from_left_to_right(root):
    """Else the numbers of a page would not be in the order in which its lines were written."""
    order = []

    def go(node):
        for child in node.inputs:
            if child not in order:
                go(child)
        order.append(node)

    go(root)
    assert list(walk([root])) == order


# -- frozen values --------------------------------------------------------------------------------


def frozen():
    plain = st.one_of(st.integers(), st.text(max_size=3), st.none(), st.just(A),
                      st.floats().map(Literal), st.booleans().map(Literal))  # fmt: skip
    return st.recursive(
        plain,
        lambda child: st.one_of(
            st.lists(child, max_size=3).map(tuple),
            st.lists(child, max_size=3).map(lambda v: FrozenList(tuple(v))),
            st.tuples(child, child, child).map(lambda v: Slice(*v)),
            st.lists(child, max_size=2).map(
                lambda v: FrozenDict(tuple((str(k), item) for k, item in enumerate(v)))
            ),
        ),
        max_leaves=8,
    )


@given(value=frozen())
def test_frozen_values_hash_and_rebuild_as_themselves(value):
    assert map_frozen(value, lambda leaf: leaf) == value
    assert hash(map_frozen(value, lambda leaf: leaf)) == hash(value)
    assert Node("f", (value,)) is Node("f", (map_frozen(value, lambda leaf: leaf),))


@given(value=frozen())
def test_leaves_are_what_a_map_visits(value):
    seen: list = []
    map_frozen(value, lambda leaf: seen.append(leaf) or leaf)
    assert len(seen) == len(list(frozen_leaves(value)))
    assert all(a is b for a, b in zip(seen, frozen_leaves(value), strict=True))
