"""The tests of this room pass where there is no mlx at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SCRIPT = """
import importlib.abc, importlib.machinery, sys, types

class NoMLX(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mlx", "mlx_lm", "numpy", "einops"):
            raise ImportError(f"{name} is not to be had here")

sys.meta_path.insert(0, NoMLX())
package = types.ModuleType("mlxgraph")  # the facade imports everything; the room alone does not
package.__path__ = [PACKAGE]
sys.modules["mlxgraph"] = package
import pytest
here = pytest.main(["-q", "-p", "no:cacheprovider", "--deselect", THIS, "--ignore", FUZZ, ROOM])
assert not [name for name in sys.modules if name.split(".")[0] in ("mlx", "mlx_lm")]
sys.exit(here)
"""


def test_this_room_is_tested_without_mlx():
    names = {
        "PACKAGE": str(ROOT / "mlxgraph"),
        "ROOM": str(ROOT / "tests" / "graph"),
        "FUZZ": str(ROOT / "tests" / "graph" / "test_file_broken.py"),
        "THIS": "tests/graph/test_without_mlx.py",
    }
    script = "".join(f"{name} = {value!r}\n" for name, value in names.items()) + SCRIPT
    few = {**os.environ, "HYPOTHESIS_PROFILE": "few"}  # the full number runs beside this
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=few, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout
