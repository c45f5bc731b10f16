"""One rank of several ends in the middle of common work: by a signal, or an error that nobody
catches; the others are to end by themselves, with its message where it left one."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import mlx.core as mx

import mlxgraph as mg
from mlxgraph.analysis import collect

how, dying = sys.argv[1], int(sys.argv[2])
model = mg.tiny()
rank = mx.distributed.init().rank()
real_batch = collect._one_batch
done = [0]


def batch(*args: Any) -> Any:
    done[0] += 1
    if rank == dying and done[0] == 2:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("that was not to be")
    time.sleep(0.1)
    return real_batch(*args)


collect._one_batch = batch
texts = ["The capital of France is", "Hello"] * 100
mg.batch_get_activations(model, texts, batch_size=1)
sys.stdout.write("this is not to be reached\n")
