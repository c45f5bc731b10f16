"""Runs the sh blocks of a page in this process: `mlxgraph`, `echo`, `cat`, pipes, one file.

A process for each command would load MLX and a model each time.

In: lines as a shell takes them.  Out: the exit status and what was printed, errors too.
Never: runs any other program.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from pathlib import Path
from unittest import mock

from mlxgraph.cli import main

MISSING = 127  # a shell's status of a program that is not there


def shell(code: str) -> tuple[int, str]:
    """Run the lines until one fails."""
    status, printed = 0, ""
    for line in code.replace("\\\n", " ").splitlines():
        words = list(_words(line))
        if words and not status:
            status, more = _line(words)
            printed += more
    return status, printed


def _words(line: str) -> shlex.shlex:
    found = shlex.shlex(line, posix=True, punctuation_chars="|>")
    found.whitespace_split = True
    return found


def _line(words: list[str]) -> tuple[int, str]:
    file = None
    if ">" in words:
        at = words.index(">")
        (file,), words = words[at + 1 :], words[:at]
    status, given = 0, ""
    for stage in _split(words):
        if not status:
            status, given = _one(stage, given)
    if file is None or status:
        return status, given
    Path(file).write_text(given)
    return status, ""


def _split(words: list[str]) -> list[list[str]]:
    stages: list[list[str]] = [[]]
    for word in words:
        if word == "|":
            stages.append([])
        else:
            stages[-1].append(word)
    return stages


def _one(words: list[str], given: str) -> tuple[int, str]:
    name, *rest = words
    if name == "echo":
        return 0, f"{' '.join(rest)}\n"
    if name == "cat":
        missing = [one for one in rest if not Path(one).exists()]
        if missing:
            return 1, f"cat: {missing[0]}: No such file or directory\n"
        return 0, "".join(Path(one).read_text() for one in rest) or given
    if name != "mlxgraph":
        return MISSING, f"{name}: not found\n"
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "stdin", io.StringIO(given)),
    ):
        status = main(rest)
    return status, err.getvalue() if status else out.getvalue()
