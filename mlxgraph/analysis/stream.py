"""The residual stream as edges: what each part of a layer reads of it, and what it adds.

A layer is taken to be a sum: what it was given, and what the modules that it holds add.  Whether it
is, a forward shows for each layer: given another input, and all its modules held at what they gave,
it gives what it gave and that difference.

In: a model, a text.  Out: what a run leaves at the parts of layers, and where a part reads the
stream.
Raises where a layer is no such sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.analysis.inputs import arrays_in, computed, first_array
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.analysis.writers import children
from mlxgraph.errors import InputError, NeverCalledError, UnknownSiteError

NEAR = 0.02  # of the noise: what rounding leaves of it, where the stream goes through unchanged


class Read(NamedTuple):
    """Where a part of a layer reads the stream.

    Attributes: part: the module; at: the one whose input is the stream: a norm before the part, or
        the part itself; shared: whether the norm is that of other parts too.
    """

    part: str
    at: str
    shared: bool

    def sharing(self, shared: bool) -> Read:
        """The same, once that is known."""
        return self._replace(shared=shared)


class Base:
    """A run without edits, as it is at the parts of the layers.

    Attributes:
        blocks: the layers' paths, by number; children: of each layer, the modules that it holds
            and calls; given, made: first arrays of their inputs and outputs, those of the layers
            too, by path.
    """

    def __init__(self, model: Traceable, row: mx.array, layers: Iterable[int]):
        self._model, self._row = model, row
        self.blocks = {layer: model.layers[layer].path for layer in layers}
        self.children: dict[int, list[str]] = {layer: [] for layer in self.blocks}
        self.given: dict[str, Any] = {}
        self.made: dict[str, Any] = {}
        tree = children(model)
        with model.trace(row):
            for layer, block in self.blocks.items():
                for name in (block, *tree.get(block, ())):
                    try:
                        handle = model[name]
                        made = first_array(handle.output)
                        given = next(arrays_in(handle.inputs), None)
                    except (NeverCalledError, UnknownSiteError, IndexError):
                        continue
                    if not isinstance(made, mx.array):
                        continue
                    self.made[name] = made.save()  # type: ignore[attr-defined]
                    if isinstance(given, mx.array):
                        self.given[name] = given.save()  # type: ignore[attr-defined]
                    if name != block:
                        self.children[layer].append(name)
        computed(self.given, self.made)

    def child_of(self, layer: int, name: str) -> str | None:
        """The module of a layer that a site is, or is inside of."""
        for child in self.children[layer]:
            if name == child or name.startswith(f"{child}."):
                return child
        return None

    def after(self, layer: int, part: str) -> set[str]:
        """A part, and the modules of its layer that go by what it gives: a norm after it."""
        found, latest = {part}, [part]
        while latest:
            made = [self.made[name] for name in latest]
            latest = [
                child
                for child in self.children[layer]
                if child not in found
                and child in self.given
                and any(_same(self.given[child], one) for one in made)
            ]
            found.update(latest)
        return found

    def read(self, layer: int, part: str) -> Read:
        """Where a part reads the stream.  Raises: InputError for a part that is given no array."""
        if part not in self.given:
            raise InputError(
                f"{part} is called with no array, and so nothing flows into it by the residual"
                " stream.\n  Write another part of the layer."
            )
        own = self.given[part]
        before = [
            child
            for child in self.children[layer]
            if child != part and child in self.given and _same(self.made[child], own)
        ]
        if not before:
            return Read(part, part, False)
        return Read(part, before[0], False)

    def check(self, layers: Sequence[int], reads: Sequence[tuple[int, str]]) -> list[Read]:
        """Where parts of layers read the stream.

        Args: layers: those that the stream has to go through; reads: parts, with their layers.
        Raises: InputError for a layer that does not pass on what it is given, or a part that
            reads something else.
        """
        found = [self.read(layer, part) for layer, part in reads]
        noise = self._noise()
        shifted: dict[int | str, Any] = {}
        model = self._model
        with model.trace(self._row):
            for layer in layers:
                first_array(model[self.blocks[layer]].input)[...] = (
                    self.given[self.blocks[layer]] + noise[layer]
                )
                for number, (own_layer, _) in enumerate(reads):
                    if own_layer == layer:
                        shifted[number] = first_array(model[found[number].at].input).save()
                self.hold(model, layer, ())
                shifted[self.blocks[layer]] = first_array(model[self.blocks[layer]].output).save()
        mx.eval(shifted)
        for layer in layers:
            block = self.blocks[layer]
            if _differs(shifted[block], self.made[block], noise[layer]):
                raise no_sum(
                    block, f"{block} does not pass on what it is given, but for what its parts add"
                )
        for number, (layer, part) in enumerate(reads):
            if _differs(shifted[number], self.given[found[number].at], noise[layer]):
                raise no_sum(part, f"{part} does not read the residual stream as it is")
        shared = self._shared(
            [(layer, read) for (layer, _), read in zip(reads, found, strict=True)]
        )
        return [
            read.sharing((layer, read) in shared)
            for (layer, _), read in zip(reads, found, strict=True)
        ]

    def _noise(self) -> dict[int, mx.array]:
        """For each layer a difference that matters, in the dtype of its input: not less than what
        the layer gives is rounded by, which may be many times what it is given."""
        key, found = mx.random.key(0), {}
        for layer, block in self.blocks.items():
            was = self.given[block].astype(mx.float32)
            key, own = mx.random.split(key)
            sizes = [was, self.made[block].astype(mx.float32)]
            scale = mx.sqrt(mx.max(mx.stack([mx.mean(mx.square(one)) for one in sizes])))
            found[layer] = (mx.random.normal(was.shape, key=own) * scale).astype(
                self.given[block].dtype
            )
        return found

    def _shared(self, reads: Sequence[tuple[int, Read]]) -> set[tuple[int, Read]]:
        """Those whose norm gives to other parts of the layer too.

        Layers are asked together, one part of each at a time: each is given what it was given.
        """
        waiting = [one for one in dict.fromkeys(reads) if one[1].at != one[1].part]
        found: set[tuple[int, Read]] = set()
        while waiting:
            now = list({layer: (layer, read) for layer, read in reversed(waiting)}.values())
            waiting = [one for one in waiting if one not in now]
            given = [self._given_beside(now, shift) for shift in (False, True)]
            found.update(one for one in now if not all(map(_same, given[0][one], given[1][one])))
        return found

    def _given_beside(
        self, reads: Sequence[tuple[int, Read]], shift: bool
    ) -> dict[tuple[int, Read], list[Any]]:
        """What the other parts are given, where what a norm is given is shifted by noise, or not.

        Args: reads: of a layer each, one of its parts with a norm before it.
        """
        model, noise = self._model, self._noise() if shift else {}
        found: dict[tuple[int, Read], list[Any]] = {}
        with model.trace(self._row):
            for layer, read in sorted(reads, key=lambda one: one[0]):
                block = self.blocks[layer]
                first_array(model[block].input)[...] = self.given[block]
                there = first_array(model[read.at].input)
                there[...] = self.given[read.at] + (noise[layer] if shift else 0)
                found[layer, read] = [
                    next(arrays_in(model[child].inputs)).save()
                    for child in self.children[layer]
                    if child not in (read.part, read.at) and child in self.given
                ]
                self.hold(model, layer, (read.at,))
        return found

    def hold(self, model: Traceable, layer: int, free: Iterable[str], rows: int = 1) -> None:
        """In an open block: keep all modules of a layer at what they gave, but for some.

        Args: rows: of the input, copies of the text.
        """
        for child in self.children[layer]:
            if child not in free:
                held = first_array(model[child].output)
                held[...] = (
                    mx.repeat(self.made[child], rows, axis=0) if rows > 1 else (self.made[child])
                )


def no_sum(part: str, what: str) -> InputError:
    """The error for a model that is no sum of its parts."""
    return InputError(
        f"{what}: which paths lead there cannot be told.\n"
        "  Write model.activation_patching(...) for the effect by all paths."
    )


def _same(one: mx.array, other: mx.array) -> bool:
    return one.shape == other.shape and bool(mx.array_equal(one, other).item())


def _differs(shifted: mx.array, was: mx.array, noise: mx.array) -> bool:
    """Whether something is not the former value and the noise."""
    if shifted.shape != noise.shape:
        return True
    gap = shifted.astype(mx.float32) - was.astype(mx.float32) - noise
    return bool((mx.mean(mx.abs(gap)) > NEAR * mx.mean(mx.abs(noise))).item())
