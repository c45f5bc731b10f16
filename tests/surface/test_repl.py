"""What a shell shows and completes: the tree, names, interventions, and types."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from tests import typed_example
from tests.models import make_llama


def test_the_typed_example_runs():
    found = typed_example.main()
    assert set(found) == {"layer_0"}, "and so to its end"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pyright") is None, reason="there is no pyright on the PATH")
def test_pyright_sees_the_same_types(tmp_path):
    page, root = Path(typed_example.__file__), Path(mg.__file__).parents[1]
    shutil.copy(page, tmp_path / "page.py")
    settings = {"typeCheckingMode": "standard", "extraPaths": [str(root)], "include": ["page.py"]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = ["pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] == 1
    assert [problem["message"] for problem in found["generalDiagnostics"]] == []


def test_printing_a_model_shows_its_tree(tied):
    shown = str(tied)
    first, *lines = shown.split("\n")
    total = sum(array.size for array in tied.parameters().values())
    assert first == f"InterpretableModel(Model): {total:,} parameters"
    assert repr(tied) == "InterpretableModel(Model)"
    assert "edits: none" in lines and "  __model_output__" in lines
    names = [line.split()[0] for line in lines if line.startswith("  model")]
    assert "model.layers.[0-2].mlp.up_proj" in names
    assert {path for name in names for path in tied.sites(name)} == {
        path for path, _ in tied.named_modules() if path
    }, "every module has a line, by a name that every call takes"


def test_layers_that_differ_have_lines_of_their_own():
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)]

    shown = str(mg.InterpretableModel(Stack()))
    for name in ("layers.[0-1] ", "layers.2 ", "layers.3 "):
        assert name in shown


def test_printing_shows_edits_and_counts_quantised_weights():
    module = make_llama(False)
    before = str(mg.InterpretableModel(module)).split("\n")[0]
    nn.quantize(module, group_size=32, bits=4)
    model = mg.InterpretableModel(module).edit(mg.edit("layers.*.mlp", iv.scale(0.5)))
    assert str(model).split("\n")[0] == before and "QuantizedLinear" in str(model)
    assert "edit layers.*.mlp.output with scale(0.5)" in str(model)


def test_completion_in_brackets(tied, tokens):
    names = tied._ipython_key_completions_()
    assert {"layers.1.mlp", "model.layers.1.mlp", "__model_output__"} <= set(names)
    assert all(tied.sites(name) for name in names)
    with tied.trace(tokens) as t:
        tied.output.save("logits")
    found = t.activations._ipython_key_completions_()
    assert {"layers.1.mlp", "model.model.layers.1.mlp"} <= set(found)
    assert all(name in t.activations for name in found)
    assert tied.run(t.graph, tokens)._ipython_key_completions_() == ["logits"]
    cache = mg.collect_activations(tied, tokens, layers=["layers.1"])
    assert cache._ipython_key_completions_() == ["layers.1"]
    assert tied.layers._ipython_key_completions_() == ["0", "1", "2"]
    assert tied.layers["1"].path == tied.layers[1].path


def test_completion_after_a_dot(tied, tokens):
    assert {"mlp", "attn", "self_attn", "output", "input"} <= set(dir(tied.layers[1]))
    assert {"model", "layers", "trace"} <= set(dir(tied))
    with tied.trace(tokens) as t:
        assert {"model", "layers", "stop", "saved_values"} <= set(dir(t))


def test_the_interventions_module_shows_interventions_alone():
    assert dir(iv) == sorted(dir(iv)) and "scale" in dir(iv)
    assert all(callable(getattr(iv, name)) and not name[0].isupper() for name in dir(iv))


SETUP = """
with model.trace([[1, 2, 3]]) as trace:
    cache = trace.cache("layers.*")
    model.output.save("kept")
acts, layer, result = trace.activations, model.layers[1], model.run(trace, [[1, 2, 3]])
"""
COMPLETED = {  # what is typed: something offered, and how much the shell must be allowed
    'model["layers.1.ml': ("layers.1.mlp", "limited"),
    'acts["model.layers.1.': ("model.layers.1.mlp", "limited"),
    'result["': ("kept", "limited"),
    'trace.saved_values["ke': ("kept", "unsafe"),
    'cache["': ("layers.1", "limited"),
    "model.logit": ("logit_lens", "limited"),
    "layer.ml": ("mlp", "limited"),
    "iv.sc": ("scale", "limited"),
    'trace.activations["model.layers.1.': ("model.layers.1.mlp", "unsafe"),
    "model.layers[1].ml": ("mlp", "unsafe"),
    "trace.layers[1].ml": ("mlp", "unsafe"),
    'trace.get("model.layers.1.': ("model.layers.1.mlp", None),
}


@pytest.mark.parametrize("typed", COMPLETED)
@pytest.mark.parametrize("allowed", ["limited", "unsafe"])
def test_ipython_completes(tied, typed, allowed, tmp_path, monkeypatch):
    completer = pytest.importorskip("IPython.core.completer")
    monkeypatch.chdir(tmp_path)  # file names are offered as well
    names = {"model": tied, "iv": iv}
    exec(SETUP, names)
    shell = completer.IPCompleter(namespace=names, use_jedi=False)
    shell.evaluation = allowed
    with completer.provisionalcompleter():
        offered = {c.text for c in shell.completions(typed, len(typed))}
    wanted, needed = COMPLETED[typed]
    assert any(wanted in text for text in offered) == (needed in ("limited", allowed))


def test_completion_offers_interventions_alone():
    completer = pytest.importorskip("IPython.core.completer")
    shell = completer.IPCompleter(namespace={"iv": iv}, use_jedi=False)
    with completer.provisionalcompleter():
        assert not any(".mx" in c.text for c in shell.completions("iv.", 3))
