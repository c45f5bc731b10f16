"""The table of operations: every name once, and claims that fit together."""

from __future__ import annotations

from collections import Counter

import pytest

from mlxgraph.graph import ops
from mlxgraph.graph.node import Node, is_draw, site_node
from mlxgraph.graph.values import DType

H = site_node("h")
ROWS = list(ops.OPERATIONS.values())
NAMED = {
    name: value
    for name, value in vars(ops).items()
    if name.isupper() and not name.startswith("_") and type(value) is str
}


def test_every_name_has_one_row():
    rows = [row[0] for row in ops._ROWS]
    rows += [f"{s}.{name}" for (s, _), text in ops._FUNCTIONS.items() for name in text.split()]
    assert not [name for name, count in Counter(rows).items() if count > 1]
    assert set(rows) == set(ops.OPERATIONS)
    assert all(operation.name == name for name, operation in ops.OPERATIONS.items())


def test_every_constant_is_a_kind_of_node_or_has_a_row_and_is_named_after_it():
    kinds = ops.SOURCES | {ops.CALL, ops.GRAD}
    for constant, name in NAMED.items():
        assert name in kinds | set(ops.OPERATIONS), constant
        spelt = name.removeprefix("mx.random.").replace(".", "_").upper()
        assert constant == spelt, (constant, name)
    assert len(set(NAMED.values())) == len(NAMED)


def test_a_rows_claims_fit_together():
    for operation in ROWS:
        name = operation.name
        if operation.most is not None:
            assert operation.fewest <= operation.most, name
        if operation.symbol or operation.commutes:
            assert operation.fewest == operation.most == 2, name
        if operation.operators:
            assert operation.fewest in (1, 2) and operation.fewest == operation.most, name
        if operation.elementwise and operation.fewest == 1:
            assert operation.keeps_shape, name
        if operation.reshapes:
            assert operation.keeps_dtype and not operation.keeps_shape, name
        if operation.view:
            assert not operation.elementwise and not operation.draws, name
        if operation.draws:
            assert ops.is_random(name)
        assert operation.storable == (name != ops.APPLY), name


def test_no_operator_of_python_means_two_operations():
    names = [python for operation in ROWS for python in operation.operators]
    assert len(set(names)) == len(names)
    assert set(names) == {*ops.BINARY, *ops.COMPARISONS, *ops.UNARY, "pow"}
    assert ops.BINARY["add"] == ops.MX_ADD and ops.UNARY["neg"] == ops.MX_NEGATIVE
    assert ops.COMPARISONS["lt"] == ops.MX_LESS


def test_what_runs_evaluates_or_transforms_is_in_no_row():
    for name in "eval load save compile grad vmap import_function as_strided metal_kernel".split():
        assert f"mx.{name}" not in ops.OPERATIONS
    assert not any("__" in name for name in ops.OPERATIONS)


def test_draws_are_told_by_their_number_and_those_with_a_key_are_none():
    assert is_draw(Node("mx.random.normal", (1, (3,))))
    assert not is_draw(Node("mx.random.normal", ((3,),), (("key", H),)))
    assert not is_draw(Node("mx.random.uniform", (0, H), (("key", H),)))
    key = Node(ops.CONSTANT, (0, (2,), "uint32"))
    assert not is_draw(Node("mx.random.randint", (0, 9, (3,), DType("int32"), key)))
    assert is_draw(Node("mx.random.randint", (1, 0, 9, (3,), DType("int32"))))
    assert not is_draw(Node("mx.random.split", (H, 2)))
    assert not is_draw(Node("mx.add", (1, H)))


def test_a_newer_mlx_is_known_by_its_namespaces():
    assert ops.is_of_mlx("mx.brand_new") and ops.is_of_mlx("nn.losses.brand_new")
    assert not ops.is_of_mlx("update") and not ops.is_of_mlx(ops.NORMAL_LIKE)
    assert ops.is_random("mx.random.brand_new") and not ops.is_random("mx.add")
    assert ops.short("mx.linalg.norm") == "linalg.norm" and ops.short("update") == "update"
