"""One rank of several ends in the middle of common work: by a signal, or an error that nobody
catches; the others are to end by themselves, with its message where it left one.

    killed, raised, interrupted  while it collects
    gathering                    killed while the others wait for its part of a value
    writing                      killed while all generate
    between                      an error of the user's own between two calls
"""

from __future__ import annotations

import os
import signal
import sys
import threading
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
        if how == "interrupted":
            signal.raise_signal(signal.SIGINT)
        raise ValueError("that was not to be")
    time.sleep(0.1)
    return real_batch(*args)


collect._one_batch = batch
texts = ["The capital of France is", "Hello"] * 100
if how == "gathering":
    for turn in range(100):
        if rank == dying and turn == 50:
            os.kill(os.getpid(), signal.SIGKILL)
        mg.gather(mx.ones((300, 300)))
if how == "writing":
    model.generate(texts[:2], max_tokens=2).text  # noqa: B018 - that runs it
    if rank == dying:
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    for _ in range(50):
        model.generate(texts, max_tokens=50).text  # noqa: B018 - that runs it
if how == "between":
    mg.get_activations(model, texts[:2])
    if rank == dying:
        raise ValueError("that was not to be")
mg.batch_get_activations(model, texts, batch_size=1)
sys.stdout.write("this is not to be reached\n")
