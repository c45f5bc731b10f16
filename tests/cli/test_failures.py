"""Whatever goes wrong is one line that says what to write, and an exit status."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.cli import arguments, output
from mlxgraph.sweep import pace
from mlxgraph.sweep.schedule import Schedule
from mlxgraph.trace.generation import Generation
from tests.cli.conftest import Run
from tests.cli.test_commands import FRANCE, ITALY, PAIR

LONGER = "The Big Ben is located in"
LENS = ["lens", "tiny", FRANCE]
USAGE = [
    (["lense"], "Did you mean lens?"),
    (["lens", "tiny"], 'Write: mlxgraph lens tiny "The capital of France is"'),
    ([*LENS, "too many"], "a text with spaces goes in quotes"),
    ([*LENS, "--layer", "2"], "did you mean --layers?"),
    ([*LENS, "--layers", "5-2"], "write 2-5"),
    ([*LENS, "--layers", "9"], "--layers 0-3,-1"),
    ([*LENS, "--positions", "17"], "--positions 0-3,-1"),
    ([*LENS, "--color", "rank"], '--color rank --token " Paris"'),
    ([*LENS, "--token", "Paris is"], "id:42"),
    ([*LENS, "--out", "map.bmp"], "--out map.png"),
    ([*LENS, "--out", "nowhere/at/all/map.png"], "--out map.png"),
    ([*LENS, "--edit", "layers.2.mlp scales 2"], '--edit "layers.5.mlp scale 0.5"'),
    ([*LENS, "--edit", "layers.2.mlp scale"], "takes 1 numbers"),
    ([*LENS, "--edit", "layers.2.mlp zero_out positions=4 positions=5"], "write positions=4,5"),
    ([*LENS, "--edit", "layers.2.attn zero_out heads=8"], "from -8 to 7"),
    ([*LENS, "--layers", "0--1"], "counts from both ends"),
    ([*LENS, "--layers", "0-99999999"], "more than"),
    ([*LENS, "--edit", "layers.2.mpl scale 2"], "Did you mean 'model.layers.2.mlp'"),
    ([*LENS, "--chat"], "Leave --chat out"),
    (["patch", *PAIR[:-1]], "--targets: expected 2 arguments"),
    (["patch", *PAIR[:-2], " Paris is", " Rome"], "id:42"),
    (["patch", "tiny", FRANCE, LONGER], "--align start or --align end"),
    (["patch", *PAIR, "--metric", "kl"], "Leave --metric kl out"),
    (["patch", *PAIR, "--component", "mpl"], "Did you mean 'mlp'?"),
    (["patch", *PAIR, "--component", "mlp", "--heads", "1"], "Leave the heads out"),
    (["patch", "tiny", "-", "-"], "one of them as an argument"),
    (["attribute", "tiny", FRANCE, "--exact"], "--exact is of two prompts"),
    (["attribute", *PAIR, "--graddrop", "--exact"], "Leave one of"),
    (["attribute", *PAIR, "--by", "head"], "--by is of one prompt"),
    (["generate", "tiny", FRANCE, "--top-p", "0.9"], "Add --temp 1"),
    (["generate", "tiny", FRANCE, "-m", "0"], "no number from 1 on"),
    (["bench", "--repeat", "0"], "no number from 1 on"),
]
FAILURES = [
    (["lens", "./nowhere", FRANCE], "Write tiny"),
    (["tree", "nowhere/at/all"], "Write tiny"),
    (["bench", "--graph", "nowhere.mlxg"], "nowhere.mlxg: No such file"),
    (["patch", "tiny", FRANCE, FRANCE], "--raw"),
]
CASES = [(*case, 2) for case in USAGE] + [(*case, 1) for case in FAILURES]


@pytest.mark.parametrize(("given", "said", "status"), CASES, ids=lambda one: str(one)[:60])
def test_a_mistake_is_one_line_with_what_to_write(
    given: list[str], said: str, status: int, run: Run
) -> None:
    found = run(*given)
    assert found.status == status and not found.out
    assert said in found.err and len(found.err.splitlines()) == 1
    command = given[0] if given[0] != "lense" else ""
    assert found.err.startswith(f"mlxgraph {command}".strip())


def test_what_can_be_known_before_is_said_before_a_model_loads(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "find_spec", lambda name: None)
    monkeypatch.setattr(arguments, "loaded", lambda name: pytest.fail("a model was loaded"))
    found = run(*LENS, "--out", "map.png")
    assert found.status == 1 and "pip install mlxgraph[plot]" in found.err
    axes = ["--component", "heads", "keys", "--positions", "all", "--heads", "all"]
    found = run("patch", *PAIR, *axes, "--out", "map.png")
    assert found.status == 2 and "--out map.json" in found.err
    assert run(*LENS, "--graph", "nowhere.mlxg").status == 1


def test_a_mistake_of_ours_is_a_line_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(mg.InterpretableModel, "logit_lens", broken)
    found = run(*LENS)
    assert found.status == 1
    assert found.err == (
        "mlxgraph lens: RuntimeError: out of memory  MLXGRAPH_TRACEBACK=full shows where.\n"
    )
    monkeypatch.setenv("MLXGRAPH_TRACEBACK", "full")
    with pytest.raises(RuntimeError):
        run(*LENS)


# -- interrupted -----------------------------------------------------------------------------------


def test_an_interrupted_map_shows_and_keeps_what_is_done(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: mg.InterpretableModel
) -> None:
    whole = tiny.activation_patching(
        FRANCE, ITALY, "output", positions="all", metric="logit_diff", targets=(" Paris", " Rome")
    )
    done = Schedule.steps

    def one_step(self):  # type: ignore[no-untyped-def]
        yield next(done(self))
        raise KeyboardInterrupt

    monkeypatch.setattr(pace, "BEGIN", 24)
    monkeypatch.setattr(Schedule, "steps", one_step)
    file = tmp_path / "map.json"
    found = run("patch", *PAIR, "--out", str(file))
    assert found.status == 130 and "Traceback" not in found.err
    assert "stopped after" in found.err and "NaN" in found.out
    kept = np.asarray(mg.Effects.load(file))
    there = ~np.isnan(kept)
    assert 0 < there.sum() < 36 and np.abs(kept - np.asarray(whole))[there].max() < 1e-2


@pytest.mark.parametrize("module", ["mlxgraph.graph.graph", "mlxgraph.cli.lens"])
def test_an_interrupt_while_it_is_read_in_shows_no_traceback(tmp_path: Path, module: str) -> None:
    """Of the command line alone: who imports the library gets the exception."""
    of_site = f"""
        import os, signal, sys
        class Interrupts:
            def find_spec(self, name, path, target=None):
                if name == {module!r}:
                    os.kill(os.getpid(), signal.SIGINT)
        sys.meta_path.insert(0, Interrupts())
    """
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(of_site))
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths}
    found = [
        subprocess.run(
            [sys.executable, *how], env=environment, capture_output=True, text=True, timeout=60
        )
        for how in (["-m", "mlxgraph", "tree", "tiny"], ["-c", f"import {module}"])
    ]
    assert found[0].returncode == 130 and not found[0].stdout and not found[0].stderr
    assert "KeyboardInterrupt" in found[1].stderr


def test_an_interrupted_text_stays_as_far_as_it_came(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Generation.stream

    def one(self):  # type: ignore[no-untyped-def]
        yield next(whole(self))
        raise KeyboardInterrupt

    monkeypatch.setattr(Generation, "stream", one)
    found = run("generate", "tiny", FRANCE)
    assert found.status == 130 and not found.err
    assert found.out.rstrip("\n") == "Paris"[: len(found.out) - 1]


# -- as a process ----------------------------------------------------------------------------------


def test_help_loads_nothing_that_is_slow() -> None:
    program = (
        "import sys; from mlxgraph.cli import main; main(['patch', '--help'])\n"
        "assert not {'mlx_lm', 'transformers', 'matplotlib', 'pandas', 'tqdm'} & {*sys.modules}"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "examples:" in done.stdout, done.stderr


def test_python_dash_m_and_nobody_who_reads() -> None:
    command = [sys.executable, "-m", "mlxgraph"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and mg.__version__ in done.stdout
    read, write = os.pipe()
    os.close(read)
    quiet = subprocess.run(
        [*command, "--help"], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write)
    assert quiet.stderr == "" and quiet.returncode == 0


def test_a_graph_with_params_is_to_be_bound_first(run: Run, tmp_path: Path) -> None:
    with mg.tiny().trace(FRANCE) as trace:
        trace.layers[2].output *= mg.param("alpha")
    path = str(tmp_path / "g.mlxg")
    trace.graph.save(path)
    for command in (["lens", "tiny", FRANCE], ["bench", "tiny"]):
        found = run(*command, "--graph", path)
        assert found.status == 2 and ".bind(alpha=...)" in found.err
    trace.graph.bind(alpha=1.0).save(path)
    assert run("lens", "tiny", FRANCE, "--graph", path, "--layers", "5").status == 0
