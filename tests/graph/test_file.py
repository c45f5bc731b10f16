"""Graphs on disk: what was saved is what is loaded, and nothing else is ever loaded."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxgraph.errors import GraphFileError, OpaqueError
from mlxgraph.graph import named
from mlxgraph.graph.deferred import Edit, Read
from mlxgraph.graph.file import format as file
from mlxgraph.graph.graph import Graph, Note
from mlxgraph.graph.named import Named
from mlxgraph.graph.node import APPLY, CALL, CONSTANT, GRAD, NUMBER, PARAM, Node, site_node
from mlxgraph.graph.site import Site
from mlxgraph.graph.values import DType, FrozenDict, FrozenList, Literal, Opaque, Slice
from tests.graph.fakes import FakeArray, FakeCodec, same_bits, small_graph


def boost(*arguments):
    """A function known by name, as the library's own interventions are."""
    return Named("test-boost", arguments, lambda x: x)


def silence(x):
    """A known function without arguments."""
    return x


@pytest.fixture(autouse=True)
def fake_arrays(monkeypatch):
    monkeypatch.setattr(file, "_codec", [FakeCodec()])
    monkeypatch.setitem(named._makers, "test-boost", boost)
    monkeypatch.setitem(named._plain, "test-silence", silence)


def through_a_file(graph: Graph, path: Path) -> Graph:
    graph.save(path)
    return Graph.load(path)


def assert_same(first: Graph, second: Graph) -> None:
    """Equal, with the same arrays to the last bit, the same notes, and the same listing."""
    assert first == second
    assert str(first) == str(second)
    assert (first.writes, first.saves, first.then) == (second.writes, second.saves, second.then)
    for one, other in zip(first.constants, second.constants, strict=True):
        assert same_bits(one, other)
    assert [first.notes.get(n) for n in first.nodes()] == [
        second.notes.get(n) for n in second.nodes()
    ]
    for one, other in zip(first.then, second.then, strict=True):
        if isinstance(one, Graph):
            assert_same(one, other)


# -- load(save(g)) == g ---------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = st.one_of(
    st.integers(-(2**63), 2**64 - 1), TEXT, st.none(), st.just(Ellipsis),
    st.builds(Literal, st.one_of(st.booleans(), st.floats(), st.complex_numbers())),
    st.builds(DType, st.sampled_from(["float32", "bfloat16", "bool", "bool_"])),
)  # fmt: skip


@st.composite
def graphs(draw, deep: int = 1):
    """Graphs over a few sites, constants of all kinds, every frozen value, notes and steps."""
    constants = draw(
        st.lists(
            st.one_of(
                st.floats(), st.integers(-(2**63), 2**63), st.booleans(),
                st.builds(
                    FakeArray,
                    st.lists(st.integers(0, 3), max_size=3).map(tuple),
                    st.sampled_from(["float32", "bfloat16", "bool", "int64"]),
                ),
            ),
            max_size=4,
        )
    )  # fmt: skip
    nodes = [site_node("a"), site_node("", "output", 2), Node(PARAM, ("alpha", None, None))]
    nodes.append(Node(PARAM, ("v", (2, 0), "float32")))
    for k, value in enumerate(constants):
        if isinstance(value, FakeArray):
            nodes.append(Node(CONSTANT, (k, value.shape, value.dtype[5:])))
        else:
            nodes.append(Node(NUMBER, (k, type(value).__name__)))
    for _ in range(draw(st.integers(0, 4))):
        arguments = st.recursive(
            st.one_of(SCALARS, st.sampled_from(nodes)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3).map(tuple),
                st.lists(inner, max_size=3).map(tuple).map(FrozenList),
                st.builds(Slice, inner, inner, inner),
                st.dictionaries(TEXT, inner, max_size=2).map(
                    lambda d: FrozenDict(tuple(d.items()))
                ),
            ),
            max_leaves=5,
        )
        args = tuple(draw(st.lists(arguments, min_size=1, max_size=3)))
        op = draw(st.sampled_from(["mx.add", "mx.softmax", CALL]))
        keywords = draw(st.dictionaries(st.sampled_from(["axis", "how"]), arguments, max_size=2))
        head = (draw(TEXT),) if op == CALL else ()
        nodes.append(Node(op, head + args, tuple(keywords.items())))
    pick = st.sampled_from(nodes)
    sites = st.builds(Site, TEXT, st.sampled_from(["output", "inputs"]), st.integers(0, 3))
    shapes = st.one_of(st.none(), st.lists(st.integers(0, 9), max_size=3).map(tuple))
    note = st.builds(Note, TEXT, shapes, st.sampled_from([None, "float32"]))
    return Graph(
        draw(st.dictionaries(sites, pick, max_size=3)).items(),
        draw(st.dictionaries(TEXT, pick, max_size=3)).items(),
        constants,
        draw(st.dictionaries(pick, note, max_size=3)),
        draw(st.lists(steps(deep), max_size=2)),
    )


def steps(deep: int):
    """Edits with functions known by name, reads, and graphs inside the graph."""
    index = st.one_of(st.none(), st.integers(-9, 9))
    positions = st.one_of(
        index, st.builds(slice, index, index), st.lists(st.integers(-9, 9)).map(tuple)
    )
    values = st.one_of(
        st.floats(), st.integers(-9, 9), st.booleans(), st.none(), TEXT, st.just([1, (2.0, 3)]),
        st.just(slice(1, None)), st.just(FakeArray((2, 2))), st.just(silence),
    )  # fmt: skip
    functions = st.one_of(st.just(silence), st.lists(values, max_size=3).map(lambda a: boost(*a)))
    functions = st.one_of(functions, functions.map(boost))
    heads = st.one_of(st.none(), st.lists(st.integers(0, 9)).map(tuple))
    expect = st.one_of(st.none(), st.integers(0, 99))
    edit = st.builds(Edit, TEXT, functions, positions, heads, expect, st.just("output"), TEXT)
    read = st.builds(Read, TEXT, st.one_of(st.none(), TEXT), expect, st.just("input"), TEXT)
    return st.one_of(edit, read, graphs(deep - 1)) if deep else st.one_of(edit, read)


@given(graph=graphs())
def test_loading_gives_what_was_saved(tmp_path, graph):
    assert_same(through_a_file(graph, tmp_path / "g.mlxg"), graph)


@given(graph=graphs())
def test_saving_twice_writes_the_same_bytes(tmp_path, graph):
    graph.save(tmp_path / "one")
    Graph.load(tmp_path / "one").save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_another_number_or_array_is_another_file(tmp_path):
    graph = small_graph()
    graph.save(tmp_path / "one")
    for constants in ([graph.constants[0], 4.5], [FakeArray((3,), data=b"x" * 12), 4.0]):
        graph.replace(constants=constants).save(tmp_path / "two")
        assert (tmp_path / "one").read_bytes() != (tmp_path / "two").read_bytes()
    other = graph.replace(constants=[graph.constants[0], 4.5])
    assert through_a_file(other, tmp_path / "two") != graph


@pytest.mark.parametrize(
    "number",
    [0.0, -0.0, math.inf, -math.inf, math.nan, 0.1, 5e-324, 1, True, False, -(2**63)],
)
def test_numbers_come_back_exactly_and_of_their_kind(tmp_path, number):
    leaf = Node(NUMBER, (0, type(number).__name__))
    loaded = through_a_file(Graph((), [("x", leaf)], [number]), tmp_path / "g")
    assert same_bits(loaded.constants[0], number)


def test_a_graph_ten_thousand_deep_comes_back(tmp_path):
    node = site_node("a")
    for _ in range(10_000):
        node = Node("mx.add", (node, node))
    graph = Graph([(Site("a"), node)])
    loaded = through_a_file(graph, tmp_path / "g")
    assert loaded == graph and len(loaded.nodes()) == 10_001


def test_an_array_used_twice_is_stored_once(tmp_path):
    array = FakeArray((1000,))
    leaves = [Node(CONSTANT, (k, (1000,), "float32")) for k in range(2)]
    graph = Graph((), [("x", Node("mx.add", tuple(leaves)))], [array, array])
    loaded = through_a_file(graph >> Graph(then=[Edit("a", boost(array))]), tmp_path / "g")
    assert os.path.getsize(tmp_path / "g") < 2 * 4000
    assert loaded.constants[0] is loaded.constants[1]
    two = graph.replace(constants=[array, FakeArray((1000,))])
    two.save(tmp_path / "two")
    assert os.path.getsize(tmp_path / "two") > 2 * 4000


def test_a_gradient_comes_back(tmp_path):
    h = site_node("a")
    graph = Graph((), [("g", Node(GRAD, (Node("mx.softmax", (h,)), h)))])
    assert_same(through_a_file(graph, tmp_path / "g"), graph)


def test_a_hole_inside_a_function_comes_back(tmp_path, monkeypatch):
    class Hole:
        def __init__(self, *args):
            self._node = Node(PARAM, args)

    monkeypatch.setattr(named, "_holes", [Hole])
    graph = Graph(then=[Edit("a.*", boost(Hole("alpha", None, None), 2))])
    loaded = through_a_file(graph, tmp_path / "g")
    assert loaded == graph and loaded.then[0].params == ("alpha",)


def test_text_and_path_objects_are_both_paths(tmp_path):
    small_graph().save(str(tmp_path / "g"))
    assert Graph.load(str(tmp_path / "g")) == Graph.load(tmp_path / "g") == small_graph()


# -- what cannot be saved -------------------------------------------------------------------------


def test_an_opaque_function_is_refused_with_its_name_and_line(tmp_path):
    def my_function(x):
        return x

    node = Node(APPLY, (Opaque(my_function), site_node("a")))
    graph = Graph((), [("x", node)], notes={node: Note("probe.py:17")})
    with pytest.raises(OpaqueError, match=r"my_function(.|\n)*probe\.py:17"):
        graph.save(tmp_path / "g")
    edit = Graph(then=[Edit("a", boost(my_function), where="probe.py:18")])
    with pytest.raises(OpaqueError, match=r"my_function(.|\n)*probe\.py:18"):
        edit.save(tmp_path / "g")
    with pytest.raises(OpaqueError, match="unregistered"):
        Graph(then=[Edit("a", Named("unregistered", (), silence))]).save(tmp_path / "g")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "graph",
    [
        Graph((), [("x", Node("mx.load", (site_node("a"),)))]),
        Graph((), [("x", Node("mx.add", (site_node("a"), 2**70)))]),
        Graph((), [("x", Node("mx.add", (site_node("a"), "\ud800")))]),
        Graph((), [("x", Node(CONSTANT, (0, (3,), "float32")))], [FakeArray((4,))]),
        Graph((), [("x", site_node("a")), ("x", site_node("b"))]),
        Graph((), (), [object()]),
        Graph(then=["a step of another kind"]),
    ],
    ids=["operation", "integer", "text", "shape", "names", "constant", "step"],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path, graph):
    with pytest.raises(GraphFileError):
        graph.save(tmp_path / "g")
    assert os.listdir(tmp_path) == []


def nested(levels: int):
    """A tuple in a tuple in a tuple ..."""
    value: tuple = ()
    for _ in range(levels):
        value = (value,)
    return value


def test_nesting_without_end_is_refused_on_both_sides(tmp_path):
    Graph((), [("x", Node("mx.add", (nested(40),)))]).save(tmp_path / "g")
    with pytest.raises(GraphFileError, match="deep"):
        Graph((), [("x", Node("mx.add", (nested(80),)))]).save(tmp_path / "g")
    graph = Graph()
    for _ in range(40):
        graph = Graph(then=[graph, Read("a")])
    with pytest.raises(GraphFileError, match="deep"):
        graph.save(tmp_path / "g")


# -- writing whole or not at all ------------------------------------------------------------------


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    small_graph().save(tmp_path / "g")
    before = (tmp_path / "g").read_bytes()

    def full(*_):
        raise OSError("no space left on device")

    for broken in ("fsync", "replace"):
        with monkeypatch.context() as patched, pytest.raises(OSError, match="no space"):
            patched.setattr(file.os, broken, full)
            Graph().save(tmp_path / "g")
        assert (tmp_path / "g").read_bytes() == before
        assert os.listdir(tmp_path) == ["g"]
    Graph().save(tmp_path / "g")
    assert (tmp_path / "g").read_bytes() != before


def test_saving_through_a_link_keeps_the_link(tmp_path):
    small_graph().save(tmp_path / "g")
    (tmp_path / "link").symlink_to(tmp_path / "g")
    Graph().save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and Graph.load(tmp_path / "g") == Graph()


# -- without mlx ----------------------------------------------------------------------------------

WITHOUT_MLX = """
import sys, types
sys.modules["mlx"] = None
for name, path in (("mlxgraph", sys.argv[1] + "/mlxgraph"), ("tests", sys.argv[1] + "/tests"),
                   ("tests.graph", sys.argv[1] + "/tests/graph")):
    package = types.ModuleType(name)
    package.__path__ = [path]
    sys.modules[name] = package
from tests.graph.fakes import FakeCodec, small_graph
from mlxgraph.graph.file import format as file
from mlxgraph.graph.graph import Graph
file.set_codec(FakeCodec())
small_graph().save(sys.argv[2])
loaded = Graph.load(sys.argv[2])
assert loaded == small_graph()
print(loaded)
assert not any(name.split(".")[0] == "mlx" and module for name, module in sys.modules.items())
"""


def test_files_are_written_and_read_where_there_is_no_mlx(tmp_path):
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", WITHOUT_MLX, root, str(tmp_path / "g")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(small_graph())
