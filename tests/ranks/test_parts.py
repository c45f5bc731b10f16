"""The parts that need no second process: shares, bytes, digests."""

from __future__ import annotations

import itertools

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import InputError, RankError
from mlxgraph.mlx_facts.processes import together
from mlxgraph.ranks import world
from mlxgraph.ranks.said import digest, weights
from mlxgraph.ranks.share import shares
from mlxgraph.ranks.wire import packed, unpacked


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
    things = [
        [1, 2], [1, 3], [[1], 2], (1.0, 2), "ab", ["a", "b"], None, {"a": 1}, {"a": 2},
        mx.array([1, 2]), mx.array([1, 3]), mx.array([1.0, 2.0]), mx.array([[1, 2]]), large, other,
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
