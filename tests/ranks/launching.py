"""Scripts in several processes: by `mlx.launch`, or each by itself, without anybody to end them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "scripts"
LAUNCH = "from mlx._distributed_utils.launch import main; main()"
LONGEST = 300.0  # seconds; a test that hangs is one that fails


class Ended(NamedTuple):
    """How a process ended: its exit code, what it wrote."""

    code: int
    output: str


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLX")}
    return {**kept, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def free_ports(count: int) -> int:
    """The first of some ports in a row that nobody listens on."""
    for first in range(20000 + os.getpid() % 20000, 64000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as one:
                    one.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise RuntimeError("no free ports")


def launched(count: int, script: str, *args: str) -> Ended:
    """A script of the `scripts` folder under `mlx.launch -n count`."""
    port = str(free_ports(count))
    options = ["-n", str(count), "--backend", "ring", "--starting-port", port, "--cwd", str(ROOT)]
    command = [sys.executable, "-c", LAUNCH, *options, "--python", sys.executable]
    nothing, kept = os.pipe()  # at the end of its input mlx.launch would turn in circles
    try:
        done = subprocess.run(
            [*command, str(SCRIPTS / script), *args],
            env=_environment(), stdin=nothing, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=LONGEST,
        )  # fmt: skip
    finally:
        os.close(nothing)
        os.close(kept)
    return Ended(done.returncode, done.stdout)


def side_by_side(count: int, script: str, *args: str, folder: Path) -> list[Ended]:
    """The same as processes that nobody watches: what ends them is their own affair."""
    first = free_ports(count)
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{first + rank}"] for rank in range(count)]))
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPTS / script), *args],
            env={**_environment(), "MLX_HOSTFILE": str(hosts), "MLX_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    try:
        return [
            Ended(one.returncode, said)
            for one in started
            for said in [one.communicate(timeout=LONGEST)[0]]
        ]
    finally:
        for one in started:
            one.kill()
