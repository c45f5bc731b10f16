"""Proofs that a last block gives at few positions what it gives at all.

The forward is traced, and its shapes compared; and the block is run both ways on random numbers in
float32.  Never: evaluates what a transformation follows, or anything but the last block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlxgraph.graph.census import Census
from mlxgraph.mlx_facts.compiling import only_traced
from mlxgraph.mlx_facts.originals import ARRAY, normal, zeros
from mlxgraph.run.answering import Stop
from mlxgraph.run.call import Call
from mlxgraph.run.filled import filled
from mlxgraph.run.pushdown import WHOLE
from mlxgraph.run.standin import StandIn
from mlxgraph.run.tree import ModuleTree
from mlxgraph.run.two_passes import AtPositions, Original, kinds_of, named

SURE = 1e-5  # of the largest number: the same in float32 but for the order of sums
MOST = 2**30  # numbers of a block that are written out in float32 for this, 4 GB
FELT = 100  # times that difference: what other tokens before the wanted ones make of it at least


def lengths_that_matter(tree: ModuleTree, path: str) -> list[int]:
    """The lengths at which a block may change what it does: whole numbers among its settings, as a
    window is, and powers of two."""
    found = {1 << k for k in range(24)}
    for other, module in tree.modules.items():
        below, above = f"{other}.".startswith(f"{path}."), f"{path}.".startswith(f"{other}.")
        if below or above or not other:
            for value in (*vars(module).values(), *module.values()):
                found.update(_numbers(value))
    return sorted(found)


def _numbers(value: Any) -> set[int]:
    """The whole numbers of a setting, and those after them; of a configuration's fields too."""
    if isinstance(value, (ARRAY, nn.Module)):
        return set()
    if not isinstance(value, (int, list, tuple, dict)):
        value = [*getattr(value, "__dict__", {}).values()]
    values = [value] if isinstance(value, int) else list(_plain(value))
    return {one + k for one in values if type(one) is int and one > 0 for k in (0, 1)}


def _plain(value: Any) -> Iterator[Any]:
    """What lists and dicts hold, in any depth."""
    if isinstance(value, dict) and not isinstance(value, nn.Module):
        value = [*value.values()]
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _plain(one)
    else:
        yield value


def keeps_shapes(at: AtPositions, census: Census, tree: ModuleTree, call: Call) -> bool:
    """Whether a forward so gives an output of just the wanted positions; traced, not computed."""
    shapes: list[tuple[int, ...]] = []

    def enter(path: str, block: Original, args: tuple, kwargs: dict[str, Any]) -> Any:
        return at.run(block, args, kwargs)

    def forward(*tracers: mx.array) -> None:
        root = StandIn(tree, [at.path], enter).root
        args, kwargs = call.filled(tracers)
        with tree.beyond.as_it_was():
            shapes.append(call.forward(root, args, kwargs).shape)

    try:
        only_traced(forward, call.arrays)
    except Exception:  # it asks more of a cache, or needs all positions
        return False
    batch, _, width = census.values[WHOLE].shape
    return shapes == [(batch, at.stop - at.start, width)]


def gives_the_same(at: AtPositions, tree: ModuleTree, call: Call) -> bool:
    """Whether what enters the final norm is the same both ways, for one row of random numbers.

    In float32, whatever the model's precision, so that what is wrong cannot pass for rounding: the
    last block alone is computed.  What comes before the wanted positions has to matter to them.
    A block too large to be written out so, as one of many experts may be, is not known to.
    """
    if _in_half_precision(tree.modules[at.path]) > MOST:
        return False
    weights = [
        w.astype(mx.float32) if mx.issubdtype(w.dtype, mx.floating) else w
        for w in filled(tree.weights())
    ]
    ids = zeros((1, at.length), call.arrays[0].dtype)

    def stream(other: int, whole: bool) -> mx.array:
        found: list[mx.array] = []

        def enter(path: str, original: Original, args: tuple, kwargs: dict[str, Any]) -> Any:
            if path != at.path:
                found.append(args[0])
                raise Stop
            args, kwargs = _with_noise(at, other, args, kwargs)
            here = at._replace(kinds=kinds_of(named(at.names, args, kwargs) or {}))
            if here.kinds.keys() != at.kinds.keys() or not here.fits(args, kwargs):
                raise TypeError("it is called in another way than in the census")
            return original(*args, **kwargs) if whole else here.run(original, args, kwargs)

        standin = StandIn(tree, [at.path, at.norm.path], enter, weights)
        args, kwargs = call.filled([ids])
        try:
            with tree.beyond.as_it_was():
                call.forward(standin.root, args, kwargs)
        except Stop:
            pass
        return found[0]

    plain = stream(0, True)[:, at.start : at.stop]
    same, others = stream(0, False), stream(1, False)
    if plain.shape != same.shape or plain.dtype != mx.float32:
        return False
    size, gap = mx.abs(plain).max().item(), mx.abs(plain - same).max().item()
    felt = mx.abs(others[:, -1] - same[:, -1]).max().item()
    return gap <= SURE * size and 0 < felt < float("inf") and FELT * gap <= felt


def _in_half_precision(module: nn.Module) -> int:
    """How many of a module's numbers are floats of less than 32 bits."""
    halves = (mx.bfloat16, mx.float16)
    return sum(w.size for _, w in tree_flatten(module.parameters()) if w.dtype in halves)


def _with_noise(
    at: AtPositions, other: int, args: tuple, kwargs: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    """A call's arguments with random numbers for whatever has positions and is no mask.

    Args: other: where it is 1, the stream before the last wanted position is another one.
    """

    def noisy(name: str, value: Any) -> Any:
        axes = at.axes.get(name)
        if axes is None or len(axes) > 1 or not mx.issubdtype(value.dtype, mx.floating):
            return value
        key = mx.random.key(at.names.index(name))
        noise = normal(value.shape, mx.float32, key=key)
        if name != at.names[0]:
            return 1 + 0.1 * noise
        changed = normal(value.shape, mx.float32, key=mx.random.key(len(at.names)))
        before = mx.arange(at.length)[:, None] < at.stop - 1
        return mx.where(before, changed, noise) if other else noise

    positional = [noisy(name, value) for name, value in zip(at.names, args, strict=False)]
    return tuple(positional), {name: noisy(name, value) for name, value in kwargs.items()}
