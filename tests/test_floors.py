"""The floors: which room may import which, read from the imports themselves.

A room imports rooms below it and never its neighbours; no file imports itself in a circle, neither
when it is imported nor for its types; what `graph`, `rewrite` and `errors` say needs no mlx.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "mlxgraph"
MOST_LINES = 400

FLOORS = {
    "errors": 0,
    "mlx_facts": 0,
    "graph": 1,
    "ranks": 1,
    "evaluate": 2,
    "record": 3,
    "rewrite": 3,
    "run": 3,
    "trace": 4,
    "sweep": 5,
    "plot": 6,
    "store": 6,  # activations on disk
    "analysis": 7,  # methods of a model, on its public face: a Protocol, not the class
    "model": 8,
    "interventions": 9,
    "edits": 9,
    "tiny": 9,
    "facade": 10,
    "cli": 11,
}
NEIGHBOURS = {"record", "rewrite", "run"}
WITHOUT_MLX = {"errors", "graph", "rewrite"}
ONLY = {  # rooms that stand on these alone
    "analysis": {"errors", "plot", "ranks", "store"},
    "plot": {"errors"},
    "store": {"errors"},
}
MAY_PRINT = {"mlxgraph.cli.output", "mlxgraph.tiny.train", "mlxgraph.tiny.evaluate"}
# (who, whom): imports for types alone that may run up or in a circle, each with its reason.
FOR_TYPES: dict[tuple[str, str], str] = {}


def room(module: str) -> str:
    """The room of a dotted module name."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] in ("__main__", "starting"):
        return "cli" if parts[1:] == ["__main__"] else "facade"
    return parts[1]


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package below `root`, by dotted name."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@lru_cache(maxsize=1024)
def parsed(source: str) -> ast.Module:
    """The tree of a file's text.  Many tests read the whole package, and none changes a tree."""
    return ast.parse(source)


def imports(module: str, source: str, known: set[str]) -> Iterator[tuple[str, int, bool]]:
    """`(imported module, line, for types alone)` for each import, wherever it stands."""
    for node, types in _import_statements(source):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node.lineno, types
        else:
            base = _absolute(module, node, known)
            for name in node.names:
                inner = f"{base}.{name.name}"
                yield (inner if inner in known else base), node.lineno, types


@lru_cache(maxsize=1024)
def _import_statements(source: str) -> list[tuple[ast.Import | ast.ImportFrom, bool]]:
    """A file's imports, and whether each is for types alone."""
    todo: list[tuple[ast.AST, bool]] = [(parsed(source), False)]
    found = []
    while todo:
        node, types = todo.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.append((node, types))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += [(child, types) for child in node.orelse]
            todo += [(child, True) for child in node.body]
        else:
            todo += [(child, types) for child in ast.iter_child_nodes(node) if _may_import(child)]
    return found


def _may_import(node: ast.AST) -> bool:
    """An expression holds no statement: left out, as most of a file is."""
    return isinstance(node, ast.stmt | ast.excepthandler | ast.match_case)


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
        own = room(module)
        for name, line, types in imports(module, path.read_text(), set(here)):
            at = f"{path.relative_to(root)}:{line}: {own} imports {name}"
            if name.split(".")[0] in ("mlx", "mlx_lm"):
                if own in WITHOUT_MLX:
                    found.append(at)
            elif name.split(".")[0] == PACKAGE and not (types and (module, name) in FOR_TYPES):
                other = room(name)
                if not {own, other} <= set(FLOORS):
                    found.append(f"{at}, a room without a floor")
                elif FLOORS[other] > FLOORS[own]:
                    found.append(f"{at}, a floor above")
                elif other != own and {other, own} <= NEIGHBOURS:
                    found.append(f"{at}, its neighbour")
                elif other != own and other not in ONLY.get(own, FLOORS):
                    found.append(f"{at}, which it does without")
    return found


def circles(root: Path) -> list[list[str]]:
    """Modules that import each other in a circle, when they are imported or for their types."""
    here = modules(root)
    graph: dict[str, list[str]] = {}
    for module, path in here.items():
        found = imports(module, path.read_text(), set(here))
        graph[module] = [
            name
            for name, _, types in found
            if name in here and name != module and not (types and (module, name) in FOR_TYPES)
        ]
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
        for node in ast.walk(parsed(path.read_text())):
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
        ("trace/bad.py", "from mlxgraph.model.model import InterpretableModel", "a floor above"),
        ("run/bad.py", "if TYPE_CHECKING:\n    import mlxgraph.trace.trace", "a floor above"),
        ("analysis/bad.py", "from mlxgraph.graph.graph import Graph", "does without"),
        ("lobby.py", "from mlxgraph.errors import InputError", "without a floor"),
    ],
)
def test_the_floors_catch_an_offender(tmp_path: Path, file: str, text: str, caught: str) -> None:
    _package(tmp_path, {"run/__init__.py": "", "record/__init__.py": "", file: text})
    (offence,) = offences(tmp_path)
    assert caught in offence and file in offence


def test_the_floors_catch_a_circle_for_types_too(tmp_path: Path) -> None:
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
    back = "from mlxgraph.run.a import A"
    _package(tmp_path, {"run/a.py": "import mlxgraph.run.b"})
    for text in (back, guarded + back, f"def f():\n    {back}"):
        _package(tmp_path, {"run/b.py": text})
        assert circles(tmp_path) == [["mlxgraph.run.a", "mlxgraph.run.b", "mlxgraph.run.a"]]
    _package(tmp_path, {"run/b.py": "import mlxgraph.run.c", "run/c.py": ""})
    assert not circles(tmp_path)


def test_every_exception_is_used_and_has_its_reason() -> None:
    here = modules(ROOT)
    for (module, name), reason in FOR_TYPES.items():
        found = imports(module, here[module].read_text(), set(here))
        assert (name, True) in [(imported, types) for imported, _, types in found], name
        assert len(reason) > 20


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
    done = _import_without_mlx(["mlxgraph.run.engine"])
    assert "mlx is blocked here" in done.stderr


def reaches(root: Path) -> list[str]:
    """Uses of a private attribute of another object, in a room that does not define it."""
    here = {module: parsed(path.read_text()) for module, path in modules(root).items()}
    defined: dict[str, set[str]] = {}
    for module, tree in here.items():
        defined.setdefault(room(module), set()).update(_private_names(tree))
    found = []
    for module, tree in here.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or not node.attr.startswith("_"):
                continue
            its_own = node.attr.startswith("__") or ast.unparse(node.value) in ("self", "cls")
            if not its_own and node.attr not in defined[room(module)] | OF_NAMED_TUPLES:
                found.append(f"{module}:{node.lineno}: {ast.unparse(node)}")
    return found


def _private_names(tree: ast.AST) -> set[str]:
    """Private attributes that a file's classes have: methods, slots, and what is set on self."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)  # slots, and setattr by name
    return {name for name in found if name.startswith("_")}


OF_NAMED_TUPLES = {"_replace", "_fields", "_asdict"}
OF_OTHERS = {"sys._getframe", "os._exit", "_backends._type2backend"}  # Python's, einops' registry


def test_no_room_reaches_into_anothers_objects() -> None:
    assert [at for at in reaches(ROOT) if at.split(": ")[1] not in OF_OTHERS] == []


def test_the_floors_catch_a_reach(tmp_path: Path) -> None:
    _package(tmp_path, {"record/a.py": "class A:\n    def __init__(self):\n        self._x = 1"})
    _package(tmp_path, {"record/b.py": "def f(a):\n    return a._x"})
    assert not reaches(tmp_path)
    _package(tmp_path, {"trace/b.py": "def f(a):\n    return a._x"})
    assert reaches(tmp_path) == ["mlxgraph.trace.b:2: a._x"]
