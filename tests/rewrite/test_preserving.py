"""Every rewrite preserves what is computed: random expressions, and random programs on models."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph.errors import ShapeError
from mlxgraph.evaluate.evaluate import evaluate, thaw
from mlxgraph.evaluate.values import NodeFailure, Values, source_values
from mlxgraph.graph.check import check
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node, site_node
from mlxgraph.graph.values import DType, FrozenList, Slice
from mlxgraph.rewrite import rules
from mlxgraph.rewrite.driver import rewrite
from mlxgraph.rewrite.pipeline import ALL, NAMES, simplify
from mlxgraph.trace.execute import REWRITES
from tests import models
from tests.drawing import one_of, order_of
from tests.laws.play import perform
from tests.laws.test_programs import CASES
from tests.rewrite.examples import checked

SITES = {
    site_node("a"): (2, 4, 6),
    site_node("b"): (2, 4, 6),
    site_node("c"): (4, 6),
    site_node("d"): (6,),
}
DTYPES = {"a": mx.float32, "b": mx.float16, "c": mx.int32, "d": mx.float32}
ARRAYS = {
    node: (mx.arange(mx.zeros(shape).size).reshape(shape) % 11 - 5).astype(DTYPES[node.args[0]])
    for node, shape in SITES.items()
}
VECTOR = mx.array([0.5, -1.5, 2.0, 0.25, 3.0, -0.75])
CONSTANTS = (VECTOR, 2.0, 2.0, 3, VECTOR)
LEAVES = [
    Node("constant", (0, (6,), "float32")),
    Node("number", (1, "float")),
    Node("number", (2, "float")),
    Node("number", (3, "int")),
    Node("constant", (4, (6,), "float32")),
]
PARTS = (
    0, 1, -1, -2, Slice(None, None, None), Slice(1, None, None), Slice(None, -1, None), Ellipsis,
    FrozenList((0, 1)), FrozenList((1, 1)), FrozenList((0, -1)),
)  # fmt: skip
SOME_PARTS = st.lists(st.sampled_from(PARTS), min_size=1, max_size=3)


class Expressions:
    """Draws nodes one on another, keeping those that mean something."""

    def __init__(self, draw: Any):
        self.draw = draw
        leaves = source_values(LEAVES, CONSTANTS, {})
        self.values = Values({**ARRAYS, **leaves})
        self.nodes: list[Node] = [*SITES]

    def pick(self) -> Node:
        return one_of(self.draw, self.nodes[-6:])

    def add(self, node: Node) -> None:
        try:
            value = self.values[node]
        except NodeFailure:
            self.values.known.pop(node, None)
            return
        if isinstance(value, mx.array) and value.size:
            self.nodes.append(node)

    def index(self) -> Any:
        parts = self.draw(SOME_PARTS)
        if parts.count(Ellipsis) > 1:
            parts = [p for p in parts if p is not Ellipsis]
        return parts[0] if len(parts) == 1 else tuple(parts)

    def within(self, x: Node, index: Any) -> bool:
        """Whether an index is in bounds: beyond them MLX reads and writes rubbish."""
        try:
            np.empty(self.values[x].shape)[thaw(index, self.values.__getitem__)]
        except IndexError:
            return False
        return True

    def step(self) -> None:
        x, y = self.pick(), self.pick()
        kind = self.draw(st.integers(0, 9))
        if kind <= 1:
            self.write(x, y)
        elif kind == 2:
            index = self.index()
            if self.within(x, index):
                self.add(Node("getitem", (x, index)))
        elif kind == 3:
            self.add(Node(one_of(self.draw, LIKES), (x, y)))
        elif kind == 4:
            size = self.values[x].size
            shape = one_of(self.draw, [(size,), (2, size // 2), (size // 6, 6), (-1, 2)])
            self.add(Node("mx.reshape", (x, shape)))
        elif kind == 5:
            axes = order_of(self.draw, self.values[x].ndim)
            self.add(Node("mx.transpose", (x, axes)))
        elif kind == 6:
            self.add(Node("mx.swapaxes", (x, -1, -2)))
        elif kind == 7:
            op = one_of(self.draw, ["mx.negative", "mx.abs", "mx.tanh"])
            self.add(Node(op, (x,)))
        else:
            op = one_of(self.draw, ["mx.add", "mx.multiply", "mx.subtract", "mx.maximum"])
            other = one_of(self.draw, [y, *LEAVES])
            pair = (x, other) if self.draw(st.booleans()) else (other, x)
            self.add(Node(op, pair))
            if self.draw(st.booleans()):  # a twin, and something that rests on constants alone
                self.add(Node(op, pair[::-1]))
                known = Node(op, (LEAVES[1], one_of(self.draw, LEAVES)))
                self.add(Node("mx.add", (x, known)))
            self.add(Node("mx.astype", (x, DType("float32"))))

    def write(self, x: Node, y: Node) -> None:
        """A write as a block would record it, and what is read of it again."""
        index = self.index()
        part = Node("getitem", (x, index))
        if not self.within(x, index):
            return
        self.add(part)
        if part not in self.nodes:
            return
        number = LEAVES[self.draw(st.integers(1, 3))]
        changed = Node(one_of(self.draw, ["mx.add", "mx.multiply"]), (part, number))
        value = one_of(self.draw, [part, changed, Node("full_like", (part, number)), y])
        self.add(value)
        if value is y or value is changed:
            value = Node("astype_like", (Node("broadcast_like", (value, part)), part))
        self.add(Node("update", (x, index, value)))
        if self.nodes[-1].op == "update":
            self.add(Node("getitem", (self.nodes[-1], index)))


LIKES = ["broadcast_like", "astype_like", "reshape_like"]


@st.composite
def expressions(draw: Any) -> Graph:
    """A graph that saves the last few of some random expressions."""
    made = Expressions(draw)
    for _ in range(draw(st.integers(3, 16))):
        made.step()
    saves = [(str(k), node) for k, node in enumerate(made.nodes[-3:])]
    return Graph(saves=saves, constants=CONSTANTS)


def computed(graph: Graph) -> list[mx.array]:
    known = Values({**ARRAYS, **source_values(graph.nodes(), graph.constants, {})})
    return [known[node] for _, node in graph.saves]


def agree(before: Graph, after: Graph) -> bool:
    pairs = zip(computed(before), computed(after), strict=True)
    return all(models.same(a, b) for a, b in pairs)


@settings(max_examples=settings().max_examples * 5)
@given(graph=expressions())
def test_all_rewrites_together_preserve_what_is_computed(graph):
    note(str(graph))
    done = checked(simplify(graph, evaluate=evaluate))
    note("\n\n".join(f"{change.name}\n{change.after}" for change in done.history))
    assert agree(graph, done.graph)
    assert simplify(done.graph, evaluate=evaluate).graph == done.graph


@pytest.mark.parametrize("name", NAMES)
@given(graph=expressions())
@pytest.mark.thin(3)
def test_each_rewrite_preserves_what_is_computed(name, graph):
    note(str(graph))
    others = [other for other in NAMES if other != name]
    done = checked(simplify(graph, without=others, evaluate=evaluate))
    note(str(done.graph))
    assert agree(graph, done.graph)


def read_back_anything(node):
    """update(x, i, v)[j] -> v, which is wrong where j is not i, or v is not shaped as x[i]"""
    match node:
        case Node("getitem", (Node("update", (_, _, v)), _)):
            return v


def drop_casts(node):
    """astype_like(x, y) -> x, which is wrong where the dtypes differ"""
    return node.args[0] if node.op == "astype_like" else None


def drop_transposes(node):
    """transpose(x) -> x"""
    return node.args[0] if node.op == "mx.transpose" else None


@pytest.mark.parametrize("rule", [read_back_anything, drop_casts, drop_transposes])
@pytest.mark.thin(3)
def test_a_rule_that_is_wrong_is_found_out(rule):
    """The control: the same expressions and the same comparison catch a wrong rule."""
    caught = []

    @settings(max_examples=150, database=None)
    @given(graph=expressions())
    def search(graph):
        try:
            caught.append(not agree(graph, rewrite(graph, rule)))
        except NodeFailure:
            caught.append(True)

    search()
    assert any(caught)


def test_the_expressions_give_every_local_rewrite_work():
    """The control for the laws above: they were not tested on graphs that no rewrite changes."""
    worked: set[str] = set()

    @settings(max_examples=200, database=None)
    @given(graph=expressions())
    def search(graph):
        worked.update(c.name for c in simplify(graph, evaluate=evaluate).history)

    search()
    assert worked >= {one.name for one in ALL} - {"dead"}


@pytest.mark.parametrize("optimize", [*REWRITES, True])
@settings(max_examples=settings().max_examples // 2)
@given(data=st.data())
@pytest.mark.thin(3)
def test_a_run_with_rewrites_equals_the_run_without(optimize, data):
    case = CASES[data.draw(st.sampled_from(sorted(CASES)))]
    program = data.draw(case.programs)
    note("\n".join(map(str, program)))
    _, _, trace = perform(case.model, program, case.inputs)
    assert trace.graph.saves
    plain = case.model.run(trace.graph, *case.inputs, optimize=False, compile=False)
    done = case.model.run(trace.graph, *case.inputs, optimize=optimize, compile=False)
    for name in plain.saves:
        assert models.same(plain[name], done[name], 1e-6), name


@settings(max_examples=settings().max_examples // 2)
@given(data=st.data())
def test_a_graph_simplified_by_hand_runs_the_same(data):
    case = CASES[data.draw(st.sampled_from(sorted(CASES)))]
    program = data.draw(case.programs)
    note("\n".join(map(str, program)))
    _, _, trace = perform(case.model, program, case.inputs)
    graph = trace.graph
    check(graph)
    simple = mg.simplify(graph)
    check(simple)
    assert len(simple.nodes()) <= len(graph.nodes()) + 2 * len(graph.saves)
    note(str(simple))
    assert graph.saves
    plain = case.model.run(graph, *case.inputs, optimize=False, compile=False)
    done = case.model.run(simple, *case.inputs, optimize=False, compile=False)
    for name in plain.saves:
        assert models.same(plain[name], done[name], 1e-6), name


def test_the_rules_hold_under_gradients():
    """A rewritten graph has the gradients of the one it stands for."""
    model = CASES["chain"].model
    x = CASES["chain"].inputs[0]
    alpha = mg.param("alpha")
    with model.trace(x) as t:
        h = model.layers[0].output
        h[:, -1] *= alpha
        h[:, -1] += h[:, 0]
        h[:, 0] = h[:, -1] * alpha
        model.output.square().sum().save("loss")
    graph = t.graph
    assert simplify(graph).history

    def loss(value, optimize):
        return model.run(graph, x, alpha=value, optimize=optimize, compile=False)["loss"]

    slopes = [mx.grad(loss)(mx.array(1.5), optimize) for optimize in (False, True)]
    assert models.same(*slopes, 1e-5) and abs(slopes[0].item()) > 1e-3


def test_rules_are_all_in_some_rewrite():
    groups = (rules.UPDATES, rules.NOOPS, rules.READS, rules.VIEWS, rules.CASTS)
    assert sum(map(len, groups)) == len(rules.RULES) == len(set(rules.RULES))


def test_what_fails_in_a_run_is_told_by_the_users_line(x=CASES["chain"].inputs[0]):
    """Rewrites leave the lines of what they rewrite in place, for errors to point at."""
    model = CASES["chain"].model
    with model.trace(x) as t:
        h = model.layers[0].output
        h[:, 0] = h[:, 0] * 2
        h[:, 0] = h[:, 0] + mx.ones((2, 6))  # two rows, and so the graph wants two
        model.output.sum().save("s")
    for optimize in (False, True):
        with pytest.raises(ShapeError) as caught:
            model.run(t.graph, mx.concatenate([x, x[:1]]), optimize=optimize, compile=False)
        assert "test_preserving.py" in str(caught.value) and "add" in str(caught.value)
        assert "->" in str(caught.value)
