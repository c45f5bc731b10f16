"""Ranks write a folder of activations together; killed in the middle, the same line goes on."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import mlx.core as mx

import mlxgraph as mg
from mlxgraph.analysis import to_disk

folder, how = sys.argv[1:3]
model = mg.tiny()
rank = mx.distributed.init().rank()
texts = ["The capital of France is", "Hello", "The Eiffel Tower is in", "a b c", "one two"] * 8
real_rows, done = to_disk._rows, [0]


def rows(*args: Any) -> Any:
    done[0] += 1
    if how == "killed" and rank == 1 and done[0] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return real_rows(*args)


to_disk._rows = rows
asked: dict[str, Any] = {"sites": "layers.[1-2].mlp", "positions": "all"}
store = mg.get_activations(model, texts, to=folder, shard_size=60_000, **asked)
with mg.alone():
    wanted = mg.get_activations(model, texts, **asked)
assert store.finished and len(store) == len(texts)
for name, values in wanted.items():
    for number, value in enumerate(values):
        assert mx.allclose(store[name][number], value, 1e-4, 1e-5).item()
assert rank or any(file.startswith("rank001-block") for file in os.listdir(folder))
sys.stdout.write(f"rank {rank} is done\n")
