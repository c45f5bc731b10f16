"""What MLX's processes are told, and how they tell each other."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.nn.layers.distributed import shard_linear

from mlxgraph.mlx_facts import processes
from mlxgraph.mlx_facts.dtypes import DTYPES
from tests.ranks.launching import launched


def test_what_two_processes_do():
    ended = launched(2, "facts.py")
    assert "rank 0 is done" in ended.output and "rank 1 is done" in ended.output, ended.output
    assert ended.code == 0 and "Error" not in ended.output, ended.output


def test_the_launcher_says_how_many_there_are(tmp_path: Path):
    hosts = tmp_path / "hosts"
    hosts.write_text(json.dumps([["127.0.0.1:1"], ["127.0.0.1:2"], ["127.0.0.1:3"]]))
    assert processes.expected({}) == 1
    assert processes.expected({"MLX_RANK": "0", "MLX_HOSTFILE": str(hosts)}) == 3
    assert processes.expected({"MLX_HOSTFILE": str(hosts)}) == 1  # launched by nobody
    assert processes.expected({"MLX_RANK": "1", "MLX_WORLD_SIZE": "2"}) == 2
    assert processes.expected({"OMPI_COMM_WORLD_SIZE": "4"}) == 4
    hosts.write_text("")  # what mlx.launch -n 1 writes
    assert processes.expected({"MLX_RANK": "0", "MLX_HOSTFILE": str(hosts)}) == 1


@pytest.mark.parametrize("name", sorted(set(DTYPES) - {"bool_"}))
def test_an_array_is_bytes_and_an_array_again(name: str):
    array = mx.array([[1, 0, 3], [4, 5, 6]]).astype(DTYPES[name]).T
    data = processes.together([processes.as_bytes(array)], 64)
    assert data.dtype == mx.uint8
    back = processes.of_bytes(data[: array.nbytes], array.dtype, array.shape)
    assert back.dtype == array.dtype and mx.array_equal(back, array).item()


def test_a_sharded_layer_keeps_its_group():
    group = mx.distributed.init()  # of one process, which is none to speak of
    cut = shard_linear(nn.Linear(4, 8), "all-to-sharded", group=group)
    one = shard_linear(nn.Linear(4, 8), "sharded-to-all", group=group)
    assert any(isinstance(value, processes.Group) for value in vars(cut).values())
    assert processes.groups_in(cut) == []
    assert (processes.splits(cut), processes.unites(cut)) == (True, False)
    assert (processes.splits(one), processes.unites(one)) == (False, True)
    assert (processes.splits(nn.Linear(4, 4)), processes.unites(nn.Linear(4, 4))) == (False, False)
