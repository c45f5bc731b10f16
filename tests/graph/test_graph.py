"""A Graph is an immutable value: compared by what it would do to a model."""

from __future__ import annotations

import pickle

import pytest

from mlxgraph.graph.census import Census
from mlxgraph.graph.graph import Graph, Note
from mlxgraph.graph.nested import is_container, leaves, map_nested, replace_item, unflatten
from mlxgraph.graph.node import CONSTANT, NUMBER, PARAM, Node, site_node
from mlxgraph.graph.site import INPUTS, Site
from tests.graph.fakes import FakeArray

A, B, C = Site("a"), Site("b"), Site("c")


def steer(number: float = 2.0, array=None, site: Site = A) -> Graph:
    """`site += number * array`, and a save of `b`."""
    array = array if array is not None else FakeArray((6,))
    scaled = Node(
        "mx.multiply", (Node(NUMBER, (0, "float")), Node(CONSTANT, (1, array.shape, "float32")))
    )
    write = Node("mx.add", (site_node(*site), scaled))
    return Graph([(site, write)], [("b", site_node("b"))], [number, array])


def test_the_same_edits_are_equal_and_hash_alike():
    array = FakeArray((6,))
    assert steer(array=array) == steer(array=array)
    assert hash(steer()) == hash(steer())
    assert len({steer(), steer(), steer(3.0)}) == 2


def test_other_arrays_of_one_shape_are_the_same_graph_and_are_told_apart_on_demand():
    one, other = FakeArray((6,)), FakeArray((6,))
    assert steer(array=one) == steer(array=other)
    assert steer(array=one).same_arrays(steer(array=one))
    assert not steer(array=one).same_arrays(steer(array=other))
    assert steer(array=one) != steer(array=FakeArray((7,)))


@pytest.mark.parametrize(
    "other",
    [
        steer(3.0), steer(2), steer(site=C), Graph(), Graph(steer().writes, (), steer().constants),
        Graph((), steer().saves, steer().constants),
        Graph(steer().writes, [("other name", site_node("b"))], steer().constants),
        Graph(steer().writes, [("b", site_node("c"))], steer().constants),
        Graph([*steer().writes, (C, site_node("b"))], steer().saves, steer().constants),
    ],
)  # fmt: skip
def test_what_does_something_else_is_not_equal(other):
    assert steer() != other and other != steer()


def test_the_order_of_writes_to_different_sites_does_not_matter():
    x, y = (A, Node("f", (site_node("a"),))), (B, Node("g", (site_node("b"),)))
    assert Graph([x, y]) == Graph([y, x]) and hash(Graph([x, y])) == hash(Graph([y, x]))


def test_a_graph_is_not_equal_to_other_things():
    assert steer() != 3 and steer() != "graph" and not (steer() == None)  # noqa: E711


def test_numbers_are_compared_with_their_kind_and_sign():
    assert steer(0.0) != steer(-0.0)
    assert steer(float("nan")) == steer(float("nan"))
    assert steer(1.0) != steer(1) and steer(1) != steer(True)


def test_notes_are_for_people_and_not_compared():
    node = site_node("b")
    noted = Graph((), [("b", node)], (), {node: Note("here.py:3", (2, 3), "float32")})
    assert noted == Graph((), [("b", node)]) and hash(noted) == hash(Graph((), [("b", node)]))
    assert "here.py:3" in str(noted) and "(2, 3)" in str(noted)


def test_graphs_are_immutable():
    for name in ("writes", "saves", "constants", "notes", "anything"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(steer(), name, ())


def test_a_graph_knows_its_sites_params_and_nodes():
    alpha = Node(PARAM, ("alpha", None, None))
    write = Node("mx.multiply", (site_node("a", INPUTS), alpha))
    graph = Graph([(C, write)], [("x", Node("f", (site_node("b"), alpha)))])
    assert graph.sites == (Site("a", INPUTS), B, C)
    assert graph.params == ("alpha",)
    order = graph.nodes()
    assert order.index(write) > order.index(alpha)
    assert graph.roots == (write, graph.saves[0][1])


def test_a_listing_numbers_every_node_and_names_every_deed():
    text = str(steer())
    assert text.startswith("graph: 1 write, 1 save")
    assert "write a.output <-" in text and "save 'b' <-" in text
    assert "2.0 *" in text and "%0" in text
    assert repr(steer()) == "<Graph: 1 write, 1 save>"


def test_graphs_without_arrays_pickle_to_equal_graphs():
    write = Node("mx.add", (site_node("a"), Node(NUMBER, (0, "float"))))
    graph = Graph([(A, write)], [("b", site_node("b"))], [2.0])
    assert pickle.loads(pickle.dumps(graph)) == graph


# -- sites ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("site", "text"),
    [
        (Site("layers.3.mlp"), "layers.3.mlp.output"),
        (Site("layers.3.mlp", INPUTS), "layers.3.mlp.inputs"),
        (Site("rope", "output", 1), "rope.calls[1].output"),
        (Site(""), "__model_output__"),
        (Site("", INPUTS), "__model__.inputs"),
    ],
)
def test_sites_are_written_as_users_write_them(site, text):
    assert str(site) == text


def test_a_site_is_listed_by_its_modules_path():
    assert Site("layers.3.mlp").name == "layers.3.mlp"
    assert Site("layers.3.mlp", INPUTS).name == "layers.3.mlp.inputs"
    assert Site("").name == "__model_output__"


# -- nested values and the census -----------------------------------------------------------------


def test_nested_values_flatten_and_unflatten():
    from collections import OrderedDict, namedtuple

    pair = namedtuple("pair", "x y")
    value = {"a": (1, [2, pair(3, None)]), "b": OrderedDict(z=4), "c": ()}
    assert leaves(value) == [1, 2, 3, None, 4]
    back = unflatten(value, leaves(value))
    assert back == value and type(back["a"][1][1]) is pair and type(back["b"]) is OrderedDict
    doubled = map_nested(value, lambda v: v and v * 2)
    assert doubled["a"][1][1].x == 6 and value["a"][1][1].x == 3


def test_replacing_an_item_copies():
    value = (1, [2, 3])
    assert replace_item(value, 0, 9) == (9, [2, 3]) and value == (1, [2, 3])
    named, listed = {"k": 1}, [1, 2]
    assert replace_item(named, "k", 2) == {"k": 2} and named == {"k": 1}
    assert replace_item(listed, -1, 5) == [1, 5] and listed == [1, 2]


def test_what_is_no_plain_container_is_a_leaf():
    class Module(dict):
        """As `mlx.nn.Module` is."""

        def named_modules(self):
            return [("", self)]

    assert not is_container(Module()) and not is_container("text") and not is_container(3)
    assert is_container(()) and is_container([]) and is_container({})


def test_a_census_keeps_forward_order_and_counts_calls():
    census = Census()
    for site in (Site("a", INPUTS), Site("a"), Site("a", INPUTS, 1), Site("a", "output", 1), B):
        census.visit(site, None)
    assert [census.order[s] for s in (Site("a", INPUTS), A, B)] == [0, 1, 4]
    assert census.calls("a") == 2 and census.calls("b") == 1 and census.calls("c") == 0
    assert list(census.outputs()) == [A, Site("a", "output", 1), B]


def test_the_hash_says_what_a_graph_does_and_not_when_its_nodes_lived():
    def built(number: int) -> int:
        base = site_node("a")
        node = Node("mx.add", (Node("mx.multiply", (base, number)), base))
        return hash(Graph([(Site("a"), node)], [("x", Node("mx.abs", (node,)))]))

    hashes, kept = set(), []
    for round in range(20):
        kept.append([object() for _ in range(round)])  # so that freed nodes' places are taken
        hashes.add(built(2))
    assert len(hashes) == 1
    assert built(3) not in hashes
