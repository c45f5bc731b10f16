"""What `mlx_facts.processes` believes, between two processes."""

from __future__ import annotations

import sys
import threading

import mlx.core as mx
import numpy as np

import tests.mlx_facts.alone  # noqa: F401 - the beliefs load without the rest of the house
from mlxgraph.mlx_facts import processes

group = processes.world()
rank, size = group.rank(), group.size()
assert size == processes.expected() == 2
assert mx.distributed.init().size() == 2  # the group that was opened first

heard: list[int] = []
stop = [False]


def listen() -> None:
    """A collective in a thread of its own, while this process computes."""
    line = processes.Line(group)
    while True:
        rows = line.gathered(processes.bytes_of(bytes([rank, stop[0]])))
        heard.append(int(np.array(rows)[:, 0].sum()))
        if np.array(rows)[:, 1].all():
            return


thread = threading.Thread(target=listen)
thread.start()
a = mx.ones((64, 64))
for _ in range(50 * (1 + rank)):  # the ranks compute for different times
    mx.eval(a @ a)
stop[0] = True
thread.join(60)
assert not thread.is_alive() and set(heard) == {1}

if rank == 0:  # what nobody evaluates says nothing
    mx.distributed.all_sum(mx.ones(3), group=group)
traced: list[mx.array] = []


def summed(x: mx.array) -> mx.array:
    y = mx.distributed.all_sum(2 * x, group=group)
    traced.append(y)
    return y


assert mx.vmap(summed)(mx.ones((2, 3))).shape == (2, 3)
mx.compile(lambda x: (summed(x), x)[1])(mx.ones(3))
assert traced[0].shape == (3,)
both = processes.joined(mx.full((2, 1), rank), 1, group)
assert both.tolist() == [[0, 1], [0, 1]]

sys.stdout.write(f"rank {rank} is done\n")
sys.stdout.flush()
if rank == 1:
    sys.exit(0)
try:  # the other has ended
    while True:
        mx.eval(mx.distributed.all_sum(mx.ones(3), group=group))
except RuntimeError as error:
    assert processes.says_lost(error), error
