"""All benchmarks: prints every table, and writes what was measured to results.json.

    python benchmarks/everything.py [SCRIPT ...] [--quick] [--to FILE]

With names of scripts, only these are run, and the rest of the file stays as it is.  Then
`python benchmarks/figures.py` puts the figures into the pages.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx

RESULTS = Path(__file__).parent / "results.json"
SCRIPTS = (
    "trace_overhead",
    "overlap",
    "logit_lens",
    "direct_logits",
    "collection_memory",
    "scale",
    "ranks",
    "memory",
    "algebra",
    "pushdown",
    "sweeps",
    "attribution",
    "last_layer",
    "long_prompts",
    "prefix",
    "generation",
    "folding",
    "rooms",
)
BY_NAME = ("soak",)  # an hour: run where it is named


def machine() -> dict[str, str]:
    """Where all this was measured."""
    blas = Path(os.environ.get("LD_PRELOAD", "")).name
    return {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device": f"{mx.default_device().type.name}{f', with {blas}' if blas else ''}",
        "python": platform.python_version(),
        "mlx": version("mlx"),
    }


def main() -> None:
    """Measure, print and write."""
    every = (*SCRIPTS, *BY_NAME)
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=", ".join(every))
    parser.add_argument("--quick", action="store_true", help="small and few: see that it runs")
    parser.add_argument("--to", type=Path, default=RESULTS, help="where the JSON goes")
    options = parser.parse_args()
    unknown = set(options.scripts) - set(every)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    results = json.loads(options.to.read_text()) if options.to.exists() else {}
    for name in options.scripts or SCRIPTS:
        script = importlib.import_module(name)
        start = time.perf_counter()
        found = script.measured(options.quick)
        results[name] = {"machine": machine(), "quick": options.quick, "found": found}
        options.to.write_text(json.dumps(results, indent=1) + "\n")  # what is done is kept
        print(f"## {name}, {time.perf_counter() - start:.0f} s\n")
        print(script.tables(json.loads(options.to.read_text())[name]["found"]), end="\n\n")


if __name__ == "__main__":
    main()
