"""The residual stream between attention and what follows it in a layer.

No module gives it.  It is the layer's input plus what attention, or the norm after it, adds; that
this is so, and that the rest of the layer goes by this sum alone, a forward shows for each layer.

In: a model, a text, layers.  Out: for each layer where it is certain, the site whose value is
added to the layer's input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from mlxgraph.analysis.inputs import arrays_in, first_array
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.analysis.writers import children
from mlxgraph.errors import NeverCalledError, UnknownSiteError

FEW = 16  # positions that it is tried on: a layer is made alike for all texts
NEAR = 0.02  # of the noise: what rounding leaves of it, where the layer goes by the sum alone


def middles(
    model: Traceable, row: mx.array, blocks: Mapping[int, str]
) -> dict[int, tuple[str, str]]:
    """For each layer where it is certain, what adds to the layer's input, and that input."""
    row = row[:, :FEW]
    tree = children(model)
    inside = {layer: tree.get(block, []) for layer, block in blocks.items()}
    saved: dict[str, Any] = {}
    with model.trace(row):
        for layer, block in blocks.items():
            for name in (block, *inside[layer]):
                try:
                    handle = model[name]
                    given = next(arrays_in(handle.inputs[0]), None)
                    made = first_array(handle.output)
                except (NeverCalledError, UnknownSiteError, IndexError):
                    continue
                if isinstance(given, mx.array) and isinstance(made, mx.array):
                    saved[f"{name}.input"], saved[name] = given.save(), made.save()  # type: ignore
    mx.eval(saved)
    found = {}
    for layer, block in blocks.items():
        writer = _writer(model, block, inside[layer], saved)
        if writer is not None:
            found[layer] = writer, f"{block}.input"
    return _certain(model, row, blocks, found, saved)


def _writer(
    model: Traceable, block: str, inside: list[str], saved: Mapping[str, mx.array]
) -> str | None:
    """What adds attention's part: attention itself, or a module that is given what it gives."""
    try:
        attention = model[f"{block}.attn"].path
    except UnknownSiteError:
        return None
    if attention not in saved or block not in saved:
        return None
    after = [attention] + [
        name for name in inside if name in saved and _same(saved[f"{name}.input"], saved[attention])
    ]
    for writer in after:
        if saved[writer].shape != saved[f"{block}.input"].shape:
            continue
        middle = saved[f"{block}.input"] + saved[writer]
        if any(
            _same(saved[f"{name}.input"], middle)
            for name in inside
            if name in saved and name != writer
        ):
            return writer
    return None


def _same(one: mx.array, other: mx.array) -> bool:
    return one.shape == other.shape and bool(mx.array_equal(one, other).item())


def _certain(
    model: Traceable,
    row: mx.array,
    blocks: Mapping[int, str],
    found: dict[int, tuple[str, str]],
    saved: Mapping[str, mx.array],
) -> dict[int, tuple[str, str]]:
    """Those layers that, given another input and the same sum, give what they gave."""
    key = mx.random.key(0)
    given, made = {}, {}
    for layer in found:
        was = saved[f"{blocks[layer]}.input"].astype(mx.float32)
        key, own = mx.random.split(key)
        given[layer] = mx.random.normal(was.shape, key=own) * mx.sqrt(mx.var(was))
    if not found:
        return {}
    with model.trace(row):
        for layer, (writer, _) in found.items():
            block = model[blocks[layer]]
            stream = first_array(block.input)
            was = saved[f"{blocks[layer]}.input"]
            other = was + given[layer].astype(was.dtype)
            stream[...] = other
            added = first_array(model[writer].output)
            added[...] = was + saved[writer] - other
            made[layer] = first_array(block.output).save()
    mx.eval(made)
    certain = {}
    for layer, site in found.items():
        gap = (made[layer] - saved[blocks[layer]]).astype(mx.float32)
        noise = mx.mean(mx.abs(given[layer])).item()
        if mx.mean(mx.abs(gap)).item() <= NEAR * noise:
            certain[layer] = site
    return certain
