"""A collection that is killed at any moment goes on: nothing is lost, nothing is there twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def killed(folder: Path, way: str, seed: int, most: int) -> str:
    """Run `tests.store.killed`.  Returns: what it says."""
    command = [sys.executable, "-m", "tests.store.killed", str(folder), way, str(seed), str(most)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_dozen_kills_between_the_steps_of_writing(tmp_path):
    assert killed(tmp_path, "step", 0, 12).startswith("12 kills")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["step", "time"])
def test_hundreds_of_kills_at_random(tmp_path, way):
    assert killed(tmp_path, way, 1, 250).startswith("250 kills")
