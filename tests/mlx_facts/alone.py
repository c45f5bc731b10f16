"""A pytest plugin: `mlxgraph.mlx_facts` without the rest of the house.

The package's own `__init__` joins all rooms.  Where a new MLX breaks one of them, the beliefs are
what should say why, so they must load on their own: `pytest -p tests.mlx_facts.alone`.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

_root = types.ModuleType("mlxgraph")
_root.__path__ = [str(Path(__file__).parents[2] / "mlxgraph")]
sys.modules["mlxgraph"] = _root
