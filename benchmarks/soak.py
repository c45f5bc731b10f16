"""A soak: mixed traces, sweeps, generation and failures in eight threads, for SOAK_MINUTES (60).

What is done, and how it is judged, stands in `tests/soak/soak.py`; `make soak` is the same as a
test.  It is no part of `make bench`: name it.

Predictions, written before the first run: no answer differs; the memory of the last third is that
of the middle third, within 10 %; nothing is left.

    SOAK_MINUTES=60 python benchmarks/everything.py soak
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from report import main, markdown

MIB = 1 << 20


def measured(quick: bool) -> dict[str, Any]:
    """What a soak is judged by."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.soak.soak import Soak

    minutes = 0.05 if quick else float(os.environ.get("SOAK_MINUTES", "60"))
    return Soak(minutes, threads=8).run()


def tables(found: dict[str, Any]) -> str:
    flat = found["middle and last third"]
    before, after = found["mlx before and after"]
    rows = [
        ["minutes", f"{found['minutes']:.0f}"],
        ["threads", str(found["threads"])],
        ["pieces of work, of kinds", f"{found['works']:,}, {found['kinds']}"],
        ["interrupts that ended one", f"{found['interrupted']:,}"],
        ["answers that differ from those computed before", str(len(found["wrong"]))],
        ["MLX's memory, largest of the middle and of the last third", _pair(*flat["mlx"][:2])],
        ["the process's", _pair(*flat["process"][:2])],
        ["MLX's memory before the threads, and after", _pair(before, after)],
        ["changed on the models and in MLX", ", ".join(found["left"]) or "nothing"],
    ]
    return markdown(["", ""], rows)


def _pair(one: int, other: int) -> str:
    return f"{one / MIB:.1f} MiB, {other / MIB:.1f} MiB"


if __name__ == "__main__":
    main(__doc__, measured, tables)
