"""retarget, bind, without, only, diff, canonical: their laws, each also checked by running."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import MergeError, ParamError, UnknownNameError
from mlxgraph.graph.algebra import canonical
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node, site_node, substitute
from mlxgraph.graph.site import Site
from tests.algebra.helpers import (
    AMOUNTS,
    MODEL,
    OWN,
    VECTORS,
    WIDTH,
    Do,
    X,
    alike,
    changes_the_output,
    programs,
    ran,
    recorded,
)

# -- retarget --------------------------------------------------------------------------------------


@given(programs([0, 1, 2], OWN))
def test_retarget_there_and_back_is_the_graph(program):
    graph = recorded(program)
    used = sorted({do.layer for do in program})
    place = f"layers.{used[0]}"
    there = graph.retarget({place: "layers.3"})
    assert there != graph and there.retarget({"layers.3": place}) == graph
    assert alike(ran(there.retarget({"layers.3": place})), ran(graph))


@given(programs([0, 1], OWN), st.integers(0, 3), st.integers(0, 3))
def test_a_retargeted_graph_is_the_same_program_elsewhere(program, first, second):
    assume(first != second and {do.layer for do in program} == {0, 1})
    places = {"layers.0": f"layers.{first}", "layers.1": f"layers.{second}"}
    moved = recorded(program).retarget(places)
    elsewhere = [do._replace(layer=(first, second)[do.layer]) for do in program]
    assert moved == recorded(elsewhere)
    assert alike(ran(moved), ran(recorded(elsewhere)))


@given(programs([0, 1, 2]))
def test_exchanging_two_places_twice_is_the_graph(program):
    graph = recorded(program)
    assume({str(site) for site in graph.sites} >= {"layers.0.output", "layers.1.output"})
    swap = {"layers.0": "layers.1", "layers.1": "layers.0"}
    assert graph.retarget(swap).retarget(swap) == graph


def test_retargeting_changes_what_is_computed():
    graph = recorded([Do("scale", 0, 2.0)])
    moved = graph.retarget({"layers.0": "layers.3"})
    assert changes_the_output(graph) and changes_the_output(moved)
    assert not alike(ran(graph), ran(moved), 1e-4)


def test_a_module_called_by_hand_is_retargeted_too():
    with MODEL.trace(X) as t:
        MODEL.layers[0].output = MODEL.layers[1](MODEL.layers[0].output)
    with MODEL.trace(X) as other:
        MODEL.layers[0].output = MODEL.layers[3](MODEL.layers[0].output)
    moved = t.graph.retarget({"layers.1": "layers.3"})
    assert moved == other.graph and alike(ran(moved), ran(other.graph))
    assert not alike(ran(moved), ran(t.graph), 1e-4)


def test_of_two_moves_that_fit_the_longer_path_counts():
    written = [
        (Site(path), Node("mx.tanh", (site_node(path),)))
        for path in ("layers.1.mlp", "layers.1.attn")
    ]
    moves = {"layers.1": "layers.2", "layers.1.mlp": "layers.3.mlp"}
    for order in (moves, dict(reversed(moves.items()))):
        moved = Graph(written).retarget(order)
        assert {site.path for site in moved.sites} == {"layers.3.mlp", "layers.2.attn"}


def test_retargeting_composes_with_sequence():
    a, b = recorded([Do("scale", 0, 2.0)], "a"), recorded([Do("shift", 0, 1.0)], "b")
    places = {"layers.0": "layers.2"}
    assert (a >> b).retarget(places) == a.retarget(places) >> b.retarget(places)


def test_a_place_that_is_not_there_and_two_writes_to_one_site_are_errors():
    graph = recorded([Do("scale", 0), Do("scale", 1)])
    with pytest.raises(UnknownNameError, match="layers.3"):
        graph.retarget({"layers.3": "layers.2"})
    with pytest.raises(MergeError):
        graph.retarget({"layers.0": "layers.1"})


# -- bind ------------------------------------------------------------------------------------------

NAMED = {"alpha": mg.param("alpha"), "beta": mg.param("beta"), "v": mg.param("v", shape=(WIDTH,))}
OPEN = [Do("scale", 0, "alpha"), Do("shift", 1, "v"), Do("replace", 2, "beta"), Do("save", 2)]


@given(st.permutations(OPEN), AMOUNTS, AMOUNTS, st.integers(0, 2))
def test_a_bound_param_equals_the_constant(program, alpha, beta, which):
    values = {"alpha": alpha, "beta": beta, "v": VECTORS[which]}
    open_graph = recorded(program, amounts=NAMED)
    bound = open_graph.bind(**values)
    written = recorded(program, amounts=values)
    assert set(open_graph.params) == set(values) and bound.params == ()
    assert bound == written and hash(bound) == hash(written)
    assert alike(ran(bound), ran(written))
    assert alike(ran(bound), ran(open_graph, **values), 1e-6)


@given(AMOUNTS, AMOUNTS)
def test_params_can_be_bound_one_by_one_in_any_order(alpha, beta):
    graph = recorded(OPEN, amounts=NAMED)
    at_once = graph.bind(alpha=alpha, beta=beta)
    assert graph.bind(alpha=alpha).bind(beta=beta) == at_once
    assert graph.bind(beta=beta).bind(alpha=alpha) == at_once
    assert at_once.params == ("v",)


def test_another_value_is_another_graph_and_another_result():
    graph = recorded(OPEN, amounts=NAMED).bind(beta=0.5, v=VECTORS[1])
    assert graph.bind(alpha=2.0) != graph.bind(alpha=3.0)
    assert graph.bind(alpha=2.0) != graph.bind(alpha=2)
    assert not alike(ran(graph.bind(alpha=2.0)), ran(graph.bind(alpha=3.0)), 1e-4)


def test_another_vector_is_an_equal_graph_with_other_arrays():
    graph = recorded(OPEN, amounts=NAMED).bind(alpha=1.0, beta=0.5)
    one, other = graph.bind(v=VECTORS[0]), graph.bind(v=VECTORS[1])
    assert one == other and not one.same_arrays(other)
    assert not alike(ran(one), ran(other), 1e-4)


def test_binding_moves_along_with_sequence_and_retarget():
    a, b = recorded(OPEN[:1], amounts=NAMED), recorded(OPEN[1:], amounts=NAMED)
    assert (a >> b).bind(alpha=2.0) == a.bind(alpha=2.0) >> b
    places = {"layers.0": "layers.3"}
    assert a.bind(alpha=2.0).retarget(places) == a.retarget(places).bind(alpha=2.0)


@pytest.mark.parametrize("wrong", [{"v": 1.0}, {"v": mx.zeros(3)}, {"v": "text"}])
def test_a_value_that_does_not_fit_is_an_error(wrong):
    with pytest.raises(ParamError, match="'v'"):
        recorded(OPEN, amounts=NAMED).bind(**wrong)


def test_a_param_that_is_not_there_is_an_error():
    with pytest.raises(UnknownNameError, match="alpha"):
        recorded(OPEN, amounts=NAMED).bind(alhpa=1.0)


# -- without and only ------------------------------------------------------------------------------


@given(programs(kinds=OWN[:-1]))
def test_without_and_only_divide_a_graph(program):
    graph = recorded(program)
    for site, node in graph.writes:
        kept, rest = graph.only(site.path), graph.without(site.path)
        assert [s for s, _ in kept.writes] == [site]
        assert {s for s, _ in rest.writes} == {s for s, _ in graph.writes} - {site}
        assert mg.merge(kept, rest) == graph == rest >> kept
        assert alike(ran(mg.merge(kept, rest)), ran(graph))
        del node


@given(programs(kinds=OWN[:-1]))
def test_only_one_sites_edits_is_the_program_of_that_site(program):
    graph = recorded(program)
    layer = program[0].layer
    own = [do for do in program if do.layer == layer]
    rest = [do for do in program if do.layer != layer]
    assert graph.only(f"layers.{layer}") == recorded(own)
    assert graph.without(f"layers.{layer}") == recorded(rest)
    assert alike(ran(graph.without(f"layers.{layer}")), ran(recorded(rest)))


def test_cutting_an_edit_is_felt():
    graph = recorded([Do("scale", 0, 2.0), Do("scale", 2, 3.0)])
    assert not alike(ran(graph), ran(graph.without("layers.0")), 1e-4)
    assert not alike(ran(graph), ran(graph.only("layers.0")), 1e-4)


def test_saves_stay_when_edits_are_cut():
    graph = recorded([Do("save", 1), Do("scale", 0, 2.0)])
    assert graph.without("layers.0").saves == graph.only("layers.0").saves == graph.saves


def test_a_site_without_a_write_is_an_error():
    graph = recorded([Do("scale", 0, 2.0), Do("save", 1)])
    for cut in (graph.without, graph.only):
        with pytest.raises(UnknownNameError, match="layers.1"):
            cut("layers.1")


# -- diff ------------------------------------------------------------------------------------------


@given(programs(), programs())
def test_a_graph_differs_from_others_and_not_from_itself(one, two):
    a, b = recorded(one), recorded(two)
    assert not mg.diff(a, a) and not mg.diff(a, recorded(one))
    assert str(mg.diff(a, a)) == "no difference"
    assert bool(mg.diff(a, b)) == (a != b)
    there, back = mg.diff(a, b), mg.diff(b, a)
    assert there.only_first == back.only_second and there.only_second == back.only_first
    assert there.changed == back.changed


BASE = [Do("scale", 0, 2.0), Do("vector", 1, other=1), Do("save", 2)]
DIFFERENT = {
    "another number": ([Do("scale", 0, 2.5), *BASE[1:]], ("layers.0",), "changed"),
    "another kind of number": ([Do("scale", 0, 2), *BASE[1:]], ("layers.0",), "changed"),
    "another operation": ([Do("shift", 0, 2.0), *BASE[1:]], ("layers.0",), "changed"),
    "another position": ([BASE[0], Do("vector", 1, other=0), BASE[2]], ("layers.1",), "changed"),
    "another place": ([Do("scale", 3, 2.0), *BASE[1:]], ("layers.3",), "only_second"),
    "one write more": ([*BASE, Do("scale", 3)], ("layers.3",), "only_second"),
    "one write less": (BASE[1:], ("layers.0",), "only_first"),
    "one save more": ([*BASE, Do("save", 3)], ("save '1'",), "only_second"),
    "one save less": (BASE[:2], ("save '0'",), "only_first"),
    "another saved value": ([*BASE[:2], Do("save", 3)], ("save '0'",), "changed"),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_diff_tells_each_kind_of_difference(what):
    program, names, where = DIFFERENT[what]
    found = mg.diff(recorded(BASE), recorded(program))
    listed = getattr(found, where)
    assert found and all(any(name in line for line in listed) for name in names)
    sign = {"only_first": "-", "only_second": "+", "changed": "~"}[where]
    assert any(line.startswith(sign) and names[0] in line for line in str(found).split("\n"))


def test_diff_tells_steps_apart():
    a = mg.edit("layers.*", mg.interventions.scale(0.5))
    assert not mg.diff(a, mg.edit("layers.*", mg.interventions.scale(0.5)))
    for other in (
        mg.edit("layers.*", mg.interventions.scale(0.25)),
        mg.edit("layers.[0-1]", mg.interventions.scale(0.5)),
        mg.edit("layers.*", mg.interventions.scale(0.5), positions=-1),
        a >> mg.read("layers.0"),
        Graph(),
    ):
        assert mg.diff(a, other) and mg.diff(other, a) and a != other


# -- canonical -------------------------------------------------------------------------------------


def shuffled(graph: Graph, order: list[int]) -> Graph:
    """The same graph with its constants under other numbers, and a useless one among them."""
    place = {old: new for new, old in enumerate(order)}

    def renumber(node: Node) -> Node | None:
        if node.op in ("constant", "number"):
            return Node(node.op, (place[node.args[0]] + 1, *node.args[1:]))
        return None

    new = substitute(graph.roots, renumber)
    return graph.replace(
        writes=[(site, new[node]) for site, node in reversed(graph.writes)],
        saves=[(name, new[node]) for name, node in graph.saves],
        constants=["unused", *[graph.constants[k] for k in order]],
    )


@given(programs(), st.randoms(use_true_random=False))
def test_canonical_graphs_are_equal_however_their_constants_are_numbered(program, random):
    graph = canonical(recorded(program))
    order = list(range(len(graph.constants)))
    random.shuffle(order)
    other = shuffled(graph, order)
    assert canonical(other) == graph and canonical(other).same_arrays(graph)
    assert canonical(other).constants == graph.constants
    assert canonical(graph) is graph
    assert alike(ran(canonical(other)), ran(graph))
    assert not mg.diff(other, graph)


def test_a_graph_among_what_is_deferred_is_cut_as_well():
    """`only` and `without` reach inside: what one drops there the other keeps."""
    inner = recorded([Do("scale", 0, 2.0), Do("shift", 1, 1.0), Do("save", 1)])
    for edits in (mg.edit("layers.2", iv.zero_out), mg.read("layers.2", name="late")):
        graph = edits >> inner >> mg.edit("layers.0", iv.scale(0.5))
        kept, rest = graph.only("layers.0"), graph.without("layers.0")
        assert [str(site) for site, _ in written(kept)] == ["layers.0.output"]
        assert [str(site) for site, _ in written(rest)] == ["layers.1.output"]
        assert saved(kept) == saved(rest) == saved(graph) != []
        assert edits_of(kept) == ["layers.0"] and "layers.0" not in edits_of(rest)
        deep = mg.read("layers.3", name="first") >> graph
        assert [str(site) for site, _ in written(deep.only("layers.1"))] == ["layers.1.output"]
        with pytest.raises(UnknownNameError):
            graph.only("layers.3")
    alone = (mg.edit("layers.2", iv.zero_out) >> inner).only("layers.2")
    assert not written(alone) and saved(alone), "saves stay where no write does"


def inside(graph):
    yield graph
    for one in graph.then:
        if isinstance(one, mg.Graph):
            yield from inside(one)


def written(graph):
    return [write for one in inside(graph) for write in one.writes]


def saved(graph):
    return [name for one in inside(graph) for name, _ in one.saves]


def edits_of(graph):
    parts = [one for g in inside(graph) for one in g.then if not isinstance(one, mg.Graph)]
    return [one.pattern for one in parts if hasattr(one, "function")]
