"""Two processes under `mlx.launch`, against one of them: collection, generation, maps, a sweep.

Each process has one BLAS thread.  In turns within one launch: rank 0 does all of it alone while the
other waits, then both share it out.  Predicted: twice as fast less what cannot be shared (comparing
what was asked, exchanging answers, batches that do not come out even): 1.7 times and more on two
cores that have nothing else to do.  On busy cores two processes get more of them than one does, so
the time of the processors is shown beside that of the clock: what both use together over what one
uses alone is what sharing costs, whoever else is there.

    python benchmarks/ranks.py
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from llamas import llama
from report import main, markdown, middle

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.analysis.in_turns import ratios, spread

LAUNCH = "from mlx._distributed_utils.launch import main; main()"
BEGIN = "found: "
RANKS = 2


def measured(quick: bool) -> dict[str, Any]:
    """Seconds of the clock and of processors, alone and shared out."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-n", str(RANKS), "--backend", "ring", "--starting-port", str(min(port, 60_000))]
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    nothing, kept = os.pipe()  # at the end of its input mlx.launch would turn in circles
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, *command, "--python", sys.executable, __file__, str(quick)],
        env={**os.environ, **threads}, stdin=nothing, capture_output=True, text=True,
    )  # fmt: skip
    os.close(nothing)
    os.close(kept)
    for line in done.stdout.splitlines():
        if line.startswith(BEGIN):
            return json.loads(line.removeprefix(BEGIN))  # type: ignore[no-any-return]
    raise RuntimeError(done.stdout + done.stderr)


def ways(quick: bool) -> dict[str, Callable[[], Any]]:
    """What is shared out."""
    width, layers, count = (64, 4, 16) if quick else (256, 8, 32)
    model = mg.InterpretableModel(llama(width, layers))
    draw = np.random.default_rng(0)
    prompts = [draw.integers(0, 1000, size).tolist() for size in draw.integers(32, 97, count)]
    text, other = draw.integers(0, 1000, (2, 32)).tolist()
    options = {"metric": "l2", "positions": list(range(0, len(text), 4))}
    long, longer = draw.integers(0, 1000, (2, 16 if quick else 64)).tolist()
    return {
        f"{count} prompts, batches of 2": lambda: mg.batch_get_activations(
            model, prompts, batch_size=2
        ),
        f"a map of {layers} layers and {len(options['positions'])} positions": lambda: (
            model.activation_patching(text, other, **options)
        ),
        f"a map of {layers} layers and all of {len(long)} positions": lambda: (
            model.activation_patching(long, longer, metric="l2", positions=list(range(len(long))))
        ),
        f"{count} prompts, 16 new tokens each": lambda: (
            model.generate(prompts, max_tokens=16).tokens
        ),
        f"{8 * layers} edits of every position": lambda: model.sweep(
            mx.array([text]),
            [mg.edit(f"layers.{k}.mlp", iv.scale(s)) for k in range(layers) for s in range(8)],
            metric="l2",
        ),
    }


def child(quick: bool) -> None:
    """One rank's part."""
    rank = mx.distributed.init().rank()
    found = {}
    for name, way in ways(quick).items():
        alone: list[tuple[float, float]] = []
        shared: list[tuple[float, float]] = []
        for number in range(2 if quick else 5):
            _together(0.0)
            if rank == 0:
                with mg.alone():
                    one = _timed(way)
            else:
                one = 0.0, 0.0
            clock, own = one[0], _together(one[1])
            began = _together(0.0), _timed(way)
            both = began[1][0], _together(began[1][1])
            if number > 0 or quick:  # the first ones compile, and find the sizes of batches
                alone.append((clock, own))
                shared.append(both)
        found[name] = {
            "alone": spread(clock for clock, _ in alone),
            "shared": spread(clock for clock, _ in shared),
            "faster": ratios([c for c, _ in alone], [c for c, _ in shared]) if rank == 0 else None,
            "processors": ratios([p for _, p in shared], [p for _, p in alone]),
        }
    if rank == 0:
        print(BEGIN + json.dumps(found), flush=True)


def _timed(way: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of the clock, and of this process's processors."""
    clock, processors = time.perf_counter(), time.process_time()
    way()
    return time.perf_counter() - clock, time.process_time() - processors


def _together(own: float) -> float:
    """The sum over all ranks, once all are here."""
    return float(mx.distributed.all_sum(mx.array(own)).item())


def tables(found: dict[str, Any]) -> str:
    rows = [
        [
            name, middle(row["alone"], "{:.2f}"), middle(row["shared"], "{:.2f}"),
            middle(row["faster"], "{:.2f}"), middle(row["processors"], "{:.2f}"),
        ]
        for name, row in found.items()
    ]  # fmt: skip
    head = [
        "what", "one process, s", "two, s", "faster by",
        "time of processors, both over one",
    ]  # fmt: skip
    said = "A Llama of 256 x 8, one BLAS thread a process; medians and quartiles:"
    return f"{said}\n\n{markdown(head, rows)}"


if __name__ == "__main__":
    if "MLX_RANK" in os.environ:
        child(sys.argv[1] == "True")
    else:
        main(__doc__, measured, tables)
