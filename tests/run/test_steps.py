"""A slice whose step is 0 ends the process in MLX: it is refused wherever one can be written."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import GraphFileError, StepError
from mlxgraph.graph import ops
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import Site
from mlxgraph.graph.values import Slice
from tests import models

IDS = mx.array([[1, 2, 3, 4]])


@pytest.fixture(scope="module")
def llama():
    """A random Llama."""
    return mg.InterpretableModel(models.make_llama())


def write(h):
    h[:, ::0] = 0


def augment(h):
    h[..., 1::0] += 1


def write_into_a_part(h):
    h[0][::0] = 0


STANDING = {
    "a read": lambda h: h[:, ::0],
    "of the first axis": lambda h: h[::0],
    "with bounds": lambda h: h[0, 3:1:0],
    "numpy's": lambda h: h[:, slice(None, None, np.int64(0))],
    "a flag": lambda h: h[:, slice(None, None, False)],
    "beside an array": lambda h: h[mx.array([0]), ::0],
    "at": lambda h: h.at[:, ::0].add(1.0),
    "a view": lambda h: h.swapaxes(0, 1)[::0],
    "a computed one": lambda h: (h * 2)[:, :, ::0],
    "a write": write,
    "an augmented write": augment,
    "a write into a part": write_into_a_part,
}


@pytest.mark.parametrize("name", STANDING)
def test_in_a_block_it_raises_on_its_line(llama, name):
    with llama.trace(IDS), pytest.raises(StepError, match=r"test_steps.py:\d+.*\n.*step") as caught:
        STANDING[name](llama.layers[0].output)
    assert isinstance(caught.value, IndexError) and isinstance(caught.value, ValueError)
    with pytest.raises(StepError), llama.edit():
        STANDING[name](llama.layers[0].output)


@pytest.mark.parametrize("name", STANDING)
def test_in_a_function_of_a_deferred_edit(llama, name):
    def function(h):
        STANDING[name](h)
        return h

    with pytest.raises(StepError):
        llama.run(mg.edit("layers.0", function), IDS)


def test_of_positions_and_layers(llama):
    with pytest.raises(StepError, match="positions"):
        mg.edit("layers.0", iv.zero_out, positions=slice(None, None, 0))
    with pytest.raises(StepError, match="model.layers"):
        llama.layers[::0]


def standing_graph(kind):
    """A graph made by hand, as one from a file is."""
    site = Node(ops.SITE, ("model.layers.0", "output", 0))
    index = (Slice(None, None, None), Slice(None, None, 0))
    if kind == "read":
        return mg.Graph(saves=[("out", Node(ops.GETITEM, (site, index)))])
    node = Node(ops.UPDATE, (site, index, Node(ops.GETITEM, (site, index))))
    return mg.Graph(writes=[(Site(*site.args), node)])


@pytest.mark.parametrize("kind", ["read", "write"])
def test_in_a_graph_that_nobody_recorded(llama, kind, tmp_path):
    graph = standing_graph(kind)
    graph.save(tmp_path / "standing.mlxg")
    for one in (graph, mg.Graph.load(tmp_path / "standing.mlxg")):
        for way in (
            lambda one=one: llama.run(one, IDS),
            lambda one=one: llama.compile(one)(IDS),
            lambda one=one: llama.edit(one).trace(IDS).__enter__(),
            lambda one=one: llama.explain(one, IDS),
        ):
            with pytest.raises(StepError):
                way()


def test_positions_in_a_file(tmp_path):
    graph = mg.edit("layers.0", iv.zero_out, positions=slice(0, 3, 1))
    graph.save(tmp_path / "fine.mlxg")
    assert mg.Graph.load(tmp_path / "fine.mlxg") == graph
    edit = graph.then[0]._replace(positions=slice(0, 3, 0))
    with pytest.raises(GraphFileError, match="step"):
        mg.Graph(then=[edit]).save(tmp_path / "standing.mlxg")


@pytest.mark.parametrize("step", [1, 2, -1, -2, 1000, -1000])
def test_every_other_step_is_what_it_is_in_mlx(llama, step):
    with llama.trace(IDS):
        whole = llama.layers[0].output.save()
        part = llama.layers[0].output[:, ::step].save()
    assert models.same(part, whole[:, ::step], 1e-6)
