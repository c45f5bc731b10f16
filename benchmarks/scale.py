"""Activations to disk: prompts per second, peak memory, and how fast shuffled batches come back.

Rate.  Every token's output of every MLP, three ways that take turns:

    bare       the model's trunk on the same batches, padded on the left, and nothing kept
    memory     batch_get_activations(..., positions="all") in the same batches
    disk       the same with to=folder

Peak memory.  Of 100, 1,000 and 10,000 prompts to disk, each in a process of its own: MLX's peak
above what the weights take, and the most that the process held at all, beside those of batches of
128 prompts in memory: of each length one, and again, so that all is compiled as it will be.

Reading.  Bytes per second of one pass of shuffled batches of 4,096 rows, and of the same files read
from end to end, 4 MiB at a time; the system's cache of the files is emptied before each pass.

Predictions.  Disk: 0.95 of the bare rate where no prompt is padded, and 0.9 where lengths differ:
neither masks, and what is added is five small forwards that try whether a mask is needed, and the
rows of the prompts taken from among the padding.  Peak: MLX's own within 35 MiB of one batch's, 32
of which wait for the disk, and the same for 1,000 and for 10,000 prompts; the process's within 50.
Reading: 0.8 of the raw speed, since rows are mixed in memory while the next are read.

    python benchmarks/scale.py
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
from llamas import llama
from report import main, markdown, middle

import mlxgraph as mg
from mlxgraph.analysis.in_turns import in_turns, peak_memory, spread

VOCABULARY, BATCH = 1_000, 128
SIZES = ((64, 4, 512), (256, 8, 128))  # width, layers, prompts
COUNTS = (100, 1_000, 10_000)
SITES = "layers.*.mlp"
MIB = 1 << 20
ROWS = 4_096
PIECE, BUFFER = 4 << 20, 64 << 20


def prompts(count: int, ragged: bool = True) -> list[list[int]]:
    """Token rows of 17 to 32 tokens, or of 24."""
    return [
        [(31 * n + 7 * k) % VOCABULARY for k in range(17 + n % 16 if ragged else 24)]
        for n in range(count)
    ]


def model(width: int, layers: int) -> mg.InterpretableModel:
    return mg.InterpretableModel(llama(width, layers, heads=4, key_value_heads=2))


# -- rate ------------------------------------------------------------------------------------------


def rates(quick: bool) -> list[dict[str, Any]]:
    """Seconds of each way, and the ratio of the bare forward's to that of the disk."""
    found = []
    for width, layers, count in ((64, 4, 48),) if quick else SIZES:
        made = model(width, layers)
        for ragged in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                ways = _ways(made, prompts(count, ragged), Path(folder))
                times = in_turns(ways, 1 if quick else 3, warm=1)
            seconds = {name: time.together for name, time in times.items()}
            ratio = [b / d for b, d in zip(seconds["bare"], seconds["disk"], strict=True)]
            found.append(
                {
                    "model": f"{width} x {layers}", "ragged": ragged,
                    "rates": {name: count / spread(s).median for name, s in seconds.items()},
                    "ratio": spread(ratio),
                }
            )  # fmt: skip
    return found


def _ways(made: mg.InterpretableModel, rows: list[list[int]], folder: Path) -> dict[str, Any]:
    order = sorted(range(len(rows)), key=lambda n: -len(rows[n]))
    batches = [[rows[n] for n in order[k : k + BATCH]] for k in range(0, len(rows), BATCH)]
    asked = {"sites": SITES, "positions": "all", "batch_size": BATCH}
    numbers = iter(range(1_000))

    def bare() -> None:
        for batch in batches:
            longest = max(map(len, batch))
            padded = [[0] * (longest - len(row)) + row for row in batch]
            mx.eval(made.module.model(mx.array(padded)))

    return {
        "bare": bare,
        "memory": lambda: mg.batch_get_activations(made, rows, **asked),
        "disk": lambda: (
            mg.batch_get_activations(made, rows, **asked, to=folder / str(next(numbers))) and None
        ),
    }


# -- memory ----------------------------------------------------------------------------------------


def peaks(quick: bool) -> list[dict[str, Any]]:
    """Peak bytes, of one batch in memory and of each number of prompts to disk."""
    return [_in_its_own_process(count) for count in (0, *((20, 40) if quick else COUNTS))]


def _in_its_own_process(count: int) -> dict[str, Any]:
    code = f"import json, scale; print(json.dumps(scale.peak({count})))"
    here = Path(__file__).parent
    paths = f"{here}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    return json.loads(done.stdout)


def peak(count: int) -> dict[str, Any]:
    """The peak of this process.  Args: count: of prompts to disk; 0 for one batch in memory."""
    made = model(64, 4)
    asked: dict[str, Any] = {"sites": SITES, "positions": "all", "batch_size": BATCH}
    with tempfile.TemporaryDirectory() as folder:

        def way() -> None:
            if count:
                rows = (row for row in prompts_one_by_one(count))
                mg.batch_get_activations(made, rows, **asked, to=Path(folder) / "acts")
            else:
                for length in 2 * list(range(17, 33)):
                    rows = [
                        [(31 * n + 7 * k) % VOCABULARY for k in range(length)] for n in range(BATCH)
                    ]
                    mg.batch_get_activations(made, rows, **asked)

        most = peak_memory(way, calls=1)
    scale = 1 if sys.platform == "darwin" else 1024
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    return {"prompts": count, "mlx": most, "process": held}


def prompts_one_by_one(count: int) -> Any:
    """The prompts, none of which is held."""
    for n in range(count):
        yield [(31 * n + 7 * k) % VOCABULARY for k in range(17 + n % 16)]


# -- reading ---------------------------------------------------------------------------------------


def reading(quick: bool) -> dict[str, Any]:
    """Bytes per second, of files from end to end and of shuffled batches."""
    made = mg.InterpretableModel(llama(1024, 1, heads=4, key_value_heads=2))
    rows = [[(31 * n + k) % VOCABULARY for k in range(128)] for n in range(16 if quick else 256)]
    with tempfile.TemporaryDirectory() as folder:
        store = mg.get_activations(made, rows, [0], "all", to=Path(folder) / "acts")
        files = [store.path / shard["file"] for shard in store.meta["shards"]]
        size = sum(file.stat().st_size for file in files)
        found: dict[str, list[float]] = {"files": [], "batches": []}
        for _ in range(1 if quick else 3):
            for name, way in {"files": _through, "batches": _shuffled}.items():
                for file in files:
                    _forget(file)
                start = time.perf_counter()
                way(store, files)
                found[name].append(size / (time.perf_counter() - start))
    ratio = [b / f for b, f in zip(found["batches"], found["files"], strict=True)]
    return {
        "bytes": size, "ratio": spread(ratio),
        **{name: spread(value) for name, value in found.items()},
    }  # fmt: skip


def _through(store: mg.ActivationStore, files: list[Path]) -> None:
    buffer = bytearray(PIECE)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _shuffled(store: mg.ActivationStore, files: list[Path]) -> None:
    for batch in store.batches("layer_0", ROWS, seed=0, buffer=BUFFER):
        mx.eval(batch)


def _forget(path: Path) -> None:
    """Have the system forget what it holds of a file, where it can be told to."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# -- all -------------------------------------------------------------------------------------------


def measured(quick: bool) -> dict[str, Any]:
    """All three."""
    return {"rates": rates(quick), "peaks": peaks(quick), "reading": reading(quick)}


def tables(found: dict[str, Any]) -> str:
    base = found["peaks"][0]
    read = found["reading"]
    return "\n\n".join(
        [
            "Prompts per second, and the rate to disk over the bare one, turn by turn (aim: 0.9):",
            markdown(
                ["model", "lengths", "bare", "memory", "disk", "disk / bare"],
                [
                    [
                        row["model"], "17 to 32" if row["ragged"] else "24",
                        *(f"{row['rates'][name]:,.0f}" for name in ("bare", "memory", "disk")),
                        middle(row["ratio"], "{:.2f}"),
                    ]
                    for row in found["rates"]
                ],
            ),
            "Peak memory, MiB (aim: within 50 of one batch's):",
            markdown(
                ["", "MLX", "beyond one batch's", "process", "beyond one batch's"],
                [
                    [
                        f"{row['prompts']:,} prompts to disk" if row["prompts"] else "one batch",
                        f"{row['mlx'] / MIB:.1f}", f"{(row['mlx'] - base['mlx']) / MIB:.1f}",
                        f"{row['process'] / MIB:.0f}",
                        f"{(row['process'] - base['process']) / MIB:.0f}",
                    ]
                    for row in found["peaks"]
                ],
            ),
            f"Reading {read['bytes'] / MIB:,.0f} MiB, MiB per second:",
            markdown(
                ["files from end to end", "shuffled batches", "batches / files"],
                [
                    [
                        middle(read["files"], "{:,.0f}", 1 / MIB),
                        middle(read["batches"], "{:,.0f}", 1 / MIB),
                        middle(read["ratio"], "{:.2f}"),
                    ]
                ],
            ),
        ]
    )  # fmt: skip


if __name__ == "__main__":
    main(__doc__, measured, tables)
