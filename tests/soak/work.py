"""What a soak's threads do: work whose answers were computed before, and work that has to fail.

Every piece of work gives a dict of arrays, texts and numbers.  It is done once before the threads
start; what a thread gets later has to be that.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph import errors
from mlxgraph import interventions as iv
from tests.models import make_llama

TEXTS = (
    "The capital of France is",
    "The Eiffel Tower is located in the city of",
    "The Big Ben is in",
    "Once upon a time",
)
RAGGED = [[1, 7, 3, 9, 4, 2, 8, 5, 30, 12, 40], [5, 11, 0, 8], [6, 13, 1, 2, 9, 21]]
Answer = dict[str, Any]


class Work(NamedTuple):
    """A piece of work.  Attributes: name: what it is; do: does it, and gives its answer."""

    name: str
    do: Callable[[], Answer]


class Models:
    """What all threads share: the embedded model, a random Llama, and vectors."""

    def __init__(self) -> None:
        self.tiny = mg.tiny()
        self.llama = mg.InterpretableModel(make_llama())
        self.vector = mx.random.normal((128,), key=mx.random.key(1))
        self.short = mx.random.normal((32,), key=mx.random.key(2))
        self.tokens = mx.array(RAGGED[:1])
        steered = mg.edit("layers.2", iv.add_vector(mg.param("v", (128,))), positions=-1)
        self.graph = steered >> mg.read("__model_output__", "logits")
        self.passes = self.tiny.compile(self.graph)
        mx.eval(self.vector, self.short, self.tokens)
        mx.eval(self.tiny.module.parameters(), self.llama.module.parameters())


def traces(of: Models, text: str) -> Answer:
    model = of.tiny
    with model.trace(text) as trace:
        model.layers[1].output[:, -1] += of.vector
        kept = model.layers[3].mlp.output[:, -2:].save()
        pattern = model.layers[2].attn.pattern.mean(axis=2).save()
        logits = model.output[:, -1].save()
    return {"kept": kept, "pattern": pattern, "logits": logits, "tokens": trace.tokens}


def looks(of: Models, layer: int) -> Answer:
    model = of.llama
    with model.trace(of.tokens) as trace:
        h = model.layers[layer].output
        if float(mx.abs(h).max()) > 0:
            h *= 0.5
        slope = trace.grad((model.output[:, -1] ** 2).mean(), h).save()
    return {"slope": slope, "later": trace.get("layers.2")}


def rows(of: Models, layer: int) -> Answer:
    model = of.llama
    with model.trace(RAGGED):
        model.layers[layer].output[:, -1] += of.short
        logits = model.output[:, -1].save()
    with model.trace() as trace:
        with trace.invoke(RAGGED[:1]):
            clean = model.layers[layer].output[:, -1]
        with trace.invoke(RAGGED[1:2]):
            model.layers[layer].output[:, -1] = clean
            moved = model.output[:, -1].save()
    return {"logits": logits, "moved": moved}


def compiled(of: Models, strength: float) -> Answer:
    return {"logits": of.passes(TEXTS[0], v=strength * of.vector)["logits"]}


def sweeps(of: Models, text: str) -> Answer:
    graphs = [mg.edit(f"layers.{k}.mlp", iv.zero_out, positions=-1) for k in range(4)]
    effects = of.tiny.sweep(text, graphs, metric=lambda logits: logits[7])
    return {"effects": effects.values}


def generates(of: Models, text: str) -> Answer:
    model = of.tiny
    with model.generate(text, max_tokens=5) as trace:
        model.layers[3].output[:, -1] += 0.1 * of.vector
    return {"tokens": mx.array(trace.tokens)}


def analyses(of: Models, layer: int) -> Answer:
    model = of.tiny
    states = mg.get_activations(model, TEXTS[1], layers=[layer])
    effects = model.activation_patching(
        TEXTS[0], "The capital of Japan is", layers=[layer], metric=lambda logits: logits[3]
    )
    return {"states": [*states.values()], "effects": effects.values}


def quick_model(of: Models, seed: int) -> Answer:
    """A model that nobody else has, and that is gone afterwards."""
    model = mg.InterpretableModel(make_small(seed))
    with model.trace(mx.ones((2, 3, 6))):
        model.layers[0].output *= 2.0
        out = model.output.save()
    return {"out": out}


class Small(nn.Module):
    """Two layers."""

    def __init__(self, seed: int):
        super().__init__()
        self.layers = [nn.Linear(6, 6), nn.Linear(6, 6)]
        for k, layer in enumerate(self.layers):
            layer.weight = mx.random.normal((6, 6), key=mx.random.key(10 * seed + k))
            layer.bias = mx.zeros((6,))

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.layers:
            x = mx.tanh(layer(x))
        return x


def make_small(seed: int) -> Small:
    """One of them, its weights computed."""
    module = Small(seed)
    mx.eval(module.parameters(), mx.random.state)  # of the layers' draws, which nobody looks at
    return module


# -- what fails -----------------------------------------------------------------------------------


class Own(Exception):
    """What the user's code raises."""


def misspelt(of: Models) -> Answer:
    with pytest.raises(errors.UnknownSiteError), of.tiny.trace(TEXTS[0]):
        of.tiny.layers[1].mpl.output.save()
    return {}


def misshapen(of: Models) -> Answer:
    with pytest.raises(errors.ShapeError), of.tiny.trace(TEXTS[0]):
        of.tiny.layers[1].output += mx.ones((7,))
    return {}


def disordered(of: Models) -> Answer:
    with pytest.raises(errors.OrderError), of.tiny.trace(TEXTS[0]):
        of.tiny.layers[1].output += of.tiny.layers[4].output
        of.tiny.output.save()
    return {}


def bad_tokens(of: Models) -> Answer:
    with pytest.raises(errors.InputError), of.llama.trace([[1, 10**6]]):
        of.llama.output.save()
    return {}


def raises_in_block(of: Models) -> Answer:
    with pytest.raises(Own), of.tiny.trace(TEXTS[2]):
        of.tiny.layers[0].output *= 0.0
        raise Own
    return {}


def raises_in_forward(of: Models) -> Answer:
    """In the middle of a run, as an interrupt would."""

    def stops(x: mx.array) -> mx.array:
        if x.any().item() or x.size:  # on the zeros that are tried first it gives their shape
            if mx.any(x != 0).item():
                raise KeyboardInterrupt
        return x

    with pytest.raises(KeyboardInterrupt), of.llama.trace(of.tokens):
        model = of.llama
        model.layers[1].output = mg.apply(stops, model.layers[1].output)
        model.output.save()
    return {}


def all_work(of: Models) -> list[Work]:
    """Every piece of work, with what it is done on."""
    kinds: list[tuple[Callable[..., Answer], tuple]] = [
        (traces, TEXTS),
        (looks, (0, 1)),
        (rows, (0, 2)),
        (compiled, (0.0, 1.0, 3.0)),
        (sweeps, TEXTS[:2]),
        (generates, TEXTS[:2]),
        (analyses, (1, 4)),
        (quick_model, (1, 2)),
    ]
    found = [
        Work(f"{do.__name__}({argument!r})", lambda do=do, argument=argument: do(of, argument))
        for do, arguments in kinds
        for argument in arguments
    ]
    failing = (misspelt, misshapen, disordered, bad_tokens, raises_in_block, raises_in_forward)
    return found + [Work(do.__name__, lambda do=do: do(of)) for do in failing]


def shuffled(works: list[Work], seed: int) -> list[Work]:
    """The same in an order of a thread's own."""
    return random.Random(seed).sample(works, len(works))
