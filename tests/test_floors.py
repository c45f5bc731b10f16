"""The floors: which room may import which, read from the imports themselves.

Errors are at the bottom; `graph` stands on them; `record`, `rewrite` and `run` stand on `graph` and
never on each other; the lobby joins them; everything else is written on the lobby.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "mlxgraph"
MOST_LINES = 400

FLOORS = {
    "errors": 0,
    "mlx_facts": 0,
    "graph": 1,
    "analysis": 1,
    "plot": 1,
    "record": 2,
    "rewrite": 2,
    "run": 2,
    "trace": 3,
    "model": 3,
    "lobby": 3,
    "interventions": 4,
    "tiny": 4,
    "facade": 5,
    "cli": 6,
}
NEIGHBOURS = {"record", "rewrite", "run"}
WITHOUT_MLX = {"errors", "graph", "rewrite"}
MAY_PRINT = {"mlxgraph.cli", "mlxgraph.tiny.train", "mlxgraph.tiny.evaluate"}


def room(module: str) -> str:
    """The room of a dotted module name; top-level files without a floor of their own are lobby."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] == "__main__":
        return "facade" if len(parts) == 1 else "cli"
    return parts[1] if parts[1] in FLOORS else "lobby"


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package below `root`, by dotted name."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, tree: ast.AST, known: set[str]) -> Iterator[tuple[str, int, bool]]:
    """`(imported module, line, at import time)` for each import but those for type checkers."""
    todo: list[tuple[ast.AST, bool]] = [(tree, True)]
    while todo:
        node, now = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += [(child, now) for child in node.orelse]
            continue
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node.lineno, now
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node, known)
            for name in node.names:
                inner = f"{base}.{name.name}"
                yield (inner if inner in known else base), node.lineno, now
        later = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        todo += [(child, now and not later) for child in ast.iter_child_nodes(node)]


def _absolute(module: str, node: ast.ImportFrom, known: set[str]) -> str:
    if not node.level:
        return node.module or ""
    is_package = any(name.startswith(module + ".") for name in known)
    parts = module.split(".")
    base = parts[: len(parts) - node.level + is_package]
    return ".".join([*base, *([node.module] if node.module else [])])


def offences(root: Path) -> list[str]:
    """Every import that climbs, crosses to a neighbour, or brings mlx where it may not be."""
    found = []
    here = modules(root)
    for module, path in here.items():
        floor = FLOORS[room(module)]
        for name, line, _ in imports(module, ast.parse(path.read_text()), set(here)):
            at = f"{path.relative_to(root)}:{line}: {room(module)} imports {name}"
            if name.split(".")[0] in ("mlx", "mlx_lm"):
                if room(module) in WITHOUT_MLX:
                    found.append(at)
            elif name.split(".")[0] == PACKAGE:
                other = room(name)
                if FLOORS[other] > floor:
                    found.append(f"{at}, a floor above")
                elif other != room(module) and {other, room(module)} <= NEIGHBOURS:
                    found.append(f"{at}, its neighbour")
    return found


def circles(root: Path) -> list[list[str]]:
    """Modules that import each other in a circle when they are imported."""
    here = modules(root)
    graph: dict[str, list[str]] = {}
    for module, path in here.items():
        found = imports(module, ast.parse(path.read_text()), set(here))
        graph[module] = [name for name, _, now in found if now and name in here and name != module]
    state: dict[str, int] = {}
    out: list[list[str]] = []

    def visit(module: str, trail: list[str]) -> None:
        if state.get(module) == 2:
            return
        if state.get(module) == 1:
            out.append([*trail[trail.index(module) :], module])
            return
        state[module] = 1
        for name in graph[module]:
            visit(name, [*trail, module])
        state[module] = 2

    for module in graph:
        visit(module, [])
    return out


def prints(root: Path) -> list[str]:
    """Calls of print() in library code."""
    found = []
    for module, path in modules(root).items():
        if module in MAY_PRINT:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                found.append(f"{path.relative_to(root)}:{node.lineno}")
    return found


def too_long(root: Path) -> list[str]:
    """Files past the limit."""
    lengths = {path: len(path.read_text().splitlines()) for path in modules(root).values()}
    return [f"{p.relative_to(root)}: {n} lines" for p, n in lengths.items() if n > MOST_LINES]


def test_imports_only_go_down() -> None:
    assert not offences(ROOT)


def test_no_module_imports_itself_in_a_circle() -> None:
    assert not circles(ROOT)


def test_library_code_never_prints() -> None:
    assert not prints(ROOT)


def test_no_file_holds_two_rooms_of_lines() -> None:
    assert not too_long(ROOT)


@pytest.mark.parametrize(
    ("file", "text", "caught"),
    [
        ("graph/bad.py", "from mlxgraph.model.model import InterpretableModel", "a floor above"),
        ("graph/bad.py", "def f():\n    import mlx.core as mx", "graph imports mlx.core"),
        ("graph/bad.py", "from ..record import proxy", "a floor above"),
        ("rewrite/bad.py", "from mlxgraph.run.plan import Plan", "its neighbour"),
        ("record/bad.py", "from mlxgraph import run", "its neighbour"),
        ("run/bad.py", "import mlxgraph", "a floor above"),
        ("errors/bad.py", "from mlxgraph.graph.site import Site", "a floor above"),
        ("model/bad.py", "from mlxgraph.interventions import scale", "a floor above"),
    ],
)
def test_the_floors_catch_an_offender(tmp_path: Path, file: str, text: str, caught: str) -> None:
    _package(tmp_path, {"run/__init__.py": "", "record/__init__.py": "", file: text})
    (offence,) = offences(tmp_path)
    assert caught in offence and file in offence


def test_the_floors_catch_a_circle_and_let_type_checking_pass(tmp_path: Path) -> None:
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
    back = "from mlxgraph.run.a import A"
    _package(tmp_path, {"run/a.py": "import mlxgraph.run.b", "run/b.py": back})
    assert circles(tmp_path) == [["mlxgraph.run.a", "mlxgraph.run.b", "mlxgraph.run.a"]]
    _package(tmp_path, {"run/b.py": guarded + back})
    assert not circles(tmp_path)


def test_the_floors_catch_print_and_length(tmp_path: Path) -> None:
    _package(tmp_path, {"edits.py": "print(1)\n" + "x = 1\n" * MOST_LINES})
    assert prints(tmp_path) == ["mlxgraph/edits.py:1"]
    assert too_long(tmp_path) == [f"mlxgraph/edits.py: {MOST_LINES + 1} lines"]


def _package(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


WITHOUT = """
import importlib, sys, types

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mlx", "mlx_lm"):
            raise ImportError("mlx is blocked here")

sys.meta_path.insert(0, Block())
root = types.ModuleType("mlxgraph")   # the real __init__ joins all rooms, and so needs mlx
root.__path__ = [sys.argv[1]]
sys.modules["mlxgraph"] = root
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


def _import_without_mlx(names: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, str(ROOT / PACKAGE), *names]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_graph_and_rewrite_load_where_there_is_no_mlx() -> None:
    names = [name for name in modules(ROOT) if room(name) in WITHOUT_MLX]
    assert len(names) > 5
    done = _import_without_mlx(names)
    assert done.returncode == 0, done.stderr


def test_the_block_on_mlx_is_real() -> None:
    done = _import_without_mlx(["mlxgraph.run.ops"])
    assert "mlx is blocked here" in done.stderr
