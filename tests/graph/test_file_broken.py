"""Files that are broken, hostile or newer: one error, quickly, and never anything else.

A file with one wrong byte fails at its checksum.  So that the checks behind it are tested too,
most of these files are sealed anew after they were broken.
"""

from __future__ import annotations

import copy
import json
import os
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlxgraph.errors import GraphFileError
from mlxgraph.graph import named
from mlxgraph.graph.deferred import Edit, Read
from mlxgraph.graph.file import decode
from mlxgraph.graph.file import format as file
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.named import Named
from mlxgraph.graph.node import CALL, GRAD, PARAM, Node, site_node
from tests.graph.fakes import (
    FakeArray,
    FakeCodec,
    changed,
    joined,
    places,
    small_graph,
    split,
    with_text,
)


def boost(factor):
    """A known function that does not take everything."""
    if factor != factor or not isinstance(factor, (int, float, FakeArray)):
        raise ValueError("boost takes a number")
    return Named("boost", (factor,), lambda x: x)


@pytest.fixture(autouse=True)
def fake_arrays(monkeypatch):
    monkeypatch.setattr(file, "_codec", [FakeCodec()])
    monkeypatch.setitem(named._makers, "boost", boost)
    monkeypatch.setattr(named, "_holes", [lambda *args: args])


def rich_graph() -> Graph:
    """A little of everything that has a form on disk."""
    h = site_node("model.layers.1")
    hole = Node(PARAM, ("v", (3,), "float32"))
    grad = Node(GRAD, (Node("mx.softmax", (h,)), h))
    saves = [("called", Node(CALL, ("model.norm", hole))), ("grad", grad)]
    edit = Edit("layers.*.mlp", boost(0.5), slice(1, None), (0, 2), 4, "output", "a.py:9")
    inner = Graph((), saves, then=[Edit("layers.1", boost(FakeArray((2,))), (0, -1))])
    return small_graph().replace(then=[edit, Read("layers.[1-3]", "h"), inner])


@pytest.fixture
def saved(tmp_path):
    """A file's bytes, and where to put broken ones."""
    rich_graph().save(tmp_path / "g")
    return (tmp_path / "g").read_bytes(), tmp_path / "broken"


def outcome(data: bytes, path) -> str:
    """What loading does: a GraphFileError's text, or `""` for a graph that can be shown."""
    path.write_bytes(data)
    try:
        graph = Graph.load(path)
    except GraphFileError as error:
        return str(error)
    str(graph), graph._repr_html_(), graph.to_dot(), graph.to_mermaid(), hash(graph)
    assert graph == graph.replace()
    return ""


def test_sealing_anew_is_no_fault_of_its_own(saved):
    data, path = saved
    assert outcome(data, path) == ""
    assert outcome(changed(data, lambda structure: None), path) == ""
    assert Graph.load(path) == rich_graph()


# -- every byte ---------------


def test_every_flipped_byte_is_noticed(saved):
    data, path = saved
    for at in range(len(data)):
        for flip in (0x01, 0x20, 0x80):
            broken = bytearray(data)
            broken[at] ^= flip
            said = outcome(bytes(broken), path)
            assert said, (at, flip)


def test_every_truncation_is_noticed(saved):
    data, path = saved
    for length in range(len(data)):
        assert outcome(data[:length], path), length
    assert outcome(data + b"\0", path)


@settings(max_examples=300)
@given(st.data())
def test_flipped_bytes_of_a_sealed_structure_raise_or_load(saved, data):
    original, path = saved
    header, rest = split(original)
    text = bytearray(header["__metadata__"]["graph"].encode())
    for _ in range(data.draw(st.integers(1, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(32, 126))
    outcome(with_text(original, text.decode()), path)


@settings(max_examples=300)
@given(st.data())
def test_any_value_in_any_place_raises_or_loads(saved, data):
    original, path = saved
    header, rest = split(original)
    structure = json.loads(header["__metadata__"]["graph"])
    whole = {"file": {**header, "graph": structure}}
    holder, key = data.draw(st.sampled_from(list(places(whole))))
    values = st.one_of(JSON, st.sampled_from([other[name] for other, name in places(whole)]))
    holder[key] = copy.deepcopy(data.draw(values))
    header = whole["file"]
    if type(header) is not dict or type(header.get("__metadata__")) is not dict:
        return
    structure = header.pop("graph", None)
    if "graph" in header["__metadata__"]:
        header["__metadata__"]["graph"] = json.dumps(structure)
    outcome(joined(header, rest), path)


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 12), st.integers(), st.floats(),
        st.text(max_size=4),
        st.sampled_from(["mx.eval", "apply", "__import__", "float32", "\ud800", "boost", "a.b"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from("node array list slice dict float literal graph".split()),
            inner,
            max_size=2,
        ),
    ),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=200)
@given(st.binary(max_size=200))
@example(b"")
@example(b"\x02" + b"\0" * 7 + b"{}")
@example(b"\xff" * 8)
def test_any_bytes_raise(tmp_path, data):
    assert outcome(data, tmp_path / "g")
    assert outcome(len(data).to_bytes(8, "little") + data, tmp_path / "g")


# -- one fault at a time ---------------


def set_at(*way):
    """A change: the last of `way` is put where the others lead."""

    def change(structure):
        *keys, last, value = way
        for key in keys:
            structure = structure[key]
        structure[last] = value

    return change


def op(name, *args):
    """A change: the node that adds becomes another one."""

    def change(structure):
        node = next(n for n in structure["nodes"] if n[0] == "mx.add")
        node[:] = [name, list(args)]

    return change


def itself(structure):
    """A change: the node that adds takes itself as its input."""
    k = next(k for k, n in enumerate(structure["nodes"]) if n[0] == "mx.add")
    structure["nodes"][k][1] = [{"node": k}]


DEEP_LIST = "[" * 3000 + "]" * 3000
FAULTS = {
    "an operation that evaluates": (op("mx.eval", {"node": 0}), "no operation 'mx.eval'"),
    "an operation that loads": (op("mx.load", "/etc/passwd"), "no operation"),
    "an operation that saves": (op("mx.save", "/tmp/x", {"node": 0}), "no operation"),
    "a dunder": (op("mx.__getattr__", "x"), "no operation"),
    "a module": (op("os.system", "true"), "no operation"),
    "an opaque function": (op("apply", "print"), "no operation 'apply'"),
    "a later node": (op("mx.add", {"node": 7}), "no node before it"),
    "the node itself": (itself, "no node before it"),
    "a negative node": (op("mx.add", {"node": -1}), "no node before it"),
    "a node that is no number": (op("mx.add", {"node": True}), "no node before it"),
    "too few arguments": (op("getitem", {"node": 0}), "too few arguments"),
    "a write without a value": (op("update", {"node": 0}, 0), "too few arguments"),
    "a draw without a number": (op("mx.random.normal"), "no number"),
    "a call of nothing": (op("call"), "names no module"),
    "a call of a number": (op("call", 3), "names no module"),
    "a gradient of nothing": (op("grad", {"node": 0}), "gradient"),
    "an unknown tag": (op("mx.add", {"pickle": "gASV"}), "no kind of argument 'pickle'"),
    "two tags": (op("mx.add", {"node": 0, "list": []}), "several kinds"),
    "no tag": (op("mx.add", {}), "several kinds"),
    "a dtype of its own": (op("mx.add", {"dtype": "__class__"}), "no dtype"),
    "a huge number": (op("mx.add", 2**65), "no number"),
    "a nan by another name": (op("mx.add", {"float": "NaN"}), "no number"),
    "half a slice": (op("mx.add", {"slice": [1]}), "three parts"),
    "a dict of nothing": (op("mx.add", {"dict": [1]}), "keys and values"),
    "a dict with two of one key": (op("mx.add", {"dict": [["a", 1], ["a", 2]]}), "two keys"),
    "a site of two parts": (op("site", "a", "output"), "other arguments"),
    "a site's port": (op("site", "a", "out put", 0), "no port"),
    "a site's call": (op("site", "a", "output", -1), "no call"),
    "a site's endless call": (op("site", "a", "output", 2**40), "no call"),
    "a site's path": (op("site", 3, "output", 0), "no text"),
    "a param's name": (op("param", "a b", None, None), "name no param"),
    "a param's shape": (op("param", "a", [2**40], None), "out of range"),
    "a param larger than memory": (op("param", "a", [2**30, 2**30], None), "larger"),
    "a param's dtype": (op("param", "a", [2], "object"), "no dtype"),
    "a constant that is not there": (op("constant", 9, [3], "float32"), "no constant"),
    "a constant of another shape": (op("constant", 0, [4], "float32"), "another shape"),
    "a constant of another dtype": (op("constant", 0, [3], "bfloat16"), "another dtype"),
    "a number for an array": (op("constant", 1, [], "float32"), "is a number"),
    "an array for a number": (op("number", 0, "float"), "is no 'float'"),
    "a number of another kind": (op("number", 1, "int"), "is no 'int'"),
    "a number of no kind": (op("number", 1, ["float"]), "is no"),
    "no nodes": (set_at("nodes", None), "no list"),
    "a node too few": (lambda s: s["nodes"].pop(), "not one for each node"),
    "a node that is no list": (set_at("nodes", 0, "site"), "no list"),
    "a keyword": (set_at("nodes", 0, ["mx.softmax", [], {"a-b": 1}]), "no keyword"),
    "a note's shape": (set_at("notes", 0, ["a", [-1], None]), "out of range"),
    "a note's dtype": (set_at("notes", 0, ["a", None, "str"]), "no dtype"),
    "a write to nowhere": (set_at("writes", 0, 0, ["a"]), "1 parts and not 3"),
    "a write of nothing": (set_at("writes", 0, 1, 99), "no node"),
    "two writes to one site": (lambda s: s["writes"].append(s["writes"][0]), "two writes"),
    "two saves of one name": (lambda s: s["saves"].append(s["saves"][0]), "two saves"),
    "a save's name": (set_at("saves", 0, 0, 5), "no text"),
    "half a character": (set_at("saves", 0, 0, "\ud800"), "half a character"),
    "an array that is not there": (set_at("constants", 0, {"array": 5}), "no array"),
    "a constant's form": (set_at("constants", 0, "x"), "no number"),
    "a deferred kind": (set_at("then", 0, {"exec": "1"}), "no kind of edit or read 'exec'"),
    "an edit's fields": (set_at("then", 0, {"edit": {}}), "no object of pattern"),
    "an edit's function": (set_at("then", 0, "edit", "function", ["eval", ["1"]]), "no function"),
    "a function's arguments": (
        set_at("then", 0, "edit", "function", ["boost", ["x"]]), "boost takes a number"
    ),
    "too many arguments": (
        set_at("then", 0, "edit", "function", ["boost", [1, 2]]), "does not take these"
    ),
    "positions of text": (set_at("then", 0, "edit", "positions", "all"), "positions"),
    "heads of text": (set_at("then", 0, "edit", "heads", ["a"]), "heads"),
    "a port of text": (set_at("then", 0, "edit", "port", "out put"), "no port"),
    "a negative count": (set_at("then", 0, "edit", "expect", -1), "no count"),
    "a pattern of numbers": (set_at("then", 1, "read", "pattern", [1]), "no text"),
    "a graph of nothing": (set_at("then", 2, {"graph": None}), "no object"),
    "another field": (set_at("code", "1"), "no object of"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_structure_is_named(saved, fault):
    data, path = saved
    change, said = FAULTS[fault]
    text = outcome(changed(data, change), path)
    assert text and said in text and str(path) in text


TEXTS = {
    "not JSON": "{",
    "nothing": "",
    "a number": "1",
    "a literal that JSON lacks": '{"nodes": NaN}',
    "lists without end": DEEP_LIST,
    "objects without end": '{"a":' * 3000 + "1" + "}" * 3000,
    "a name twice": '{"nodes": [], "nodes": []}',
    "a number without end": '{"nodes": ' + "9" * 5000 + "}",
    "a fraction without end": '{"nodes": 0.' + "9" * 5000 + "}",
    "letters of another alphabet": '{"nod\u00e9s": 1}',
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_structure_that_cannot_be_parsed_is_refused(saved, text):
    data, path = saved
    assert outcome(with_text(data, TEXTS[text]), path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "pt"}, "not a graph's"),
        ({"version": "2"}, "update mlxgraph"),
        ({"version": "9" * 5000}, "update mlxgraph"),
        ({"version": "one"}, "does not say its version"),
        ({"version": "\u00b2"}, "does not say its version"),
        ({"version": 1}, "does not say its version"),
        ({"graph": None}, "structure is missing"),
        ({"graph": {}}, "structure is missing"),
    ],
)
def test_metadata_of_another_kind_are_refused(saved, changes, said):
    data, path = saved
    header, rest = split(data)
    header["__metadata__"].update(changes)
    assert said in outcome(joined(header, rest), path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"0": None}, "array 0 is no object"),
        ({"0": {"dtype": "F32", "shape": [3]}}, "array 0 is no object"),
        ({"0": {"dtype": "F8", "shape": [3], "data_offsets": [0, 12]}}, "unknown dtype"),
        ({"0": {"dtype": ["F32"], "shape": [3], "data_offsets": [0, 12]}}, "unknown dtype"),
        ({"0": {"dtype": "F32", "shape": [-3], "data_offsets": [0, 12]}}, "out of range"),
        ({"0": {"dtype": "F32", "shape": [2**31], "data_offsets": [0, 12]}}, "out of range"),
        ({"0": {"dtype": "F32", "shape": [2**30] * 3, "data_offsets": [0, 12]}}, "larger"),
        ({"0": {"dtype": "F32", "shape": [3], "data_offsets": [4, 16]}}, "does not lie"),
        ({"0": {"dtype": "F32", "shape": [3], "data_offsets": [0, 10**12]}}, "does not lie"),
        ({"0": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, "another size"),
        ({"0": {"dtype": "F32", "shape": [3], "data_offsets": [0, -1]}}, "does not lie"),
        ({"0": {"dtype": "F32", "shape": [3.0], "data_offsets": [0, 12]}}, "out of range"),
        ({"1": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, "does not lie"),
        ({"2": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "does not lie"),
        ({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "not numbered"),
    ],
)
def test_arrays_lie_where_their_shapes_say_and_nowhere_else(saved, changes, said):
    data, path = saved
    header, rest = split(data)
    header.update(changes)
    assert said in outcome(joined(header, rest), path)


def test_bytes_that_belong_to_no_array_are_refused(saved):
    data, path = saved
    header, rest = split(data)
    assert "does not end" in outcome(joined(header, rest + b"\0" * 8), path)


# -- bounds ---------------


def test_a_header_longer_than_the_file_is_not_read(tmp_path):
    for length in (2**63, 2**40, 2**26, 100):
        said = outcome(length.to_bytes(8, "little") + b"{}", tmp_path / "g")
        assert f"{length:,}" in said


def test_memory_is_bounded_by_refusing_before_parsing(saved):
    data, path = saved
    bomb = "[" + "[]," * 3_000_000 + "[]]"
    broken = with_text(data, bomb)
    tracemalloc.start()
    try:
        assert "values" in outcome(broken, path)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(broken)
    finally:
        tracemalloc.stop()


def test_more_nodes_than_a_file_may_hold_are_refused(saved, monkeypatch):
    data, path = saved
    count = len(rich_graph().nodes()) + len(rich_graph().then[2].nodes())
    monkeypatch.setattr(decode, "MOST_NODES", count)
    assert outcome(data, path) == ""
    monkeypatch.setattr(decode, "MOST_NODES", count - 1)
    assert "nodes" in outcome(data, path)


def test_what_is_no_file_is_refused_and_a_missing_one_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        Graph.load(tmp_path / "none")
    with pytest.raises(GraphFileError, match="no file"):
        Graph.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(GraphFileError, match="no file"):
        Graph.load(tmp_path / "pipe")
