"""What is believed of MLX is written down in `mlx_facts/`, and the other rooms ask there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest

PACKAGE = Path(__file__).parents[2] / "mlxgraph"

WORDS = ("without a primitive", "graph transformation", "function transformations", "eval]")
MLX = {"mx", "nn", "mlx", "ARRAY", "_ARRAY"}  # what MLX's modules and its array are called
ATTRIBUTES = {
    "async_eval": "probes",
    "left_padding": "batch_caches",
    "default_stream": "compiling.stream_name",
}


def beliefs(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """`(line, what)` for each place in a file that leans on what MLX does not promise."""
    docstrings = {id(text) for node in ast.walk(tree) if (text := _docstring(node)) is not None}
    for node in ast.walk(tree):
        found = None if id(node) in docstrings else _belief(node)
        if found:
            yield node.lineno, found  # type: ignore[attr-defined]
    for node in getattr(tree, "body", []):
        match node:
            case ast.Assign(value=ast.Attribute(ast.Name("mx"), name)) if callable(
                getattr(mx, name, None)
            ):
                yield node.lineno, f"mx.{name} under another name (originals)"


def _docstring(node: ast.AST) -> ast.AST | None:
    body = getattr(node, "body", None)
    first = body[0] if isinstance(body, list) and body else None
    return first.value if isinstance(first, ast.Expr) else None


def _belief(node: ast.AST) -> str | None:
    match node:
        case ast.Constant(value=str(text)) if any(words in text for words in WORDS):
            return "the words of an error of MLX's (probes)"
        case ast.Compare(ops=[ast.In() | ast.NotIn()], comparators=[ast.Call(ast.Name("str"))]):
            return "an error told by its words (probes)"
        case ast.Attribute(attr=name) if name in ATTRIBUTES:
            return f"{name} ({ATTRIBUTES[name]})"
        case ast.Attribute(ast.Attribute(attr="random"), "state"):
            return "the random state (random_state)"
        case ast.Call(ast.Name("type"), [argument]) if _of_mlx(argument):
            return "a type told from one of MLX's values (functions)"
        case ast.Call(ast.Name("getattr" | "vars" | "dir"), [ast.Name("mx" | "nn"), *_]):
            return "a name looked up in MLX (dtypes, functions, originals)"
        case ast.Call(ast.Name("isinstance"), [_, ast.Attribute(ast.Name("mx"), "Dtype")]):
            return "a search for dtypes (dtypes)"
        case ast.Call(ast.Attribute(_, "__copy__")):
            return "__copy__ (arrays.same_data)"
        case ast.Attribute(ast.Name("dict"), "__setitem__"):
            return "dict.__setitem__ (modules.enter)"
        case ast.Attribute(owner, "__setitem__") if _of_mlx(owner):
            return "__setitem__ of MLX's array (arrays.fill)"
        case ast.Assign([ast.Attribute(attr="__class__"), *_]):
            return "an exchanged class (arrays.wear, modules.wear)"
    return None


def _of_mlx(node: ast.AST) -> bool:
    """Whether an expression is a part of MLX, or what a part of it makes."""
    while isinstance(node, (ast.Attribute, ast.Call)):
        node = node.value if isinstance(node, ast.Attribute) else node.func
    return isinstance(node, ast.Name) and node.id in MLX


def room(path: Path) -> str:
    """The folder of a file of the package, or the file itself at the top."""
    return path.relative_to(PACKAGE).parts[0]


def found_in(rooms: set[str]) -> list[str]:
    """Every belief in these rooms, with its place."""
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if room(path) in rooms]
    return [
        f"{path.relative_to(PACKAGE)}:{line}: {what}"
        for path in files
        for line, what in sorted(set(beliefs(ast.parse(path.read_text()))))
    ]


def test_no_room_but_this_one_leans_on_what_mlx_does_not_promise() -> None:
    rooms = {room(path) for path in PACKAGE.rglob("*.py")} - {"mlx_facts"}
    assert len(rooms) > 5
    assert not found_in(rooms)


def test_this_room_is_where_they_are() -> None:
    assert len(found_in({"mlx_facts"})) > 15


@pytest.mark.parametrize(
    ("code", "caught"),
    [
        ("if 'without a primitive' in text: pass", "the words"),
        ("raise ValueError('[eval] of mine')", "the words"),
        ("ok = 'shape' in str(error)", "told by its words"),
        ("ok = 'shape' not in str(error)", "told by its words"),
        ("mx.async_eval(x)", "async_eval"),
        ("key = mx.random.state[0]", "random state"),
        ("NATIVE = type(mx.mean)", "a type"),
        ("COMPILED = type(mx.compile(abs))", "a type"),
        ("dtype = getattr(mx, name)", "a name"),
        ("names = dict(vars(nn))", "a name"),
        ("ok = isinstance(d, mx.Dtype)", "dtypes"),
        ("y = x.__copy__()", "__copy__"),
        ("dict.__setitem__(m, 'k', 1)", "dict.__setitem__"),
        ("mx.array.__setitem__(x, ..., y)", "__setitem__"),
        ("x.__class__ = Saved", "class"),
        ("_compile = mx.compile", "mx.compile under another name"),
        ("cache.left_padding = padding", "left_padding"),
        ("s = repr(mx.default_stream(mx.default_device()))", "default_stream"),
    ],
)
def test_a_belief_elsewhere_is_caught(code: str, caught: str) -> None:
    (found,) = {what for _, what in beliefs(ast.parse(code))}
    assert caught in found


@pytest.mark.parametrize(
    "code",
    [
        "'''Says without a primitive.'''\nx = mx.zeros((2,))",
        "def f(x):\n    '''A graph transformation.'''\n    return mx.mean(x)",
        "y = copy.copy(x)",
        "class A:\n    def __copy__(self): return self",
        "kind = type(value)",
        "ok = isinstance(x, mx.array)",
        "mx.random.seed(0)",
        "DTYPE = mx.float32",
        "def f():\n    norm = mx.fast.rms_norm\n    return norm",
    ],
)
def test_what_mlx_documents_is_anybodys(code: str) -> None:
    assert not list(beliefs(ast.parse(code)))
