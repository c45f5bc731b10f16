"""The figures in the pages, made from results.json: no page shows what was not measured.

    python benchmarks/figures.py

What stands between `<!-- begin NAME -->` and `<!-- end -->` in the pages is replaced: the tables of
the script of that name, or the table `cost`.  A test compares the pages with what this gives.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGES = (HERE / "README.md", HERE.parent / "README.md")
MARKED = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def page(text: str, results: Mapping[str, Any]) -> str:
    """A page with the figures of these results.  Raises: KeyError for a name without any."""
    return MARKED.sub(lambda marks: f"{marks[1]}{figures(marks[2], results)}\n{marks[3]}", text)


def figures(name: str, results: Mapping[str, Any]) -> str:
    """What stands between the marks of a name."""
    if name == "cost":
        return cost(results["trace_overhead"]["found"]["sizes"])
    measured = results[name]
    sys.path.insert(0, str(HERE))
    try:
        script = importlib.import_module(name)
    finally:
        sys.path.remove(str(HERE))
    where = (
        v if k in ("machine", "device") else f"{k} {v}" for k, v in measured["machine"].items()
    )
    return f"Measured on: {'; '.join(where)}.\n\n{script.tables(measured['found'])}"


def cost(sizes: Mapping[str, Any]) -> str:
    """The README's table: what a block adds on the smallest, the deepest and the largest model."""
    lines = [
        "| layers x width | a forward under `mx.compile` | host time that a trace adds |"
        " together, over the forward |",
        "|---|---|---|---|",
    ]
    for size in ("64 x 4", "64 x 80", "1024 x 16"):
        width, layers = size.split(" x ")
        bare, block = sizes[size]["bare compiled"], sizes[size]["traced block"]
        lines.append(
            f"| {layers} x {width} | {1e3 * bare['together'][1]:.1f} ms"
            f" | {1e3 * block['host beyond'][1]:.2f} ms | {block['ratio'][1]:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Rewrite the pages."""
    results = json.loads(RESULTS.read_text())
    for path in PAGES:
        path.write_text(page(path.read_text(), results))


if __name__ == "__main__":
    main()
