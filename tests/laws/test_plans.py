"""A plan computes what a naive walk over the graph's nodes computes.

The walk knows nothing of plans: it hooks the model by hand, keeps what each site held, and works
out every node with a plain dict of operations over plain arrays.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from tests import models
from tests.laws.interpreter import NAMES, OBJECTS, modules_of
from tests.laws.play import perform
from tests.laws.test_programs import CASES, arrays

SITE, CONSTANT, NUMBER = "site", "constant", "number"


def plain(value: Any, values: dict) -> Any:
    """A frozen argument as a Python value, by the names of the frozen classes."""
    kind = type(value).__name__
    if kind == "Node":
        return values[value]
    if kind in ("Literal", "Opaque"):
        return value.value
    if kind == "Slice":
        return slice(*[plain(v, values) for v in value.value])
    if kind == "FrozenList":
        return [plain(v, values) for v in value.value]
    if kind == "FrozenDict":
        return {k: plain(v, values) for k, v in value.value}
    if kind == "DType":
        return getattr(mx, value.value)
    if kind == "tuple":
        return tuple(plain(v, values) for v in value)
    return value


def put(base: mx.array, index: Any, part: Any) -> mx.array:
    copy = mx.array(base)
    copy[index] = part
    return copy


def replaced(base: Any, key: Any, item: Any) -> Any:
    if isinstance(base, OBJECTS):
        found = {name: getattr(base, name) for name in NAMES}
        named = key if isinstance(key, str) else NAMES[key]
        return type(base)(**{**found, named: item})
    if isinstance(base, dict):
        return {**base, key: item}
    items = list(base)
    items[key] = item
    return tuple(items) if isinstance(base, tuple) else items


MEANING = {
    "getitem": lambda a, i: a[i],
    "item": lambda a, k: getattr(a, k) if isinstance(a, OBJECTS) and k in NAMES else a[k],
    "update": put,
    "put": replaced,
    "reshape_like": lambda part, base: part.reshape(base.shape),
    "broadcast_like": lambda part, base: mx.broadcast_to(part, base.shape),
    "astype_like": lambda part, base: part.astype(base.dtype),
    "full_like": lambda base, value: mx.full(base.shape, value, dtype=base.dtype),
    "split_part": lambda a, how, axis, k: mx.split(
        a, list(how) if isinstance(how, tuple) else how, axis
    )[k],
}


def naive(graph, module: nn.Module, inputs: tuple) -> tuple[list[Any], Any]:
    """The graph's saves and the model's output, node by node."""
    values: dict = {}
    writes = {tuple(site): node for site, node in graph.writes}
    calls: Counter[str] = Counter()
    paths = {id(m): path for path, m in modules_of(module)}

    def value_of(node):
        if node not in values:
            for argument in node.inputs:
                value_of(argument)
            if node.op in (CONSTANT, NUMBER):
                values[node] = graph.constants[node.args[0]]
            else:
                meaning = MEANING.get(node.op) or getattr(mx, node.op.removeprefix("mx."))
                args = [plain(a, values) for a in node.args]
                values[node] = meaning(*args, **{k: plain(v, values) for k, v in node.kwargs})
        return values[node]

    def visit(site, value):
        for node in graph.nodes():
            if node.op == SITE and tuple(node.args) == site:
                values[node] = copied(value)
        return copied(value_of(writes[site])) if site in writes else value

    def call(self, *args, **kwargs):
        path = paths[id(self)]
        number = calls[path]
        calls[path] += 1
        args, kwargs = visit((path, "inputs", number), (args, kwargs))
        return visit(
            (path, "output", number), type(self).__mro__[1].__call__(self, *args, **kwargs)
        )

    parts = list({id(m): m for _, m in module.named_modules()}.values())
    own = [type(part) for part in parts]
    try:
        for part in parts:
            part.__class__ = type(type(part).__name__, (type(part),), {"__call__": call})
        output = module(*inputs)
    finally:
        for part, kind in zip(parts, own, strict=True):
            part.__class__ = kind
    return [value_of(node) for _, node in graph.saves], output


def copied(value: Any) -> Any:
    if isinstance(value, mx.array):
        return mx.array(value)
    if isinstance(value, OBJECTS):
        return type(value)(**{name: copied(getattr(value, name)) for name in NAMES})
    if type(value) in (tuple, list):
        return type(value)(copied(v) for v in value)
    return {k: copied(v) for k, v in value.items()} if type(value) is dict else value


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
@pytest.mark.thin(2)
def test_a_run_computes_what_a_walk_over_the_nodes_does(name, data):
    case = CASES[name]
    program = data.draw(case.programs)
    saves, output, t = perform(case.model, program, case.inputs)
    note(str(t.graph))
    expected, expected_output = naive(t.graph, case.module, case.inputs)
    outputs = arrays(output), arrays(expected_output)
    for ours, theirs in zip([*saves, *outputs[0]], [*expected, *outputs[1]], strict=True):
        assert models.same(ours, theirs, 2e-5)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25)
@given(data=st.data())
@pytest.mark.thin(2)
def test_a_graph_run_again_is_the_trace_it_came_from(name, data):
    case = CASES[name]
    program = data.draw(case.programs)
    saves, _, t = perform(case.model, program, case.inputs)
    again = case.model.run(t.graph, *case.inputs, compile=False)
    assert len(again.saves) == len(saves)
    for ours, theirs in zip(again.saves.values(), saves, strict=True):
        assert models.same(ours, theirs, 2e-5)
    with case.model.trace(*case.inputs, graph=t.graph, compile=False) as traced:
        pass
    for ours, theirs in zip(traced.saved_values.values(), saves, strict=True):
        assert models.same(ours, theirs, 2e-5)


@settings(max_examples=25)
@given(data=st.data())
def test_a_program_recorded_twice_is_one_graph(data):
    case = CASES["chain"]
    program = data.draw(case.programs)
    graphs = [perform(case.model, program, case.inputs)[2].graph for _ in range(2)]
    assert graphs[0] == graphs[1] and hash(graphs[0]) == hash(graphs[1])
    assert graphs[0].key == graphs[1].key
    assert "graph:" in str(graphs[0])
