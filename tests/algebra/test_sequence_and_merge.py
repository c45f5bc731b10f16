"""`>>` and merge: identity, associativity, and what they mean when they run."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph.errors import MergeError
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node, site_node
from mlxgraph.graph.site import Site
from tests import models
from tests.algebra.helpers import (
    MODEL,
    OWN,
    Do,
    X,
    alike,
    changes_the_output,
    play,
    programs,
    ran,
    recorded,
)

EMPTY = Graph()


@given(programs())
def test_the_empty_graph_is_the_identity(program):
    graph = recorded(program)
    assert graph >> EMPTY == graph == EMPTY >> graph
    assert hash(graph >> EMPTY) == hash(graph) == hash(EMPTY >> graph)
    assert mg.chain() == mg.merge() == EMPTY
    assert mg.chain(graph) == mg.merge(graph) == graph
    want = ran(graph)
    assert alike(ran(graph >> EMPTY), want) and alike(ran(EMPTY >> graph), want)


@given(programs(), programs(), programs())
def test_sequence_is_associative(one, two, three):
    a, b, c = recorded(one, "a"), recorded(two, "b"), recorded(three, "c")
    left, right = (a >> b) >> c, a >> (b >> c)
    assert left == right and hash(left) == hash(right) and left == mg.chain(a, b, c)
    assert left.same_arrays(right)
    assert alike(ran(left), ran(right))


@given(programs(), programs())
def test_sequence_means_one_program_after_the_other(one, two):
    """`a >> b` is what recording both in one block gives, and what it computes."""
    sequence = recorded(one, "a") >> recorded(two, "b")
    with MODEL.trace(X) as t:
        play(one, "a")
        play(two, "b")
    together = t.graph
    assert alike(ran(sequence), ran(together), 1e-6)


def test_the_order_of_a_sequence_matters():
    """The control: `>>` is not just a set of edits."""
    scale, shift = recorded([Do("scale", 1, 2.0)]), recorded([Do("shift", 1, 1.0)])
    assert scale >> shift != shift >> scale
    assert not alike(ran(scale >> shift), ran(shift >> scale), 1e-4)
    assert changes_the_output(scale) and changes_the_output(shift)


def test_the_draws_of_a_sequence_are_those_of_one_block():
    """Each graph's first draw is another one; together they are drawn in the order of the block."""

    def noise(name):
        mx.random.normal((6,)).save(name)

    graphs = []
    for names in (["a"], ["b"], ["a", "b"]):
        with MODEL.trace(X, compile=False) as t:
            for name in names:
                noise(name)
        graphs.append(t.graph)
    a, b, together = graphs
    assert a >> b == together and hash(a >> b) == hash(together)
    mx.random.seed(3)
    drawn = ran(a >> b)
    mx.random.seed(3)
    assert alike(drawn, ran(together))
    assert not models.same(drawn["a"], drawn["b"], 1e-3)


def test_writes_are_sorted_as_people_count():
    def edit(path):
        return Graph([(Site(path), Node("mx.tanh", (site_node(path),)))])

    paths = ["layers.2", "layers.10", "layers.10.mlp", "norm"]
    for order in (paths, paths[::-1]):
        whole = mg.chain(*map(edit, order))
        assert [site.path for site, _ in whole.writes] == paths
        listed = [line.split()[1] for line in str(whole).split("\n") if "  write " in line]
        assert listed == [f"{path}.output" for path in paths]


APART = st.permutations(range(4)).map(lambda layers: (layers[:1], layers[1:2], layers[2:]))


@given(st.data())
def test_merging_graphs_of_disjoint_sites_commutes(data):
    left, right, _ = data.draw(APART)
    a = recorded(data.draw(programs(left, OWN)), "a")
    b = recorded(data.draw(programs(right, OWN)), "b")
    merged, other = mg.merge(a, b), mg.merge(b, a)
    assert merged == other and hash(merged) == hash(other)
    assert merged == a >> b == b >> a
    assert alike(ran(merged), ran(other))
    assert alike(ran(merged), ran(a >> b))


@given(st.data())
def test_merge_is_associative(data):
    a, b, c = (
        recorded(data.draw(programs(layers, OWN)), prefix)
        for layers, prefix in zip(data.draw(APART), "abc", strict=True)
    )
    left, right = mg.merge(mg.merge(a, b), c), mg.merge(a, mg.merge(b, c))
    assert left == right == mg.merge(a, b, c)
    assert alike(ran(left), ran(right))


@given(programs([1], ["scale", "shift", "replace"]), programs([1], OWN))
def test_a_conflict_is_an_error_or_a_sequence(one, two):
    a, b = recorded(one, "a"), recorded(two, "b")
    for pair in ((a, b), (b, a)):
        with pytest.raises(MergeError, match="layers.1"):
            mg.merge(*pair)
        assert mg.merge(*pair, on_conflict="sequence") == pair[0] >> pair[1]
        assert alike(ran(mg.merge(*pair, on_conflict="sequence")), ran(pair[0] >> pair[1]))


def test_reading_what_the_other_writes_is_a_conflict_and_reading_beside_it_is_none():
    write, read = recorded([Do("scale", 1, 2.0)]), recorded([Do("save", 1)])
    for pair in ((write, read), (read, write)):
        with pytest.raises(MergeError):
            mg.merge(*pair)
    beside = recorded([Do("save", 2)])
    assert mg.merge(write, beside) == write >> beside
    assert len(mg.merge(read, recorded([Do("save", 1)], "again")).saves) == 2
    with pytest.raises(ValueError, match="on_conflict"):
        mg.merge(write, read, on_conflict="later")


def half(h):
    return h * 0.5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("layers.*", "layers.1"),
        ("layers.*.mlp", "layers.[0-2].mlp"),
        ("**.mlp", "model.layers.3.mlp"),
        ("layers.1.attn", "layers.*.self_attn"),
    ],
)
def test_merging_is_refused_where_patterns_could_meet(one, other):
    a, b = mg.edit(one, half), mg.edit(other, half)
    for pair in ((a, b), (b, a)):
        with pytest.raises(MergeError, match="merge"):
            mg.merge(*pair)
        assert mg.merge(*pair, on_conflict="sequence") == pair[0] >> pair[1]
    with pytest.raises(MergeError):
        mg.merge(a, mg.read(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("layers.*.mlp", "layers.*.attn"),
        ("layers.[0-1]", "layers.[2-3]"),
        ("layers.1", "layers.1.mlp"),
        ("layers.1.mlp.input", "layers.1.mlp"),
    ],
)
def test_patterns_that_cannot_meet_are_merged(one, other):
    a, b = mg.edit(one, half), mg.edit(other, half)
    assert mg.merge(a, b) == a >> b and mg.merge(a, mg.read(other)).then


def test_one_name_for_two_saves_is_an_error():
    a, b = recorded([Do("save", 1)]), recorded([Do("save", 2)])
    for both in (lambda: a >> b, lambda: mg.merge(a, b)):
        with pytest.raises(MergeError, match="'0'"):
            both()


@given(programs(most=3), programs(most=3))
def test_graphs_by_pattern_follow_in_order(one, two):
    """Edits by pattern in the middle of a sequence see what stands before them."""
    middle = mg.edit("layers.*", lambda h: h * 0.5)
    a, b = recorded(one, "a"), recorded(two, "b")
    whole = a >> middle >> b
    assert whole == a >> (middle >> b)
    with MODEL.trace(X) as t:
        play(one, "a")
        for layer in range(4):
            MODEL.layers[layer].output *= 0.5
        play(two, "b")
    assert alike(ran(whole), ran(t.graph), 1e-6)
    assert changes_the_output(middle)


@given(programs(), programs())
def test_composing_leaves_its_parts_alone(one, two):
    a, b = recorded(one, "a"), recorded(two, "b")
    before = [(g.writes, g.saves, g.constants, str(g)) for g in (a, b)]
    a >> b, mg.merge(a, b, on_conflict="sequence")
    assert before == [(g.writes, g.saves, g.constants, str(g)) for g in (a, b)]
