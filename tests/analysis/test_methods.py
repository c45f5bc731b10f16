"""The analyses are methods that a type checker sees, and stand on the model's public face alone."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlxgraph as mg
from mlxgraph.analysis.traceable import (
    Benchmarked,
    CompiledLike,
    LayersLike,
    ModuleLike,
    Traceable,
    TraceLike,
)

ROOT = Path(mg.__file__).parent
METHODS = ["get_token_predictions", "logit_lens", "activation_patching"]

# A room's files may import these of mlxgraph, and these libraries.  An import for type checkers
# alone counts: whoever reads the file has to know what it names.
ALLOWED = {
    "analysis": (
        {"analysis", "errors", "plot", "ranks", "store"},
        {"mlx", "numpy", "pandas", "tqdm", "xarray"},
    ),
    "plot": ({"plot", "errors"}, {"numpy", "matplotlib", "IPython"}),
}
COMMANDS = sorted((ROOT / "cli").glob("*.py"))
FACE_ONLY = [*sorted((ROOT / "analysis").glob("*.py")), *sorted((ROOT / "plot").glob("*.py"))]


@pytest.mark.parametrize("name", METHODS)
def test_an_analysis_is_named_in_the_class_body(name):
    method = vars(mg.InterpretableModel)[name]
    assert inspect.isfunction(method) and method.__module__.startswith("mlxgraph.analysis.")
    page = ast.parse(Path(inspect.getfile(mg.InterpretableModel)).read_text())
    (model,) = [n for n in page.body if _is_class(n)]
    targets = [t for n in model.body if isinstance(n, ast.Assign) for t in n.targets]
    named = [name.id for t in targets for name in ast.walk(t) if isinstance(name, ast.Name)]
    assert name in named


def _is_class(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and node.name == "InterpretableModel"


@pytest.mark.parametrize(
    "face", [Traceable, TraceLike, ModuleLike, LayersLike, Benchmarked, CompiledLike]
)
def test_the_protocols_name_what_is_there(face, chain, x):
    with chain.trace(x) as trace:
        pass
    real = {
        Traceable: chain,
        TraceLike: trace,
        ModuleLike: chain["layers.0"],
        LayersLike: chain.layers,
        Benchmarked: chain,
        CompiledLike: chain.compile(mg.Graph()),
    }[face]
    members = [n for n in vars(face) if not n.startswith("_")]
    members += [n for n in ("__len__", "__getitem__") if n in vars(face)]
    assert members
    for name in members:
        assert name in {*dir(real), *dir(type(real))}, f"{face.__name__}.{name}"


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_of_analyses_imports_nothing_but_what_is_allowed(room):
    found = [
        f"{path.relative_to(ROOT)}:{at}"
        for path in sorted((ROOT / room).glob("*.py"))
        for at in strangers(path.read_text(), room)
    ]
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "from mlxgraph.model.model import InterpretableModel",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mlxgraph.trace import trace",
        "def late():\n    from mlxgraph import record",
        "import mlxgraph",
        "from ..graph import node",
        "import mlx_lm",
    ],
)
def test_an_import_that_is_not_allowed_is_found(line):
    assert len(strangers(line, "analysis")) == 1
    assert not strangers(
        "from mlxgraph.errors import InputError\nimport mlx.core as mx", "analysis"
    )


def strangers(source: str, room: str) -> list[str]:
    """Imports beyond the room's own, whether at the top, in a function or for type checkers."""
    rooms, libraries = ALLOWED[room]
    allowed = {f"mlxgraph.{name}" for name in rooms} | libraries | sys.stdlib_module_names
    return [
        f"{line}: {name}"
        for name, line in _imported(ast.parse(source))
        if not any(name == good or name.startswith(f"{good}.") for good in allowed)
    ]


def _imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                yield (f"{base}.{alias.name}" if base == "mlxgraph" else base), node.lineno


def test_no_underscore_of_another_object_is_touched():
    for path in (*FACE_ONLY, *COMMANDS):
        assert not underscores(path.read_text()), path.stem


@pytest.mark.parametrize(
    "line",
    ["model._runner", "with model.trace(x) as t:\n    t._again", "getattr(type(h), '_is_handle')"],
)
def test_an_underscore_of_another_object_is_found(line):
    assert len(underscores(line)) == 1
    assert not underscores("class A:\n    def f(self):\n        return self._own, _helper()")


def underscores(source: str) -> list[str]:
    """Private attributes of anything but `self`, spelt out or as a string for `getattr`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and _private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id == "self"):
                found.append(f"{node.lineno}: {node.attr}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if _private(node.value) and node.value.isidentifier():
                found.append(f"{node.lineno}: {node.value!r}")
    return found


def _private(name: str) -> bool:
    public = name in ("_", "_replace")  # of named tuples
    return name.startswith("_") and not name.endswith("__") and not public


CHECKED = """
import mlxgraph as mg

model = mg.tiny()
reveal_type(model.logit_lens("text"))
reveal_type(model.activation_patching("clean", "corrupted"))
reveal_type(model.get_token_predictions)
mg.get_activations(model, ["text"])
model.logit_lens("text", topk=2)
"""


@pytest.mark.slow  # half a minute where mypy has no cache
def test_a_type_checker_sees_the_methods(tmp_path):
    pytest.importorskip("mypy")
    page = tmp_path / "page.py"
    page.write_text(CHECKED)
    config = ROOT.parent / "pyproject.toml"
    options = ["--config-file", str(config), "--cache-dir", str(tmp_path / "cache")]
    command = [sys.executable, "-m", "mypy", *options, str(page)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent, timeout=300)
    lens, recovery, predictions, mistake = [
        line for line in done.stdout.splitlines() if "Revealed" in line or ": error:" in line
    ]
    assert '"mlxgraph.analysis.lens_result.Lens"' in lens
    assert '"mlxgraph.analysis.recovery.Recovery"' in recovery
    assert '"def (hidden_state:' in predictions
    assert "topk" in mistake
