"""Ranks that share work out give the answers of one process; and what happens where they cannot."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.sample_utils import make_logits_processors, make_sampler

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.analysis import collect
from mlxgraph.errors import RankError, RanksDifferError
from mlxgraph.trace import batch_generation

TEXTS = ["The capital of France is", "Hello", "The Eiffel Tower is in", "a b c", "one two three"]
X, OTHER = TEXTS[0], "The capital of Italy is"
model = mg.tiny()
rank = mx.distributed.init().rank()
forwards = [0]
real_batch = collect._one_batch


def counting(*args: Any) -> Any:
    forwards[0] += 1
    return real_batch(*args)


collect._one_batch = counting


def plain(value: Any) -> list[np.ndarray]:
    if isinstance(value, dict) and not isinstance(value, mg.Effects):
        return [np.array(one) for one in value.values()]
    if isinstance(value, list):
        return [np.array(one) for one in value]
    return [np.asarray(value)]


def alike(name: str, ask: Callable[[], Any]) -> None:
    """What all ranks found together is what this one finds alone, to the last bit."""
    mx.random.seed(7)
    found = plain(ask())
    with mg.alone():
        mx.random.seed(7)
        wanted = plain(ask())
    assert len(found) == len(wanted), name
    for one, other in zip(found, wanted, strict=True):
        assert np.array_equal(one, other, equal_nan=True), name


def saves() -> list[Any]:
    graphs = [
        mg.edit(f"layers.{k}.mlp", iv.scale(0.5)) >> mg.read("layers.4", "h") for k in (0, 1, 2)
    ]
    return [one["h"] for one in model.sweep(X, graphs)]


def with_draws() -> list[Any]:
    graphs = [mg.edit(f"layers.{k}", iv.noise(0.5)) for k in (0, 1, 2)]
    found = model.sweep(X, [*graphs, mg.edit("layers.1", iv.scale(0.1))], metric="l2")
    return [found, mx.random.normal((3,))]


def generated(**options: Any) -> Callable[[], Any]:
    """Tokens of each text, and what was saved of each at each step."""

    def ask() -> Any:
        with model.generate(
            [*map(model.encode, TEXTS), [5]], max_tokens=6, stop="a", **options
        ) as t:
            model.layers[2].output[:, -1] *= 1.5
            kept = model.layers[3].output.save()
        values = [one for step in range(len(kept)) for one in kept[step] if one is not None]
        counts = [[one is None for one in kept[step]] for step in range(len(kept))]
        steps = [[-1 if one is None else int(one) for one in step] for step in t.stream()]
        texts = [[ord(letter) for letter in text] for text in t.text]
        return [*t.tokens, *texts, *counts, *steps, *values, mx.random.normal((2,))]

    return ask


def answers() -> None:
    by_strength = mg.edit("layers.2.mlp", lambda h: h * mg.param("alpha"))
    strengths = {"alpha": [0.0, 0.5, 2.0]}
    pairs = [X, "The capital of Spain is"], [OTHER, "The capital of Japan is"]
    alike("batches", lambda: mg.batch_get_activations(model, TEXTS, batch_size=1))
    alike("fewer prompts than ranks", lambda: mg.get_activations(model, X, positions=[0, -1]))
    alike("sweep", lambda: model.sweep(X, by_strength, over=strengths, metric="kl"))
    alike("saves", saves)
    alike("draws", with_draws)
    alike("pairs", lambda: model.activation_patching(*pairs, metric="l2", average=False))
    alike("map", lambda: model.activation_patching(X, OTHER, "mlp", metric="l2", positions="all"))
    alike("mean", lambda: model.ablation(X, how="mean", dataset=TEXTS))
    alike("generation", generated())
    alike("sampled", generated(sampler=make_sampler(temp=1.0)))
    alike("penalty", generated(logits_processors=make_logits_processors(None, 1.3)))
    alike("one text to write", lambda: model.generate([X], max_tokens=3).tokens)
    alike("heads", lambda: model.head_scores(length=4, samples=5))
    found = mg.get_activations(model, TEXTS)
    with mg.alone():
        wanted = mg.get_activations(model, TEXTS)
    assert all(mx.allclose(found[name], wanted[name], 1e-4, 1e-5).item() for name in wanted)


def shared_out() -> None:
    forwards[0] = 0
    mg.batch_get_activations(model, TEXTS, batch_size=1)
    assert forwards[0] < len(TEXTS)
    with mg.alone():
        forwards[0] = 0
        mg.batch_get_activations(model, TEXTS, batch_size=1)
        assert forwards[0] == len(TEXTS)


def texts_shared_out() -> None:
    seen: list[int] = []

    class Counting(batch_generation.Texts):
        def __init__(self, lengths: Any, mine: Any):
            super().__init__(lengths, mine)
            seen.append(len(self.mine))

    batch_generation.Texts, real = Counting, batch_generation.Texts  # type: ignore[misc]
    model.generate(TEXTS, max_tokens=2).text  # noqa: B018 - that runs it
    model.generate(TEXTS, max_tokens=2, sampler=lambda p: p.argmax(-1)).text  # noqa: B018
    for _ in model.generate(TEXTS, max_tokens=2).stream():
        pass
    batch_generation.Texts = real  # type: ignore[misc]
    one, other, streamed = seen
    assert 0 < one < len(TEXTS) == streamed
    assert other == (0 if rank else len(TEXTS))  # a function that may count its calls


def differing() -> None:
    with pytest.raises(RanksDifferError, match="prompts"):
        mg.get_activations(model, TEXTS if rank else TEXTS[::-1])
    mx.random.seed(rank)
    with pytest.raises(RanksDifferError, match="values"):
        model.sweep(X, [mg.edit("layers.1", iv.add_vector(mx.random.normal((128,))))], metric="l2")
    with pytest.raises(RanksDifferError, match="options"):
        model.generate(TEXTS, max_tokens=2, stop="." if rank else None).text  # noqa: B018
    with pytest.raises(RanksDifferError, match="call"):
        if rank:
            mg.get_activations(model, TEXTS)
        else:
            model.head_scores(length=4)


def failing() -> None:
    """One rank's failure is every rank's, with its message; and afterwards they go on."""

    def bad(*args: Any) -> Any:
        if forwards[0]:
            raise ValueError("no such luck")
        return counting(*args)

    forwards[0] = 0
    collect._one_batch = bad if rank == 1 else counting
    error: type[Exception] = ValueError if rank == 1 else RankError
    with pytest.raises(error, match="no such luck"):
        mg.batch_get_activations(model, TEXTS * 3, batch_size=1)
    collect._one_batch = counting
    with pytest.raises(error, match="cannot"):
        mg.get_activations(model, BadlyTokenised() if rank == 1 else TEXTS)
    answers_again = mg.get_activations(model, TEXTS)
    assert answers_again["layer_0"].shape[0] == len(TEXTS)


class BadlyTokenised(list):
    def __iter__(self) -> Any:
        raise ValueError("cannot be read")


answers()
shared_out()
texts_shared_out()
differing()
failing()
sys.stdout.write(f"rank {rank} is done\n")
