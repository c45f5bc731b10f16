"""How the room is built: no circle of files, and no name of an operation outside the table."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxgraph.graph import ops

ROOT = Path(__file__).parents[2] / "mlxgraph"
# The rooms that deal in nodes, and read operations' names from the table.
ROOMS = ("graph", "rewrite", "evaluate", "record", "run", "trace", "model")
NAMES = {*ops.OPERATIONS, *ops.SOURCES, ops.CALL, ops.GRAD}
# (file, text): texts that are spelt as an operation is and mean something else.
ELSEWHERE = {
    ("graph/file/encode.py", "param"): "a tag of the file format",
    ("graph/file/decode.py", "param"): "a tag of the file format",
    ("graph/algebra.py", "param"): "what an error calls it",
    ("record/param.py", "param"): "what an error calls it",
    ("record/param.py", "item"): "what an error calls it",
}


def files(room: str) -> list[Path]:
    """The files of a room."""
    return sorted((ROOT / room).rglob("*.py"))


def texts(tree: ast.Module) -> Iterator[ast.Constant]:
    """The texts in a module, but for its docstrings and the names of attributes in `__slots__`."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    left: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr):
            left.add(id(node.body[0].value))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__":
            left.update(map(id, ast.walk(node.value)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and type(node.value) is str and id(node) not in left:
            yield node


def spelt_out(source: str) -> list[tuple[str, int]]:
    """The operations' names in a module, and the lines they stand on."""
    return [(text.value, text.lineno) for text in texts(ast.parse(source)) if text.value in NAMES]


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.thin(3)
def test_names_of_operations_stand_in_the_table_alone(room):
    found = []
    for path in files(room):
        file = path.relative_to(ROOT).as_posix()
        if file != "graph/ops.py":
            found += [
                f"{file}:{line} {name!r}"
                for name, line in spelt_out(path.read_text())
                if (file, name) not in ELSEWHERE
            ]
    assert not found, "\n".join(found)


def test_a_name_that_is_spelt_out_is_found():
    """The control; and every exception is still one."""
    source = '"""update"""\nNode("update", (x,))\nplus = "mx.add"'
    assert sorted(spelt_out(source)) == [("mx.add", 3), ("update", 2)]
    for file, name in ELSEWHERE:
        assert name in dict(spelt_out((ROOT / file).read_text())), (file, name)


def imported(path: Path) -> set[Path]:
    """The files of the package that a file imports, at whatever time, for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlxgraph"):
            base = ROOT.joinpath(*node.module.split(".")[1:])
            for name in node.names:
                inner = (base / f"{name.name}.py", base / name.name / "__init__.py")
                own = (base.with_suffix(".py"), base / "__init__.py")
                found.update([next(p for p in (*inner, *own) if p.exists())])
    return found


def circles(arrows: dict[Path, set[Path]]) -> list[Path]:
    """The files that lie on a circle, or lead to one."""
    left = dict(arrows)
    while ready := [path for path, below in left.items() if not below & left.keys()]:
        for path in ready:
            del left[path]
    return sorted(left)


@pytest.mark.parametrize("room", ["graph", "rewrite"])
def test_no_file_of_the_room_leads_back_to_itself(room):
    assert not circles({path: imported(path) for path in files(room)})


def test_a_circle_is_found():
    a, b, c = Path("a"), Path("b"), Path("c")
    assert circles({a: {b}, b: {c}, c: {b}}) == [a, b, c]
    assert circles({a: {b}, b: {c}, c: set()}) == []
