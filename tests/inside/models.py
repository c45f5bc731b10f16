"""A module whose own forward calls MLX in every way that there is, and what it computes."""

from __future__ import annotations

from functools import partial

import mlx.core as mx
import mlx.nn as nn
from mlx.core import softmax
from mlx.nn import relu as rectified

ACTIVATIONS = {"silu": nn.silu, "gelu": nn.gelu}
WIDTH = 6


@partial(mx.compile, shapeless=True)
def gated(gate: mx.array, x: mx.array) -> mx.array:
    return nn.sigmoid(gate) * x


def helper(x: mx.array) -> mx.array:
    return mx.tanh(x)


class Steps(nn.Module):
    """One step a line: by attribute, of a submodule of MLX, by name, in a dict, compiled, held."""

    def __init__(self, width: int = WIDTH):
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.act = nn.elu

    def __call__(self, x: mx.array) -> mx.array:
        a = mx.softmax(x, axis=-1)
        b = softmax(self.inner(a), axis=0)
        c = ACTIVATIONS["silu"](b)
        d = gated(c, x)
        e = rectified(d) + self.act(d)
        f = helper(e)
        values, _ = mx.linalg.qr(mx.stop_gradient(f[0]), stream=mx.cpu)
        return nn.softmax(f * values.sum(), axis=-1)


STEPS = [
    ("softmax", 0), ("softmax", 1), ("silu", 0), ("gated", 0), ("relu", 0), ("elu", 0), ("tanh", 0),
    ("stop_gradient", 0), ("linalg.qr", 0), ("nn.softmax", 0),
]  # fmt: skip


class Stack(nn.Module):
    """Two of them, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [Steps(), Steps()]

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.layers:
            x = x + layer(x)
        return mx.exp(x)


class Twice(nn.Module):
    """One module under two names, called by both."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Steps()
        self.second = self.first

    def __call__(self, x: mx.array) -> mx.array:
        return self.second(self.first(x))


class Exponential(nn.Module):
    def __call__(self, x: mx.array) -> mx.array:
        return mx.exp(x)


class NamedAsOperations(nn.Module):
    """A module with parts whose paths are those of its operations."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = {"tanh": nn.Linear(WIDTH, WIDTH)}
        self.other = Exponential()

    def __call__(self, x: mx.array) -> mx.array:
        return mx.tanh(self.ops["tanh"](x)) + self.other(x)


class Named(nn.Module):
    """A module with a part of its own that is called `ops`."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = nn.Linear(WIDTH, WIDTH)

    def __call__(self, x: mx.array) -> mx.array:
        return mx.tanh(self.ops(x))
