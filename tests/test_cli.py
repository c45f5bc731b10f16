"""The command line says what the library does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mlxgraph as mg
from mlxgraph.cli import BLOCK, main
from mlxgraph.tiny import WEIGHTS, tiny


def test_the_demo_turns_paris_into_berlin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    printed = capsys.readouterr().out
    before, after = printed.split("2. Now with")
    assert " Paris" in before and " Berlin" not in before
    first, *_ = after.split("The capital of France is ...")[1].split()
    assert first == "Berlin"
    assert "1 write, 1 save" in printed and "demo:5" in printed
    assert printed.count(" ms\n") == 3


def test_the_code_that_the_demo_shows_is_code_that_runs() -> None:
    names: dict = {"model": tiny()}
    exec(BLOCK, names)
    assert names["model"].token_to_str(names["logits"].argmax().item()) == " Berlin"


def test_the_tree_lists_every_site_that_a_trace_knows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tree"]) == 0
    lines = capsys.readouterr().out.splitlines()
    with tiny().trace("The capital of France is") as trace:
        pass
    assert [line.split()[0] for line in lines] == list(trace.activations)
    assert "(1, 6, 128) float32" in capsys_line(lines, "model.model.layers.3.mlp")


def capsys_line(lines: list[str], name: str) -> str:
    """The line of one site."""
    (line,) = [line for line in lines if line.split()[0] == name]
    return line


def test_a_model_that_is_not_there_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    assert main(["tree", f"{tmp_path}/nothing"]) == 1
    caught = capsys.readouterr()
    assert "nothing" in caught.err and "Traceback" not in caught.err and not caught.out


@pytest.mark.slow
def test_bench_prints_what_a_graph_costs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["bench", "--repeat", "1"]) == 0
    assert "traced block" in capsys.readouterr().out
    file = str(tmp_path / "graph.mlxg")
    mg.read("layers.2", name="h").save(file)
    model = str(WEIGHTS)
    assert main(["bench", model, "Paris is", "--graph", file, "--repeat", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    ids = tiny().encode("Paris is")
    assert found["about"]["inputs"] == f"(1, {len(ids)})" and found["rounds"] == 1
    assert found["left_out"][0].startswith("stop at model.layers.2")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--repeat", "0"], "repeat=0"),
        (["--graph", "nowhere.mlxg"], "nowhere.mlxg"),
        (["nowhere/at/all"], "nowhere/at/all"),
    ],
)
def test_what_bench_cannot_do_is_told_without_a_traceback(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *given]) == 1
    caught = capsys.readouterr()
    assert said in caught.err and "Traceback" not in caught.err and not caught.out


def test_python_dash_m_and_version() -> None:
    command = [sys.executable, "-m", "mlxgraph", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and mg.__version__ in done.stdout


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "demo" in capsys.readouterr().out
