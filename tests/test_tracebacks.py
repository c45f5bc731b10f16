"""The user's line is the last frame of a deliberate error, in scripts, shells and notebooks."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback

import mlx.core as mx
import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import MLXGraphError

TOKENS = [1, 2, 3]


def divide(x):
    return 1 / 0


def in_a_block(model, use):
    with model.trace(TOKENS):
        use(model)


def in_an_invoke(model):
    with model.trace() as t:
        with t.invoke(TOKENS):
            model.layers[0].output[99]


def in_an_edit(model):
    with model.edit():
        model.layers[0].output[99]


def late(model):
    model.layers[0].output = model.layers[1].output * 2


def dead(model):
    with model.trace(TOKENS):
        h = model.layers[0].output
    return h


WRONG = {
    "an index": lambda m: in_a_block(m, lambda m: m.layers[0].output[99]),
    "a shape": lambda m: in_a_block(m, lambda m: m.layers[0].output @ mx.ones((5, 5))),
    "an order": lambda m: in_a_block(m, late),
    "a name in a block": lambda m: in_a_block(m, lambda m: m.layers[0].mpl),
    "a layer in a block": lambda m: in_a_block(m, lambda m: m.layers[9]),
    "an invoke": in_an_invoke,
    "an edit block": in_an_edit,
    "a layer": lambda m: m.layers[9],
    "a method": lambda m: m.logit_lense,
    "a name": lambda m: m["layers.1.mpl"],
    "an input": lambda m: m.trace(5),
    "a keyword": lambda m: m.trace(TOKENS, scan=True),
    "a run": lambda m: m.run(mg.edit("layers.9", iv.zero_out), TOKENS),
    "a pass": lambda m: m.compile(mg.Graph())(5),
    "a param": lambda m: m.run(mg.edit("layers.1", iv.scale(mg.param("a"))), TOKENS),
    "an intervention": lambda m: iv.clamp(),
    "a failing one": lambda m: m.run(mg.edit("layers.1", divide), TOKENS),
    "an edit": lambda m: mg.edit("layers.1", 5),
    "a graph": lambda m: mg.chain(5),
    "an analysis": lambda m: m.logit_lens(TOKENS, layers=[9]),
    "a collector to a folder": lambda m: mg.get_activations(m, TOKENS, [0], "first", to="acts"),
    "a store": lambda m: mg.ActivationStore("nowhere"),
    "a collector": lambda m: mg.collect_activations(m, TOKENS, layers=["layers.9"]),
    "outside": lambda m: m.layers[0].output,
    "a dead handle": lambda m: dead(m) + 1,
    "a dead handle's method": lambda m: dead(m).mean(),
    "a dead handle's part": lambda m: dead(m)[0],
    "a folder": lambda m: mg.InterpretableModel("/no/such/folder"),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_users_line_is_the_last_frame(tied, name):
    with pytest.raises(MLXGraphError) as caught:
        WRONG[name](tied)
    assert {entry.filename for entry in traceback.extract_tb(caught.tb)} == {__file__}
    assert len(traceback.format_exception(caught.value)) < 20


def test_of_a_cause_the_users_frames_stay(tied):
    with pytest.raises(MLXGraphError) as caught:
        tied.run(mg.edit("layers.1", divide), TOKENS)
    (entry,) = traceback.extract_tb(caught.value.__cause__.__traceback__)
    assert entry.name == "divide"


def test_an_error_of_the_users_is_left_alone(tied):
    with pytest.raises(ZeroDivisionError) as caught, tied.trace(TOKENS):
        mg.apply(divide, tied.layers[0].output)
    assert len(traceback.extract_tb(caught.tb)) > 3


def test_all_frames_are_there_where_they_are_asked_for(tied, monkeypatch):
    monkeypatch.setenv("MLXGRAPH_TRACEBACK", "full")
    for name in ("an index", "a run", "a dead handle", "outside"):
        with pytest.raises(MLXGraphError) as caught:
            WRONG[name](tied)
        files = [entry.filename for entry in traceback.extract_tb(caught.tb)]
        assert len(files) > 3 and "mlxgraph" in files[-1]


SCRIPT = """
import mlxgraph as mg
model = mg.tiny()
with model.trace("The capital of France is"):
    model.layers[0].output[99] = 0
"""


def test_in_a_terminal(tmp_path):
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, env=env)
    shown = done.stderr.splitlines()
    (frame,) = [line for line in shown if line.strip().startswith("File")]
    assert "script.py" in frame and "line 5" in frame and len(shown) < 10


def test_in_a_notebook_a_line_is_a_cells(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    first = "import mlxgraph as mg\nmodel = mg.tiny()"
    second = "# ours\nx = [1]\nwith model.trace(x):\n    h = model.layers[0].output\n    h[:, 99]"
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(first), nbformat.v4.new_code_cell(second)]
    )
    with pytest.raises(CellExecutionError) as caught:
        NotebookClient(book, timeout=120, kernel_name="python3").execute()
    shown = str(caught.value)
    assert "notebook cell 2, line 5" in shown, shown
    assert "mlxgraph/" not in shown and "site-packages" not in shown


CELLS = {  # what a cell holds, and where it is wrong
    "%%time\nwith model.trace([1]):\n    h = model.layers[0].output\n    h[:, 99]": "line 4",
    "%%timeit -n1 -r1\nx = 1\nmodel.layers[99]": "line 3",
    "%%time\ndef within():\n    model.layers[99]\nx = within()": "line 3",
    "%%time\n[model.layers[k] for k in (1, 99)]": "line 2",
    "x = 1\n%time model.layers[99]": "line 2",
    "x = 1\nx = 2\n%timeit -n1 -r1 model.layers[99]": "line 3",
    "x = 1\nexec('1\\nmodel.layers[99]')": "line 2",
}


@pytest.mark.parametrize("cell", CELLS)
def test_what_a_cell_runs_as_a_text_is_the_cells(shell, cell):
    shell.run_cell("x = 1")  # the first
    error = shell.run_cell(cell, store_history=True).error_in_exec
    (place,) = [line for line in str(error).splitlines() if line.startswith("  at ")]
    assert place.endswith(f"notebook cell 1, {CELLS[cell]}")
    assert ("<string>:2, in" in place) == ("exec" in cell), "a text of one's own has lines as well"


def test_a_function_of_an_earlier_cell_is_not_its_callers(shell):
    shell.run_cell("%%time\ndef earlier():\n    model.layers[99]", store_history=True)
    error = shell.run_cell("earlier()", store_history=True).error_in_exec
    assert "at <timed exec>:2" in str(error) and "notebook" not in str(error)


@pytest.fixture
def shell(tied, capsys):
    """An IPython of its own, which every later test is rid of."""
    interactive = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell
    config = pytest.importorskip("traitlets.config").Config()
    config.HistoryManager.enabled = False
    shell = interactive.instance(config=config)
    shell.user_ns["model"] = tied
    yield shell
    shell.restore_sys_module_state()
    interactive.clear_instance()
