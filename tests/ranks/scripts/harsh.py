"""What users of several ranks do to them; each is noticed, or gives what one process gives."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import MLXGraphError, RanksDifferError

TEXTS = ["The capital of France is", "Hello", "The Eiffel Tower is in", "a b c", "one two three"]
model = mg.tiny()
rank = mx.distributed.init().rank()
folder = Path(sys.argv[1])


def same(found: Any, wanted: Any) -> None:
    assert np.array_equal(np.asarray(found), np.asarray(wanted), equal_nan=True)


def none_one_and_few() -> None:
    """As one process does, errors included."""
    for texts in ([], TEXTS[:1], TEXTS[:2], TEXTS[0]):
        for ask in (
            lambda t: mg.get_activations(model, t, layers=[1])["layer_1"],
            lambda t: mg.batch_get_activations(model, t, layers=[1])["layer_1"],
            lambda t: model.generate(t, max_tokens=2).tokens,
            lambda t: model.sweep(t, [mg.edit("layers.1", iv.scale(0.5))], metric="l2"),
            lambda t: model.sweep(TEXTS[0], [mg.edit("layers.1", iv.scale(0.5))] * len(t)),
            lambda t: model.ablation(TEXTS[0], how="mean", dataset=t),
            lambda t: model.activation_patching(t, t, metric="l2", normalize=False),
        ):
            with mg.alone():
                wanted = tried(ask, texts)
            found = tried(ask, texts)
            if isinstance(wanted, type):
                assert found is wanted, (found, wanted, texts)
            elif isinstance(wanted, list):
                assert found == wanted
            elif isinstance(wanted, (mg.Effects, mx.array)):
                assert np.allclose(np.asarray(found), np.asarray(wanted), 1e-4, 1e-4)


def tried(ask: Any, texts: Any) -> Any:
    try:
        return ask(texts)
    except MLXGraphError as error:
        return type(error)


def inside_a_block() -> None:
    """A method of many prompts in a block on the same model, and on another."""
    other = mg.tiny()
    with mg.alone():
        wanted = mg.get_activations(model, TEXTS, layers=[1])["layer_1"]
    with model.trace(TEXTS[0]):
        found = mg.get_activations(other, TEXTS, layers=[1])["layer_1"]
        again = mg.get_activations(model, TEXTS, layers=[1])["layer_1"]
        model.layers[1].output.save()
    assert mx.allclose(found, wanted, 1e-4, 1e-5).item()
    assert mx.allclose(again, wanted, 1e-4, 1e-5).item()


def in_threads() -> None:
    found: dict[int, Any] = {}

    def work(number: int) -> None:
        found[number] = mg.get_activations(model, TEXTS, layers=[number])[f"layer_{number}"]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    own = mg.get_activations(model, TEXTS, layers=[0])["layer_0"]
    for thread in threads:
        thread.join()
    assert mx.allclose(found[0], own, 1e-4, 1e-5).item()


def files_of_all() -> None:
    """All ranks write the same file at once: it is whole, and reads back."""
    effects = model.sweep(TEXTS[0], mg.edit("layers.2.mlp", lambda h: h * mg.param("a")),
                          over={"a": [0.0, 1.0]}, metric="l2")  # fmt: skip
    for _ in range(20):
        effects.save(folder / "effects.json")
        same(mg.Effects.load(folder / "effects.json"), effects)
    graph = mg.edit("layers.1", iv.add_vector(mx.ones(128)))
    for _ in range(20):
        graph.save(folder / "graph.mlxg")
        assert mg.Graph.load(folder / "graph.mlxg") == graph


def of_another_kind() -> None:
    """What ranks are given otherwise is noticed."""
    graph = mg.edit("layers.2.mlp", lambda h: h * mg.param("a"))
    with pytest.raises(RanksDifferError):
        model.sweep(TEXTS[0], graph, over={"a": [0.0, 1.0 + rank]}, metric="l2")
    with pytest.raises(RanksDifferError):
        model.sweep(TEXTS[0], graph, over={"a": [0.0, 1.0]}, metric="l2" if rank else "kl")
    with pytest.raises(RanksDifferError):
        mg.batch_get_activations(model, TEXTS, batch_size=1 + rank)
    with pytest.raises(RanksDifferError):
        model.head_scores(length=4, seed=rank)
    with pytest.raises(RanksDifferError):
        model.activation_patching(TEXTS, TEXTS, metric="kl" if rank else "l2", normalize=False)
    with pytest.raises(RanksDifferError):
        mg.get_activations(model, TEXTS, dtype=mx.float16 if rank else None)


none_one_and_few()
inside_a_block()
in_threads()
files_of_all()
of_another_kind()
sys.stdout.write(f"rank {rank} is done\n")
