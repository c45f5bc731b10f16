"""The tests can fail: what makes a test hold whatever the code does is found by reading it.

Each rule reads the source of a test; the cases below show that it catches its offender.
Whether a test fails when the code is wrong is asked by `tests.mutants`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
LARGEST = 1.0  # a tolerance of more than this says nothing of arrays of order one

Rule = Callable[[ast.AST], bool]


def any_error(node: ast.AST) -> bool:
    """`pytest.raises(Exception)`: any mistake in the test itself is such an error"""
    if not (isinstance(node, ast.Call) and _dotted(node.func) == "pytest.raises"):
        return False
    kinds = node.args[0].elts if isinstance(node.args[0], ast.Tuple) else node.args[:1]
    return any(ast.unparse(kind) in ("Exception", "BaseException") for kind in kinds)


def this_or_that(node: ast.AST) -> bool:
    """`assert a or b`, `assert a and b or c`, `assert a if c else True`: the weaker half decides"""
    if not isinstance(node, ast.Assert):
        return False
    parts = node.test.values if isinstance(node.test, ast.BoolOp) else [node.test]
    return (
        isinstance(node.test, ast.BoolOp)
        and isinstance(node.test.op, ast.Or)
        or any(isinstance(part, ast.IfExp) or (isinstance(part, ast.BoolOp)) for part in parts)
    )


def always_true(node: ast.AST) -> bool:
    """`assert f"{x:.3f}"`, `assert (a, b)`: text and tuples are true, whatever is in them"""
    kinds = (ast.Constant, ast.JoinedStr, ast.Tuple, ast.List, ast.Dict, ast.Lambda)
    return isinstance(node, ast.Assert) and isinstance(node.test, kinds)


def any_difference(node: ast.AST) -> bool:
    """`same(a, b, 1e9)`, `apart(a, b) < 100`: a tolerance that no difference reaches"""
    if isinstance(node, ast.Call) and _name(node.func) in ("same", "close", "exact", "alike"):
        return any(_is_large(value) for value in node.args[2:])
    return (
        isinstance(node, ast.Compare)
        and isinstance(node.left, ast.Call)
        and _name(node.left.func) == "apart"
        and any(
            isinstance(op, (ast.Lt, ast.LtE)) and _is_large(value)
            for op, value in zip(node.ops, node.comparators, strict=True)
        )
    )


def swallowed(node: ast.AST) -> bool:
    """`except ...: pass`, `except ...: return`: what was to be shown is not, and nobody is told"""
    return isinstance(node, ast.ExceptHandler) and all(
        isinstance(step, (ast.Pass, ast.Return)) for step in node.body
    )


RULES = (any_error, this_or_that, always_true, any_difference, swallowed)


def _dotted(function: ast.AST) -> str:
    """What is called, `pytest.raises`: `ast.unparse` takes longer than all else here."""
    if isinstance(function, ast.Attribute):
        return f"{_dotted(function.value)}.{function.attr}"
    return function.id if isinstance(function, ast.Name) else ""


def _name(function: ast.AST) -> str:
    return _dotted(function).rpartition(".")[2]


def _is_large(value: ast.AST) -> bool:
    return isinstance(value, ast.Constant) and type(value.value) in (int, float) and (
        value.value > LARGEST
    )  # fmt: skip


def _is_test(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name.startswith("test_")


def offences(tree: ast.AST) -> list[str]:
    """`line: rule` for each thing in a test that lets it hold whatever happens."""
    return [
        f"{node.lineno}: {rule.__name__}"
        for test in ast.walk(tree)
        if _is_test(test)
        for node in ast.walk(test)
        for rule in RULES
        if rule(node)
    ]


class Checks(NamedTuple):
    """How a function or class may fail a test.  Attributes: itself: it can, as it stands; by: it
    does where one of these names does, functions that it calls and fixtures that it is given."""

    itself: bool
    by: frozenset[str]

    def among(self, known: set[str]) -> bool:
        return self.itself or not known.isdisjoint(self.by)


def bodies(tree: ast.AST) -> list[tuple[ast.FunctionDef | ast.ClassDef, Checks]]:
    """Each function and class of a file, and how it may fail a test."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [(node, _checks(node)) for node in ast.walk(tree) if isinstance(node, kinds)]


def functions_that_check(found_in: list[tuple[ast.FunctionDef | ast.ClassDef, Checks]]) -> set[str]:
    """The names of functions and fixtures that can fail a test, by way of each other too."""
    found: set[str] = set()
    while True:
        more = {node.name for node, checks in found_in if checks.among(found)} - found
        if not more:
            return found
        found |= more


def _checks(node: ast.AST) -> Checks:
    itself, by = False, set()
    for part in ast.walk(node):
        if isinstance(part, ast.Assert):
            itself = True
        if isinstance(part, ast.Call):
            name = _dotted(part.func)
            by.add(name.rpartition(".")[2])
            itself |= name in ("pytest.raises", "pytest.fail")
            itself |= any(k.arg == "check" and ast.unparse(k.value) == "True" for k in part.keywords)
    if isinstance(node, ast.FunctionDef):
        by |= {a.arg for a in node.args.args}
    return Checks(itself, frozenset(by))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def test_no_test_holds_whatever_happens() -> None:
    found = {str(path.relative_to(ROOT)): offences(parsed(path)) for path in FILES}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_every_test_checks_something() -> None:
    found = {path: bodies(parsed(path)) for path in FILES}
    checking = functions_that_check([one for of_file in found.values() for one in of_file])
    idle = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, of_file in found.items()
        for node, checks in of_file
        if _is_test(node) and not checks.among(checking)
    ]
    assert not idle


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("with pytest.raises(Exception): f()", any_error),
        ("with pytest.raises((ValueError, Exception)) as caught: f()", any_error),
        ("assert exact(a, b) or apart(a, b) < 1e-5", this_or_that),
        ("assert a and b or c", this_or_that),
        ("assert a and (b or c)", this_or_that),
        ("assert callable(f) if hasattr(m, 'f') else True", this_or_that),
        ("assert f'{x:.3f}'", always_true),
        ("assert (a == b, 'they differ')", always_true),
        ("assert models.same(a, b, 1e9)", any_difference),
        ("assert apart(a, b) < 1e9", any_difference),
        ("try: f()\n    except ValueError: return", swallowed),
        ("try: f()\n    except ValueError:\n        pass", swallowed),
    ],
)
def test_what_lets_a_test_hold_is_found(line: str, rule: Rule) -> None:
    (found,) = offences(ast.parse(f"def test_it():\n    {line}\n"))
    assert found.endswith(rule.__name__)


@pytest.mark.parametrize(
    "line",
    [
        "with pytest.raises(ValueError): f()",
        "assert a and b",
        "assert not (a or b)",
        "assert models.same(a, b, 1e-5) and apart(a, b) < 0.5 < apart(a, c)",
        "assert apart(a, b) > 100",
    ],
)
def test_what_can_fail_is_left_alone(line: str) -> None:
    assert not offences(ast.parse(f"def test_it():\n    {line}\n"))


def test_a_test_that_checks_nothing_is_found() -> None:
    tree = ast.parse("def agree(): assert 1\ndef fine(): agree()\ndef idle(): print(1)")
    assert functions_that_check(bodies(tree)) == {"agree", "fine"}
