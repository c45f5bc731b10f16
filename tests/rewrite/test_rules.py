"""Every rule: it fits what it should, leaves what only looks alike, and changes no value."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlxgraph.evaluate.values import Values
from mlxgraph.graph.check import check
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node
from mlxgraph.graph.values import DType, FrozenList
from mlxgraph.rewrite import rules
from mlxgraph.rewrite.driver import rewrite
from tests import models
from tests.rewrite import examples
from tests.rewrite.examples import FITS, LAST, STAYS, C, N, V, W, X, Y, getitem, mx_, update

BY_NAME = {rule.__name__: rule for rule in rules.RULES}
CASES = [(name, before, after) for name, pairs in FITS.items() for before, after in pairs]
STAYING = [(name, node) for name, nodes in STAYS.items() for node in nodes]


def values(dtype: mx.Dtype) -> Values:
    """Arrays for the leaves of the examples."""
    x = (mx.arange(48).reshape(2, 4, 6) - 20).astype(dtype)
    y = mx.arange(24).reshape(6, 4).astype(dtype)
    v = (mx.arange(12).reshape(2, 6) * 3 - 7).astype(dtype)
    w = mx.arange(12).reshape(2, 6).astype(mx.float32) / 7
    c = mx.arange(6).astype(mx.float32) - 0.5
    nest = ((x, y), {"gain": v})
    return Values({X: x, Y: y, V: v, W: w, N: 0.5, C: c, examples.NEST: nest})


def same(a, b) -> bool:
    if isinstance(a, mx.array):
        return isinstance(b, mx.array) and models.same(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_every_rule_has_its_examples():
    assert set(BY_NAME) == set(FITS) == set(STAYS)
    assert all(rule.__doc__ and "->" in rule.__doc__ for rule in rules.RULES)


@pytest.mark.parametrize(("name", "before", "after"), CASES)
def test_a_rule_makes_of_a_node_what_its_law_says(name, before, after):
    assert BY_NAME[name](before) is after


@pytest.mark.parametrize(("name", "before", "after"), CASES)
def test_a_rule_makes_well_formed_nodes_of_well_formed_nodes(name, before, after):
    check(Graph(saves=[("before", before)], constants=[0.5, mx.zeros(6)]))
    check(Graph(saves=[("after", after)], constants=[0.5, mx.zeros(6)]))


@pytest.mark.parametrize(("name", "node"), STAYING)
def test_a_rule_leaves_what_only_looks_alike(name, node):
    assert BY_NAME[name](node) is None


@pytest.mark.parametrize(("name", "node"), STAYING)
def test_other_operations_are_nothing_to_a_rule(name, node):
    assert BY_NAME[name](Node("unheard_of", node.args)) is None
    assert BY_NAME[name](X) is None and BY_NAME[name](N) is None


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.int32], ids=str)
@pytest.mark.parametrize(("name", "before", "after"), CASES)
def test_a_rule_changes_no_value(name, before, after, dtype):
    known = values(dtype)
    assert same(known[before], known[after])


WRONG = {
    "a read elsewhere": (getitem(update(X, examples.FIRST, V), LAST), V),
    "a narrower write": (
        update(update(X, LAST, V), (examples.ALL, -1, 2), N),
        update(X, (examples.ALL, -1, 2), N),
    ),
    "a position written twice": (
        getitem(update(X, FrozenList((0, 0)), X), FrozenList((0, 0))),
        X,
    ),
    "another dtype": (update(X, examples.ALL, mx_("multiply", X, N)), mx_("multiply", X, N)),
    "another shape": (mx_("reshape", examples.HEADS, (2, 4, 3, 2)), examples.HEADS),
    "two roundings": (
        mx_("astype", mx_("astype", W, DType("float16")), DType("float32")),
        mx_("astype", W, DType("float32")),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_would_change_a_value(name):
    """The control: what the rules stay clear of is another value, and the comparison sees it."""
    known = values(mx.int32)
    before, after = WRONG[name]
    assert not same(known[before], known[after])
    assert rewrite(Graph(saves=[("r", before)]), *rules.RULES).roots != (after,)


def test_a_read_after_a_chain_of_writes_finds_its_own():
    node = X
    for k in range(4):
        node = update(node, (examples.ALL, k), getitem(Y, k % 3))
    read = getitem(node, (examples.ALL, 1))
    done = rewrite(Graph(saves=[("r", read)]), *rules.RULES).roots[0]
    assert "update" not in {n.op for n in Graph(saves=[("r", done)]).nodes()}


def chain_of_writes(count: int) -> list[Node]:
    """Reads of one position each, each behind all the writes so far."""
    node, reads = X, []
    for k in range(count):
        index = (examples.ALL, k)
        reads.append(getitem(node, index))
        node = update(node, index, mx_("multiply", reads[-1], N))
    return [*reads, node]


def test_a_read_sees_through_the_writes_beside_it_within_reach():
    *reads, node = chain_of_writes(4)
    done = rewrite(Graph(saves=[(str(k), read) for k, read in enumerate(reads)]), *rules.RULES)
    assert list(done.roots) == [getitem(X, (examples.ALL, k)) for k in range(4)]
    del node


def test_ten_thousand_writes_one_behind_the_other_cost_as_ten_do():
    """A rule is asked about each node a bounded number of times, and always comes to rest."""
    asked = []
    for count in (100, 3000):
        seen = []
        *_, node = chain_of_writes(count)
        watch = [lambda n, seen=seen: seen.append(n)]
        done = rewrite(Graph(saves=[("n", node)]), *watch, *rules.RULES)
        assert len(done.nodes()) > 2 * count
        asked.append(len(seen) / count)
    assert asked[1] < asked[0] * 1.1
    keys = examples.NEST
    for k in range(3000):
        keys = examples.put(keys, k % 2, examples.item(keys, 2))
    rewrite(Graph(saves=[("n", keys)]), *rules.RULES)


def test_all_rules_together_come_to_rest_on_every_example():
    for _, before, after in CASES:
        known = values(mx.float32)
        whole = Graph(saves=[("a", before), ("b", update(X, LAST, getitem(X, LAST)))])
        done = rewrite(whole, *rules.RULES)
        assert same(known[done.saves[0][1]], known[after])
        assert done.saves[1][1] is X
