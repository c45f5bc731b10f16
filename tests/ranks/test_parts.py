"""The parts that need no second process: shares, bytes, digests."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import InputError, RankError
from mlxgraph.mlx_facts.processes import together
from mlxgraph.ranks import world
from mlxgraph.ranks.said import digest, weights
from mlxgraph.ranks.share import Piece, shares, stretches
from mlxgraph.ranks.wire import packed, unpacked
from mlxgraph.sweep.among import among


def test_each_piece_is_somebodys_and_nobody_has_much_more_than_others():
    draw = np.random.default_rng(0)
    for count, size in itertools.product((0, 1, 3, 17, 100), (1, 2, 3, 4)):
        costs = draw.uniform(1, 2, count).tolist()
        found = shares(costs, size)
        assert sorted(itertools.chain(*found)) == list(range(count))
        loads = [sum(costs[n] for n in numbers) for numbers in found]
        assert max(loads) - min(loads) <= 2
        assert shares(costs, size) == found


def test_what_has_to_be_done_in_one_order_is_rank_0s():
    found = shares([1.0] * 6, 2, {4, 5})
    assert {4, 5} <= set(found[0]) and len(found[0]) == 3


def test_neighbours_stay_together_and_nobody_has_much_more_than_others():
    draw = np.random.default_rng(1)
    for count, size in itertools.product((0, 1, 5, 60), (1, 2, 4)):
        groups = sorted(draw.integers(0, 3, count).tolist())
        pieces = [Piece(n, float(draw.uniform(1, 2)), group, 4.0) for n, group in enumerate(groups)]
        found = stretches(pieces, size)
        assert [*itertools.chain(*found)] == list(range(count)) and len(found) == size
        whole = sum(one.cost for one in pieces) + 4 * len({*groups})
        loads = [
            sum(pieces[n].cost for n in own) + 4 * len({groups[n] for n in own}) for own in found
        ]
        assert max(loads) <= whole / size + 4 + 2


def test_a_sweep_is_shared_out_whole_and_by_forwards():
    model = mg.tiny()
    graphs = [mg.edit(f"layers.{k}", iv.scale(s)) for k in range(5) for s in (0.5, 2.0)]
    plan = model.sweep_plan("The capital of France is", graphs, metric="kl")
    found = among(plan._schedule, len(graphs), 2, ())
    assert sorted(found[0] + found[1]) == list(range(len(graphs)))
    assert len(found[0]) < len(found[1])  # edits of early layers take more of the model
    found = among(plan._schedule, len(graphs), 3, {7, 9})
    assert {7, 9} <= {*found[0]} and sorted(sum(found, [])) == list(range(len(graphs)))


def test_a_result_is_written_in_one_step(tmp_path: Path):
    path = tmp_path / "e.json"
    axes = {"a": range(200), "b": range(200)}
    effects = [mg.Effects(mx.full((200, 200), k), axes) for k in (1, 2)]
    mx.eval([one.values for one in effects])  # which another thread cannot do
    effects[0].save(path)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for one in effects:
                one.save(path)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(5):
            assert mg.Effects.load(path).shape == (200, 200)
    finally:
        stop.set()
        thread.join()
    assert [file.name for file in tmp_path.iterdir()] == ["e.json"]


def test_values_go_as_bytes_and_come_back():
    value = {
        0: [mx.array([[1.5, -2.0]]).astype(mx.bfloat16), mx.zeros((0, 3)), mx.array(True)],
        -1: ({("mlp", 2): np.array([1.0, np.nan])}, "text", None, 0.1, True, [], {}),
    }
    back = unpacked(together(packed(value), 4096))
    assert list(back) == [0, -1]
    for one, other in zip(back[0], value[0], strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert mx.array_equal(one, other).item()
    assert back[-1][1:] == value[-1][1:]
    assert np.array_equal(back[-1][0]["mlp", 2], value[-1][0]["mlp", 2], equal_nan=True)
    with pytest.raises(RankError, match="Random"):
        packed({0: np.random.RandomState(0)})


def test_a_digest_differs_where_things_do():
    large = mx.zeros((300, 300))
    other = mx.zeros((300, 300))
    other[-1, -1] = 1
    middle = mx.zeros((300, 300))
    middle[148] = 1
    things = [
        [1, 2], [1, 3], [[1], 2], (1.0, 2), "ab", ["a", "b"], None, {"a": 1}, {"a": 2},
        mx.array([1, 2]), mx.array([1, 3]), mx.array([1.0, 2.0]), mx.array([[1, 2]]), large, other,
        middle,
    ]  # fmt: skip
    assert len({digest(thing) for thing in things}) == len(things)
    assert digest(np.array([1, 2], np.int32)) == digest(mx.array([1, 2]))
    assert digest([1, "a", mx.array([0.5])]) == digest([1, "a", mx.array([0.5])])
    one, two = mg.tiny(), mg.tiny()
    assert weights(one.parameters().items()) == weights(two.parameters().items())
    changed = {**two.parameters(), "model.norm.weight": two.parameters()["model.norm.weight"] + 1}
    assert weights(one.parameters().items()) != weights(changed.items())


def test_one_process_has_all_of_a_value():
    model = mg.tiny()
    with model.trace("Hello"):
        attention = model.layers[1].self_attn
        own, whole = attention.heads.save(), mg.gather(attention.heads).save()
        attention.heads = mg.part(0.0 * attention.heads)
        edited = model.output.save()
    assert mx.array_equal(own, whole).item()
    with model.trace("Hello", interventions={"layers.1.self_attn": lambda h: 0.0 * h}):
        wanted = model.output.save()
    assert mx.allclose(edited, wanted, 1e-5, 1e-5).item()
    for wrong in (lambda: mg.gather(mx.zeros((2, 2)), axis=2), lambda: mg.gather(3)):
        with pytest.raises(InputError):
            wrong()
    with mg.alone():
        assert mg.get_activations(model, "Hello", layers=[0])["layer_0"].shape[0] == 1


def test_a_process_that_cannot_speak_to_the_others_says_so(monkeypatch: pytest.MonkeyPatch):
    model = mg.tiny()
    monkeypatch.setattr(world, "_launched", lambda: 2)
    world._post.cache_clear()
    with pytest.raises(RankError, match="one of 2"):
        mg.get_activations(model, "Hello", layers=[0])
    monkeypatch.setenv(world.VARIABLE, "1")
    assert mg.get_activations(model, "Hello", layers=[0])["layer_0"].shape[0] == 1
