"""One forward in which layers are given noise, and what they call answers with noise.

All noise is of order one, with a mark in a place where all others have nothing: what is a sum of
such says by its marks of which, and by how much of each.

In: a module tree, layers, a call.  Out: what was seen of each layer.  Never: says what it means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.graph.nested import entries, is_container, replace_item
from mlxgraph.graph.site import INPUTS, OUTPUT, Site
from mlxgraph.graph.stream import Term
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.arrays import same_data
from mlxgraph.mlx_facts.compiling import uncompiled
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.run.call import Call
from mlxgraph.run.standin import StandIn
from mlxgraph.run.tree import ModuleTree

MOST_MARKS = 32


class Child(NamedTuple):
    """A module as a layer called it: the arrays that it was given, of the stream's shape; the noise
    that it answered with, or None where what it gives has another shape."""

    site: Site
    given: list[mx.array]
    keys: tuple[Any, ...]
    noise: np.ndarray | None
    mark: int


class Seen:
    """What was seen of one layer."""

    def __init__(self, site: Site, keys: tuple[Any, ...], noise: np.ndarray):
        self.site, self.keys, self.noise = site, keys, noise
        self.children: list[Child] = []
        self.made: Any = None
        self.made_keys: tuple[Any, ...] = ()
        self.times = 1
        self.shift: Any = 0  # what was added to the noise, and taken from a part
        self.step = 0.0  # of the coarsest dtype

    @property
    def marks(self) -> int:
        """How many numbers in front are there for marks."""
        return min(MOST_MARKS, self.noise.size // 2)

    def streams_in(self, value: Any) -> list[mx.array]:
        """The arrays of the stream's shape in a value, as they are now: models change them."""
        arrays = [one for one in _arrays(value) if one.shape == self.noise.shape]
        return [same_data(one) for one in arrays if _is_float(one)]


class Probe:
    """One forward in which layers and what they call answer with noise.

    Args: swapped: of layers that are given another input, a part whose noise makes up for that, or
        None where none does.
    """

    def __init__(self, tree: ModuleTree, layers: list[str], swapped: Mapping[str, Term | None]):
        self._tree, self._layers, self._swapped = tree, frozenset(layers), swapped
        self._inside: list[str] = []
        self._calls: Counter[str] = Counter()
        self.seen: dict[str, Seen] = {}

    def run(self, call: Call) -> Probe:
        """Run it.  Returns: itself, with what was `seen` of each layer by its path."""
        tree, before = self._tree, random_state.current()
        standin = StandIn(tree, tree.modules, self._hook)
        try:
            with uncompiled() if tree.may_compile else nullcontext(), tree.beyond.as_it_was():
                call.forward(standin.root, call.args, call.kwargs)
        finally:
            random_state.restore(before)
        return self

    def _hook(self, path: str, original: Callable[..., Any], args: tuple, kwargs: Any) -> Any:
        number, above = self._calls[path], self._inside[-1] if self._inside else ""
        self._calls[path] += 1
        if path in self._layers and not self._layers.intersection(self._inside):
            return self._layer(path, number, original, args, kwargs)
        seen = self.seen.get(above)
        given = [] if seen is None else seen.streams_in((args, kwargs))
        self._inside.append(path)
        try:
            result = original(*args, **kwargs)
        finally:
            self._inside.pop()
        return result if seen is None else self._child(seen, path, number, given, result)

    def _layer(
        self, path: str, number: int, original: Callable[..., Any], args: tuple, kwargs: Any
    ) -> Any:
        keys, given = _first((args, kwargs))
        if path in self.seen:
            self.seen[path].times += 1
        elif _is_float(given):
            noise = _noise(given.shape, (path, 0), 0)
            shift = _noise(given.shape, (path, -1), None) if path in self._swapped else 0
            answer, kept = _in_dtype(noise + shift, given.dtype)
            self.seen[path] = seen = Seen(Site(path, INPUTS, number), keys, kept)
            seen.shift, seen.step = shift, step_of(given)
            args, kwargs = _put((args, kwargs), keys, answer)
        self._inside.append(path)
        try:
            result = original(*args, **kwargs)
        finally:
            self._inside.pop()
        if path in self.seen and self.seen[path].made is None:
            self.seen[path].made_keys, made = _first(result)
            self.seen[path].made = made if made is None else same_data(made)
        return result

    def _child(self, seen: Seen, path: str, number: int, given: list[mx.array], result: Any) -> Any:
        keys, made = _first(result)
        site, mark = Site(path, OUTPUT, number), len(seen.children) + 1
        shape, noise = seen.noise.shape, None
        if _is_float(made) and made.shape == shape and mark < seen.marks:
            noise = _noise(shape, (seen.site.path, mark), mark)
            term = self._swapped.get(seen.site.path)
            if term is not None and term.site == site:
                noise = noise - seen.shift / term.scale
            answer, noise = _in_dtype(noise, made.dtype)
            seen.step = max(seen.step, step_of(made))
            result = _put(result, keys, answer)
        seen.children.append(Child(site, given, keys, noise, mark))
        return result


def _noise(shape: tuple[int, ...], name: tuple[str, int], mark: int | None) -> np.ndarray:
    """Numbers of order one, but for the first: there is a one at the mark, and else nothing."""
    seed = [*name[0].encode(), name[1] + 1]
    noise = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    flat = noise.reshape(-1)
    flat[: min(MOST_MARKS, flat.size // 2)] = 0
    if mark is not None:
        flat[mark] = 1
    return noise


def _in_dtype(noise: np.ndarray, dtype: mx.Dtype) -> tuple[mx.array, np.ndarray]:
    """Noise as an array of a dtype, and the numbers that this has."""
    array = ARRAY(noise).astype(dtype)
    return array, np.array(array.astype(mx.float32))


def _is_float(value: Any) -> bool:
    return isinstance(value, ARRAY) and value.ndim > 1 and mx.issubdtype(value.dtype, mx.floating)


def step_of(array: Any) -> float:
    """How far apart neighbouring numbers of an array's dtype are, relative to them."""
    return float(mx.finfo(array.dtype).eps)


def _first(value: Any) -> tuple[tuple[Any, ...], Any]:
    """The first array of a nested value, and the keys that lead to it."""
    if isinstance(value, ARRAY):
        return (), value
    if is_container(value):
        for key, part in entries(value):
            keys, found = _first(part)
            if found is not None:
                return (key, *keys), found
    return (), None


def _arrays(value: Any) -> list[mx.array]:
    if isinstance(value, ARRAY):
        return [value]
    if not is_container(value):
        return []
    return [array for _, part in entries(value) for array in _arrays(part)]


def _put(value: Any, keys: tuple[Any, ...], array: mx.array) -> Any:
    """A copy of a nested value with another array where keys lead to."""
    if not keys:
        return array
    inner = dict(entries(value))[keys[0]]
    return replace_item(value, keys[0], _put(inner, keys[1:], array))
