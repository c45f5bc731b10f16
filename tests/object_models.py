"""Models that take and return objects."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from tests.outputs import Output


class Inner(nn.Module):
    """An object out of an array."""

    def __init__(self, kind: Any, width: int):
        super().__init__()
        self.proj = nn.Linear(width, width)
        object.__setattr__(self, "kind", kind)

    def __call__(self, x: mx.array) -> Any:
        y = self.proj(x)
        return self.kind(None, y, [x, mx.tanh(y)])


class Through(nn.Module):
    """An object in, an object out."""

    def __init__(self, kind: Any, width: int):
        super().__init__()
        self.head = nn.Linear(width, width)
        object.__setattr__(self, "kind", kind)

    def __call__(self, value: Any) -> Any:
        assert type(value) is type(self.kind(None, 0, []))
        return self.kind(None, self.head(value.logits) + value.hidden[1], list(value.hidden))


class Objects(nn.Module):
    """Objects between the modules and at the end."""

    def __init__(self, kind: Any = Output, width: int = 6):
        super().__init__()
        self.inner = Inner(kind, width)
        self.through = Through(kind, width)

    def __call__(self, x: mx.array) -> Any:
        return self.through(self.inner(x))


class Relay(nn.Module):
    """A different kind of object from each module to the next, and at the end."""

    def __init__(self, kinds: list[Any], width: int = 6):
        super().__init__()
        self.first = Inner(kinds[0], width)
        self.rest = [Passing(kind, width) for kind in kinds[1:]]

    def __call__(self, x: mx.array) -> Any:
        value = self.first(x)
        for module in self.rest:
            value = module(value)
        return value


class Passing(nn.Module):
    """Any object in, one of its own kind out; the logits are changed in place on the way."""

    def __init__(self, kind: Any, width: int):
        super().__init__()
        self.head = nn.Linear(width, width)
        object.__setattr__(self, "kind", kind)

    def __call__(self, value: Any) -> Any:
        first, second = value.hidden
        logits = value.logits
        logits += 1
        return self.kind(None, self.head(logits), [mx.tanh(second), first])


class Assistant(nn.Module):
    """A language model that returns an object, as those of vision-language packages do."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.language_model = inner

    @property
    def layers(self) -> Any:
        return self.language_model.layers

    def __call__(self, tokens: mx.array, cache: Any = None) -> Output:
        return Output(None, self.language_model(tokens, cache=cache))
