"""Graphs on disk with real arrays: every dtype to the last bit, and the same results."""

from __future__ import annotations

import threading

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import GraphFileError, OpaqueError
from mlxgraph.evaluate.functions import OWN, function
from mlxgraph.graph import ops
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import CONSTANT, Node, site_node
from mlxgraph.graph.site import Site
from mlxgraph.record import intercept

DTYPES = [d for d in vars(mx).values() if isinstance(d, mx.Dtype)]


def bits(array: mx.array) -> bytes:
    """An array's elements, as they lie in memory."""
    return bytes(memoryview(array.reshape(-1).view(mx.uint8))) if array.size else b""


def holding(*arrays: mx.array) -> Graph:
    """A graph that saves each array."""
    leaves = [
        Node(CONSTANT, (k, tuple(a.shape), str(a.dtype).rpartition(".")[2]))
        for k, a in enumerate(arrays)
    ]
    return Graph((), [(f"a{k}", leaf) for k, leaf in enumerate(leaves)], arrays)


def through_a_file(graph: Graph, path) -> Graph:
    graph.save(path)
    return Graph.load(path)


# -- arrays ---------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 0, 3)], ids=str)
def test_arrays_of_every_dtype_and_shape_come_back_to_the_bit(tmp_path, dtype, shape):
    with mx.stream(mx.cpu):  # float64 lives there alone
        array = (mx.random.normal(shape) * 3).astype(dtype)
        (loaded,) = through_a_file(holding(array), tmp_path / "g").constants
        assert (loaded.shape, loaded.dtype, bits(loaded)) == (array.shape, dtype, bits(array))


@pytest.mark.parametrize("pattern", [0x7FC1, 0xFFC2, 0x7F80, 0x8000, 0x0001], ids=hex)
def test_odd_floats_keep_their_bits(tmp_path, pattern):
    for dtype in (mx.bfloat16, mx.float16):
        array = mx.array([pattern, 0], mx.uint16).view(dtype)
        (loaded,) = through_a_file(holding(array), tmp_path / "g").constants
        assert bits(loaded) == bits(array)


def test_views_and_lazy_arrays_are_saved_as_what_they_show(tmp_path):
    base = mx.arange(24).reshape(2, 3, 4)
    arrays = [base.transpose(2, 0, 1), base[:, ::2], mx.broadcast_to(base[0, 0], (3, 4)), base + 1]
    loaded = through_a_file(holding(*arrays), tmp_path / "g").constants
    assert all(mx.array_equal(a, b).item() for a, b in zip(loaded, arrays, strict=True))


def test_numpy_arrays_come_back_as_arrays_of_their_dtype(tmp_path):
    value = np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-1]
    graph = holding(mx.zeros((2, 3))).replace(constants=[value])
    (loaded,) = through_a_file(graph, tmp_path / "g").constants
    assert loaded.dtype == mx.float32 and np.array_equal(np.array(loaded), value)


def test_the_file_is_one_that_any_reader_of_safetensors_opens(tmp_path):
    arrays = [mx.array([True]), mx.ones((3,), mx.bfloat16), mx.zeros((2, 2))]
    holding(*arrays).save(tmp_path / "g.safetensors")
    loaded, about = mx.load(str(tmp_path / "g.safetensors"), return_metadata=True)
    assert about["format"] == "mlxgraph" and about["version"] == "1"
    for k, array in enumerate(arrays):
        assert loaded[str(k)].dtype == array.dtype
        assert mx.array_equal(loaded[str(k)], array).item()


def test_an_array_without_a_value_is_refused_and_nothing_is_written(tmp_path):
    said = []

    @mx.compile
    def traced(x):
        with pytest.raises(GraphFileError, match="cannot be computed") as error:
            holding(x).save(tmp_path / "g")
        said.append(error)
        return x

    traced(mx.ones((3,)))
    assert said and not list(tmp_path.iterdir())


# -- recorded graphs ---------------


def test_a_recorded_graph_comes_back_and_does_the_same(tmp_path, tied, tokens):
    vector = mx.random.normal((32,)).astype(mx.bfloat16)
    with tied.trace(tokens) as t:
        h = tied.layers[1].output
        h[:, -1] += 4.0 * vector
        h[:, mx.array([0, 2])] = 0
        tied.layers[1].mlp.output = (
            nn.gelu(
                tied.layers[1].mlp.output,
            )
            * 0.5
        )
        q, k = mx.split(tied.layers[2].self_attn.q_proj.output, 2, axis=-1)
        q[..., 0] = mx.softmax(k, axis=-1)[..., 1]
        tied.layers[0].mlp.output = tied.model.norm(tied.layers[0].mlp.output).astype(mx.float32)
        logits = tied.output[:, -1].save("logits")
    loaded = through_a_file(t.graph, tmp_path / "g.mlxg")
    assert loaded == t.graph and str(loaded) == str(t.graph)
    again = tied.run(loaded, tokens)["logits"]
    assert mx.array_equal(again, logits).item()
    assert not mx.allclose(tied(tokens)[:, -1], logits).item()


def test_params_stay_holes(tmp_path, tied, tokens):
    alpha = mg.param("alpha")
    with tied.trace(tokens, params={"alpha": 2.0}) as t:
        tied.layers[1].output *= alpha
        logits = tied.output.save("logits")
    loaded = through_a_file(t.graph, tmp_path / "g")
    assert loaded.params == ("alpha",)
    assert mx.array_equal(tied.run(loaded, tokens, alpha=2.0)["logits"], logits).item()
    assert not mx.allclose(tied.run(loaded, tokens, alpha=0.5)["logits"], logits).item()


def test_an_applied_function_is_refused_with_its_name_and_the_users_line(tmp_path, tied, tokens):
    def my_own(x):
        return x * 2

    with tied.trace(tokens) as t:
        tied.layers[1].output = mg.apply(my_own, tied.layers[1].output)
        tied.output.save()
    with pytest.raises(OpaqueError, match=r"my_own(.|\n)*test_graph_files\.py:\d+"):
        t.graph.save(tmp_path / "g")
    with pytest.raises(OpaqueError, match=r"my_own(.|\n)*test_graph_files\.py:\d+"):
        mg.edit("layers.*", my_own).save(tmp_path / "g")
    assert not list(tmp_path.iterdir())


def test_loading_inside_a_block_gives_arrays_and_records_nothing(tmp_path, tied, tokens):
    holding(mx.ones((32,))).save(tmp_path / "g")
    with tied.trace(tokens) as t:
        (loaded,) = Graph.load(tmp_path / "g").constants
        kind, value = type(loaded), loaded.tolist()
        tied.layers[0].output += loaded
        tied.output.save()
    assert kind is mx.array and value == [1.0] * 32
    assert len(t.graph.nodes()) == 4


def test_threads_save_and_load_side_by_side(tmp_path):
    graphs = [holding(mx.full((100,), k)) for k in range(8)]
    mx.eval([graph.constants[0] for graph in graphs])  # lazy arrays belong to their thread
    wrong = []

    def work(k: int) -> None:
        for _ in range(5):
            graphs[k].save(tmp_path / "shared")
            graphs[k].save(tmp_path / f"own{k}")
            if Graph.load(tmp_path / f"own{k}").constants[0][0].item() != k:
                wrong.append(k)
            Graph.load(tmp_path / "shared")  # whole, whoever wrote it last

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(list(tmp_path.iterdir())) == 9


# -- interventions ---------------

VECTOR = mx.arange(32, dtype=mx.float32)
EDITS = {
    "zero_out": iv.zero_out,
    "scale": iv.scale(0.5),
    "scale by an array": iv.scale(VECTOR),
    "add_vector": iv.add_vector(VECTOR),
    "replace_with": iv.replace_with(1.5),
    "replace_with, aligned": iv.replace_with(mx.ones((3, 32)), align="end"),
    "clamp": iv.clamp(-1.0, None),
    "noise": iv.noise(0.1),
    "compose": iv.compose().add(iv.scale(0.5)).add(iv.clamp(-1.0, 1.0)).add(iv.zero_out).build(),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_by_pattern_comes_back_and_does_the_same(tmp_path, tied, tokens, name):
    graph = mg.edit("layers.[0-1].mlp", EDITS[name], positions=slice(-2, None), expect=2)
    graph = graph >> mg.read("layers.1", name="h")
    loaded = through_a_file(graph, tmp_path / "g")
    assert loaded == graph and str(loaded) == str(graph)
    tied.run(graph, tokens)
    results = []
    for each in (graph, loaded, mg.read("layers.1", name="h")):
        mx.random.seed(7)
        results.append(tied.run(each, tokens)["h"])
    assert mx.array_equal(results[0], results[1]).item()
    assert not mx.allclose(results[0], results[2]).item()


def test_an_edit_with_a_hole_comes_back_with_its_hole(tmp_path, tied, tokens):
    graph = mg.edit("layers.1.mlp", iv.scale(mg.param("alpha"))) >> mg.read("layers.1", name="h")
    loaded = through_a_file(graph, tmp_path / "g")
    assert loaded == graph and loaded.params == ("alpha",)
    one, two = (tied.run(g, tokens, alpha=3.0)["h"] for g in (graph, loaded))
    assert mx.array_equal(one, two).item()


# -- the closed table ---------------

LEFT_OUT = """
    eval async_eval load save savez savez_compressed save_safetensors save_gguf compile grad vjp jvp
    value_and_grad vmap checkpoint metal_kernel cuda_kernel precompiled_cuda_kernel export_function
    import_function exporter export_to_dot from_dlpack seed key stream synchronize
    set_default_device new_stream clear_cache set_memory_limit set_wired_limit as_strided
    disable_compile __getattr__ average_gradients fully_shard get_args
""".split()


def test_the_table_names_functions_and_none_that_does_more_than_arithmetic():
    operations = ops.STORABLE
    assert set(OWN) <= operations
    assert not {name.rpartition(".")[2] for name in operations} & set(LEFT_OUT)
    assert all(callable(function(op)) for op in operations)


def test_every_function_that_is_recorded_is_in_the_table_or_left_out_on_purpose():
    recorded = {
        wrapper.__qualname__
        for _, table in intercept._TABLES
        for name, wrapper in table.items()
        if name != "array"
    }
    missing = {op for op in recorded - ops.STORABLE if op.rpartition(".")[2] not in LEFT_OUT}
    assert not missing and len(recorded) > 250


def test_no_operation_of_the_table_can_be_misused_to_reach_a_file(tmp_path):
    graph = Graph([(Site("a"), Node("mx.save", ("x.npy", site_node("a"))))])
    with pytest.raises(GraphFileError, match="no operation 'mx.save'"):
        graph.save(tmp_path / "g")
