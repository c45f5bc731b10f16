"""Settings that hold for every test.  Imports no mlx: the tests of `graph/` run without it."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# No deadline: a slow machine is not a bug.  In CI the examples are the same on every run.
settings.register_profile(
    "mlxgraph",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("mlxgraph")
os.environ.setdefault("MPLBACKEND", "Agg")
