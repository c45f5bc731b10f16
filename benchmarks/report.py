"""What the benchmark scripts share beside the timing loop, which is the library's own.

Every script has `measured(quick)`, whose result goes to JSON, and `tables(found)`, which makes
Markdown of that result, fresh or read from a file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any


def main(about: str | None, measured: Callable[[bool], Any], tables: Callable[[Any], str]) -> None:
    """A script on the command line: measure and print."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small and few: see that it runs")
    print(tables(as_read(measured(parser.parse_args().quick))))


def as_read(found: Any) -> Any:
    """What was measured, as it comes back from a file."""
    return json.loads(json.dumps(found))


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def middle(found: Sequence[float], shape: str, times: float = 1.0) -> str:
    """A median with its quartiles, given as `[low, median, high]`."""
    low, median, high = (shape.format(times * value) for value in found)
    return f"{median} ({low} to {high})"


def milliseconds(seconds: float) -> str:
    """Three digits that say something."""
    value = 1e3 * seconds
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"
