"""What the help says, and what a terminal and a file get."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

import mlxgraph as mg
from mlxgraph.cli.entry import COMMANDS, parser
from tests.cli.conftest import Run
from tests.cli.test_commands import FRANCE, PAIR

ANSI = re.compile(r"\x1b\[[\d;]*m")
ROW = re.compile(r"\d+ |layers\.\d")  # of a map, a list, bars


def options() -> list[tuple[str, argparse.Action]]:
    """Every option of every command that takes a value."""
    found = []
    for command in COMMANDS:
        own = argparse.ArgumentParser()
        command.arguments(own)
        found += [(command.name, one) for one in own._actions if one.nargs != 0 and one.help]
    return found


def test_no_command_shows_the_help(run: Run) -> None:
    found = run()
    assert found.status == 0
    assert all(f"\n    {command.name} " in found.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_help_fits_and_shows_examples(command, run: Run, monkeypatch) -> None:
    found = run(command.name, "--help")
    assert found.status == 0
    assert max(map(len, found.out.splitlines())) <= 80
    joined = " ".join(found.out.replace("\\\n", " ").split())
    assert all(" ".join(example.split()) in joined for example in command.examples)
    monkeypatch.setenv("COLUMNS", "50")
    assert run(command.name, "--help").status == 0


def test_each_line_of_help_has_an_example_that_is_read() -> None:
    given = {"clean": "a", "corrupted": "b", "prompt": "a", "model": "tiny"}
    known = options()
    assert len(known) > 40
    for name, action in known:
        (command,) = [one for one in COMMANDS if one.name == name]
        lines = [line for line in action.help.splitlines()[1:] if line]
        assert lines, f"{name} {action.dest} has no example"
        if not action.option_strings:
            continue
        own = argparse.ArgumentParser()
        command.arguments(own)
        needed = [a.dest for a in own._actions if not a.option_strings and a.nargs != "?"]
        for line in lines:
            words = [given[dest] for dest in needed] + shlex.split(line)
            read = own.parse_args(words)
            assert getattr(read, action.dest) != action.default, line


def test_the_usage_of_each_command_is_one_line(run: Run) -> None:
    assert run("patch", "--help").out.startswith(
        "usage: mlxgraph patch MODEL CLEAN CORRUPTED [options]\n"
    )
    assert parser().format_usage() == "usage: mlxgraph [--version] COMMAND ...\n"


# -- output ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        ["lens", "tiny", FRANCE],
        ["lens", "tiny", FRANCE, "--positions", "-1", "--top", "5"],
        ["lens", "tiny", FRANCE, "--token", " Paris", "--color", "rank"],
        ["patch", *PAIR],
        ["patch", *PAIR, "--component", "heads"],
        ["attribute", "tiny", FRANCE],
        ["attribute", *PAIR, "--exact"],
    ],
    ids=lambda given: " ".join(given[:1] + given[3:])[:40],
)
def test_lines_fit_the_terminal_and_colours_are_for_terminals(
    given: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(*given).out
    assert max(map(len, plain.splitlines())) <= 80 and not ANSI.search(plain)
    monkeypatch.setenv("COLUMNS", "34")
    narrow = run(*given).out
    pictures = [line for line in narrow.splitlines() if ROW.match(line)]
    assert pictures and max(map(len, pictures)) <= 34
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert (ANSI.search(run(*given).out) is None) == _is_bars(given)
    monkeypatch.setenv("NO_COLOR", "1")
    assert _without_times(run(*given).out) == _without_times(narrow)


def _without_times(text: str) -> str:
    return text.partition("correlation")[0]


def _is_bars(given: list[str]) -> bool:
    return given == ["attribute", "tiny", FRANCE]


def test_files_are_what_their_names_say(run: Run, tmp_path: Path) -> None:
    starts = {"a.png": b"\x89PNG", "b.pdf": b"%PDF", "c.svg": b"<?xml", "d.JSON": b'{"format"'}
    for name, start in starts.items():
        words = ["patch", *PAIR, "--layers", "0,1", "--positions", "4,5"]
        found = run(*words, "--out", str(tmp_path / name))
        assert found.status == 0 and found.err == f"wrote {tmp_path / name}\n"
        assert (tmp_path / name).read_bytes().startswith(start)
    kept = mg.Effects.from_json((tmp_path / "d.JSON").read_text())
    assert kept == mg.Effects.from_json(run(*words, "--json").out) and kept.shape == (2, 2)


def test_json_of_a_lens_has_ranks_where_a_token_is_followed(run: Run) -> None:
    found = run("lens", "tiny", FRANCE, "--token", " Paris", "--positions", "-1", "--json")
    said = json.loads(found.out)
    assert said["format"] == "mlxgraph effects" and said["attrs"]["rank"][-1] == 1
    assert said["attrs"]["predictions"][-1][0]["id"] == 522
    assert len(said["attrs"]["predictions"]) == len(said["values"]) == 6
