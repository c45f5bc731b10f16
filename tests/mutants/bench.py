"""A bench: a copy of the package and its tests, in which one mutant at a time is tried.

In: a mutant.  Out: whether its tests notice it, and which does.
Never: writes to the package itself.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.mutants.mutant import PACKAGE, ROOT, Mutant

SECONDS = 120  # that a mutant's tests may take; one that never ends is noticed, too
COPIED = (PACKAGE, "tests", "docs", "benchmarks", "pyproject.toml", "Makefile", "README.md")
OPTIONS = ("-x", "-q", "--no-header", "-p", "no:cacheprovider", "-W", "ignore::UserWarning")
CAUGHT, SURVIVED, BROKEN = "caught", "SURVIVED", "BROKEN"


class Verdict(NamedTuple):
    """What became of a mutant: `by` names the test that failed, or says what went wrong."""

    mutant: Mutant
    outcome: str
    by: str
    seconds: float


class Bench:
    """One copy of the project, in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("*.pyc"))
            elif source.exists():
                shutil.copy2(source, folder / name)
        self._edits = 0

    def fails(self, tests: Iterable[str]) -> str:
        """What is wrong with the code as it is: `""` where these tests pass."""
        code, output = self._run(sorted({f"tests/{test}" for test in tests}))
        return "" if code == 0 else _last_lines(output)

    def try_out(self, mutant: Mutant) -> Verdict:
        """Whether a mutant's tests notice it.  Raises: StaleMutant."""
        path = self.folder / PACKAGE / mutant.file
        source = path.read_text()
        started = time.perf_counter()
        self._write(path, mutant.applied(source))
        try:
            code, output = self._run([f"tests/{test}" for test in mutant.tests])
        finally:
            self._write(path, source)
        return Verdict(mutant, *_judged(code, output), time.perf_counter() - started)

    def _write(self, path: Path, text: str) -> None:
        """Each text gets a time of its own: Python takes compiled files by second and size."""
        self._edits += 1
        path.write_text(text)
        at = 1_700_000_000 + self._edits
        os.utime(path, (at, at))

    def _run(self, tests: list[str]) -> tuple[int | None, str]:
        """pytest's exit code (None: it never ended) and what it wrote."""
        command = [sys.executable, "-m", "pytest", *OPTIONS, *tests]
        known = {"PYTHONPATH": str(self.folder), "HYPOTHESIS_PROFILE": "unshrunk"}
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env={**os.environ, **known},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            return None, ""
        return done.returncode, done.stdout


def _judged(code: int | None, output: str) -> tuple[str, str]:
    if code is None:
        return CAUGHT, f"no end in {SECONDS} s"
    if code == 0:
        return SURVIVED, ""
    failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", output, flags=re.MULTILINE)
    if code == 1 and failed:
        return CAUGHT, failed[1]
    return BROKEN, _last_lines(output)  # the tests could not even be collected


def _last_lines(output: str) -> str:
    return "\n".join(output.strip().splitlines()[-12:])
