"""What the analyses know of a model: the public face of `InterpretableModel`, as protocols.

The analyses stand below the model, whose class names them among its methods.  So this page is all
that they can ask of one, and whoever offers the same can be analysed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn


class ModuleLike(Protocol):
    """A module of the model: where it is, what it is, and inside a trace what it returns."""

    @property
    def path(self) -> str: ...

    @property
    def module(self) -> Any: ...

    @property
    def input(self) -> Any: ...

    @property
    def inputs(self) -> Any: ...

    @property
    def output(self) -> Any: ...


class LayersLike(Protocol):
    """The layers by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, layer: int, /) -> ModuleLike: ...


class TraceLike(Protocol):
    """One block: every module's output by name, and the token ids that the model was given."""

    @property
    def activations(self) -> Mapping[str, Any]: ...

    @property
    def tokens(self) -> mx.array | None: ...

    @property
    def lengths(self) -> list[int] | None: ...

    @property
    def saved_values(self) -> dict[str, Any]: ...

    @property
    def graph(self) -> Any: ...

    def grad(self, loss: Any, at: Any) -> Any: ...


class Traceable(Protocol):
    """A model that can be traced."""

    @property
    def tokenizer(self) -> Any: ...

    @property
    def layers(self) -> LayersLike: ...

    @property
    def output(self) -> Any: ...

    def trace(self, *inputs: Any) -> AbstractContextManager[TraceLike]: ...

    def __getitem__(self, name: str, /) -> ModuleLike: ...

    def sites(self, name: Any, /) -> list[str]: ...

    def named_modules(self) -> Iterable[tuple[str, nn.Module]]: ...

    def parameters(self) -> Mapping[str, mx.array]: ...

    @property
    def edits(self) -> Any: ...

    def encode(self, text: Any) -> list[int]: ...

    def token_to_str(self, token_id: int) -> str: ...

    def single_token(self, text: str) -> int: ...

    def sweep(self, x: Any, graphs: Any, **options: Any) -> Any: ...

    def edit(self, graph: Any) -> Any: ...

    def without_edits(self) -> Any: ...

    def position(self, text: Any, part: str) -> int: ...

    def decode(self, tokens: Any) -> str: ...


class CompiledLike(Protocol):
    """A graph as a function of inputs and params."""

    @property
    def graph(self) -> Any: ...

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any: ...


class Benchmarked(Protocol):
    """A model that runs graphs, and tells what it has compiled."""

    @property
    def module(self) -> Any: ...

    @property
    def output(self) -> Any: ...

    @property
    def inputs(self) -> Any: ...

    @property
    def compilations(self) -> int: ...

    def without_edits(self) -> Benchmarked: ...

    def trace(self, *inputs: Any, **kwargs: Any) -> AbstractContextManager[TraceLike]: ...

    def run(self, graph: Any, *inputs: Any, **kwargs: Any) -> Any: ...

    def compile(self, graph: Any, /) -> CompiledLike: ...

    def explain(self, graph: Any, *inputs: Any, **kwargs: Any) -> str: ...

    def refresh(self) -> None: ...
