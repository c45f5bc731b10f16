"""The models of other packages, in an environment where those packages are installed.

    python -m tests.packages.in_environment [cpu | cuda12 | cuda13]

It is made for the run and thrown away.  Needs a package index, and nothing but Python to start
with.  A package that cannot be imported there is a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

from tests.mlx_facts.on_versions import ROOT, environment, installed

# The versions that `configs.py` is written for.  Installed without what they ask for: that is torch
# in some, servers and data sets in others, and another mlx in mflux; no model here needs those.
PACKAGES = (
    "mlx-vlm==0.7.10",
    "mlx-embeddings==0.1.0",
    "mlx-whisper==0.4.3",
    "mlx-audio==0.6.2",
    "parakeet-mlx==0.7.0",
    "mflux==0.24.0",
)
# What they import on the way to their models.
IMPORTED = (
    *("requests", "pillow", "scipy", "tiktoken", "numba", "more-itertools", "librosa", "dacite"),
    *("typer", "piexif", "toml", "platformdirs"),
)
TESTS = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/packages")


def main() -> None:
    """Set it up and run the tests; exits with 1 if one fails or a package is missing."""
    extras = ",".join((*sys.argv[1:2], "test"))
    start = time.monotonic()
    with tempfile.TemporaryDirectory(
        prefix="mlxgraph-packages.", ignore_cleanup_errors=True
    ) as there:
        house = [f"{ROOT}[{extras}]", *IMPORTED]
        python = environment(there, house, ["--no-deps", *PACKAGES])
        names = ("mlx", *(package.partition("==")[0] for package in PACKAGES))
        sys.stdout.write(f"-- {installed(python, names)}, in {time.monotonic() - start:.0f} s\n")
        sys.stdout.flush()
        every = os.environ | {"MLXGRAPH_ALL_PACKAGES": "1"}
        failed = subprocess.run([python, "-B", *TESTS], cwd=ROOT, env=every).returncode
    sys.stdout.write(f"-- {time.monotonic() - start:.0f} s\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
