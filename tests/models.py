"""Small models that the tests run on: random Llamas, and modules that do awkward things."""

from __future__ import annotations

import gc
import weakref
from collections import Counter, deque
from functools import partial
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import llama

import mlxgraph as mg

VOCABULARY = 50
WIDTH = 32
HEADS = 4
LAYERS = 3


def make_llama(tied: bool = True, layers: int = LAYERS, seed: int = 0) -> llama.Model:
    """A random mlx-lm Llama: width 32, 4 query heads on 2 key-value heads, 50 tokens."""
    mx.random.seed(seed)
    model = llama.Model(
        llama.ModelArgs(
            model_type="llama",
            hidden_size=WIDTH,
            num_hidden_layers=layers,
            intermediate_size=64,
            num_attention_heads=HEADS,
            num_key_value_heads=2,
            rms_norm_eps=1e-5,
            vocab_size=VOCABULARY,
            tie_word_embeddings=tied,
        )
    )
    # Weights of order one, so that edits are felt at the output.
    for name, weight in list(nn.utils.tree_flatten(model.parameters())):
        if weight.ndim == 2:
            model.load_weights([(name, weight * 2.0)], strict=False)
    mx.eval(model.parameters())
    return model


def make_quantised_llama() -> llama.Model:
    """The same with untied heads, in 4 bits."""
    model = make_llama(tied=False)
    nn.quantize(model, group_size=32)
    return model


class Scale(nn.Module):
    """`x * weight`: one elementwise step, with a parameter."""

    def __init__(self, width: int, value: float = 1.0):
        super().__init__()
        self.weight = mx.full((width,), value)

    def __call__(self, x: mx.array) -> mx.array:
        return x * self.weight


class Chain(nn.Module):
    """Linear layers one after the other, on float inputs of shape (batch, length, width)."""

    def __init__(self, width: int = 6, depth: int = 3):
        super().__init__()
        self.layers = [nn.Linear(width, width) for _ in range(depth)]

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.layers:
            x = x + mx.tanh(layer(x))
        return x


class InPlace(nn.Module):
    """A residual stream kept by `x += y`, which changes an array object in place."""

    def __init__(self, width: int = 6, depth: int = 3):
        super().__init__()
        self.embed = nn.Linear(width, width)
        self.layers = [nn.Linear(width, width) for _ in range(depth)]

    def __call__(self, x: mx.array) -> mx.array:
        x = self.embed(x)
        for layer in self.layers:
            x += mx.tanh(layer(x))
        return x


class Counting(nn.Module):
    """Counts how often Python comes through it."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner
        object.__setattr__(self, "ticks", [])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.ticks.append(1)
        return self.inner(*args, **kwargs)


class Reached(nn.Module):
    """Calls its children by way of what holds on to them: a helper, a closure, a weak reference."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.parts = {name: nn.Linear(width, width) for name in "abcd"}
        aim, last = weakref.ref(self.parts["b"]), self.parts["d"]
        self.steps = deque([partial(self.parts["a"]), lambda x: aim()(x)])
        self.helper = SimpleNamespace(pair=[self.parts["c"], lambda x: mx.tanh(last(x))])

    def __call__(self, x: mx.array) -> mx.array:
        for step in (*self.steps, *self.helper.pair):
            x = x + step(x)
        return x


class CountedChain(nn.Module):
    """A chain whose layers count their calls."""

    def __init__(self, width: int = 6, depth: int = 4):
        super().__init__()
        self.layers = [Counting(nn.Linear(width, width)) for _ in range(depth)]

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.layers:
            x = mx.tanh(layer(x))
        return x

    def ticks(self) -> list[int]:
        """Calls of each layer so far."""
        return [len(layer.ticks) for layer in self.layers]

    def reset(self) -> None:
        """Count from nought again."""
        for layer in self.layers:
            layer.ticks.clear()


class Mixed(nn.Module):
    """Two inputs and a keyword in; a tuple, a dict and a list on the way; modules in containers."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.parts = {"left": Pair(width), "right": Named(width)}
        self.nested = [[Scale(width, 2.0), Scale(width, 3.0)], [Scale(width, 0.5)]]
        self.shared = Scale(width, 1.5)
        self.also_shared = self.shared
        self.unused = Scale(width)

    def __call__(self, x: mx.array, y: mx.array, gain: mx.array | None = None) -> dict[str, Any]:
        a, b = self.parts["left"](x, other=y)
        named = self.parts["right"](a)
        for row in self.nested:
            for module in row:
                b = module(b)
        twice = self.also_shared(self.shared(named["sum"]))
        if gain is not None:
            twice = twice * gain
        return {"main": twice + b, "extras": [named["difference"], (a,)]}


class Pair(nn.Module):
    """A tuple out."""

    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Linear(width, width)

    def __call__(self, x: mx.array, other: mx.array) -> tuple[mx.array, mx.array]:
        return self.proj(x), self.proj(other)


class Named(nn.Module):
    """A dict out."""

    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Linear(width, width)

    def __call__(self, x: mx.array) -> dict[str, mx.array]:
        y = self.proj(x)
        return {"sum": x + y, "difference": x - y}


class Dispatching(nn.Module):
    """Treats a child by its type, as some models do."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.steps = [nn.Linear(width, width), Scale(width, 2.0), nn.RMSNorm(width)]

    def __call__(self, x: mx.array) -> mx.array:
        for step in self.steps:
            if isinstance(step, nn.Linear):
                x = x + step(x)
            elif type(step).__name__ == "Scale":
                x = step(x)
            else:
                x = step(x) - 1
        return x


class Branching(nn.Module):
    """Looks at values while it runs, so that no trace by `mx.compile` can take it."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.up = Scale(width, 2.0)
        self.down = Scale(width, 0.5)
        self.out = nn.Linear(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.up(x) if x.sum().item() > 0 else self.down(x)
        return self.out(x)


class Remembering(nn.Module):
    """Stores what it last saw in itself, and counts its calls in an array."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.count = mx.array(0)
        self.last: Any = None
        self.history: list[Any] = []

    def __call__(self, x: mx.array) -> mx.array:
        self.last = x
        self.history.append(x)
        self.count = self.count + 1
        return self.inner(x) + self.count


class Interrupting(nn.Module):
    """Raises what it is told to on its n-th call, and on every call from then on."""

    def __init__(self, width: int = 6, error: type[BaseException] | None = None, on: int = 1):
        super().__init__()
        self.inner = nn.Linear(width, width)
        object.__setattr__(self, "error", error)
        object.__setattr__(self, "left", [on])

    def arm(self, error: type[BaseException] | None, on: int) -> None:
        """Raise `error` from the `on`-th call on; never, where `error` is None."""
        object.__setattr__(self, "error", error)
        self.left[0] = on

    def __call__(self, x: mx.array) -> mx.array:
        if self.error is not None:
            self.left[0] -= 1
            if self.left[0] <= 0:
                raise self.error("told to")
        return self.inner(x)


class InterruptedChain(nn.Module):
    """A chain with an `Interrupting` module in its middle."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.layers = [nn.Linear(width, width), Interrupting(width), nn.Linear(width, width)]

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.layers:
            x = mx.tanh(layer(x))
        return x


def same(a: Any, b: Any, tolerance: float = 0.0) -> bool:
    """Whether two arrays have one shape and dtype and differ by at most `tolerance`."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.size:
        return True
    if a.dtype == mx.bool_ or tolerance == 0.0:
        return bool(mx.array_equal(a, b, equal_nan=mx.issubdtype(a.dtype, mx.inexact)))
    return bool(mx.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))


def identity_of(module: nn.Module) -> list[tuple[str, int, int]]:
    """Path, class and identity of every module, and of every parameter."""
    found = [(path, id(type(part)), id(part)) for path, part in module.named_modules()]
    parameters = nn.utils.tree_flatten(module.parameters())
    found += [(path, id(type(array)), id(array)) for path, array in parameters]
    return sorted(found)


def alive(*kinds: type) -> int:
    """How many objects of some types there are, garbage left out."""
    gc.collect()
    counts = Counter(map(type, gc.get_objects()))
    return sum(count for kind, count in counts.items() if issubclass(kind, kinds))


def made(module: Any) -> Any:
    """A module, or an instance of a module class, with its random weights computed, to trace."""
    mx.random.seed(6)
    module = module() if isinstance(module, type) else module
    mx.eval(module.parameters())
    return mg.InterpretableModel(module)
