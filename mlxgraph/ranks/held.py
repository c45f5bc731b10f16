"""What a rank holds of a model: all of it, or a part that computes with other ranks."""

from __future__ import annotations

from collections.abc import Iterable

import mlx.nn as nn

from mlxgraph.mlx_facts.processes import groups_in, layers_held, splits, stages_of, unites


def is_spread(modules: Iterable[nn.Module]) -> bool:
    """Whether a model computes with other ranks: each forward is one of all of them."""
    return any(groups_in(module) or stages_of(module) > 1 for module in modules)


def shares(module: nn.Module | None) -> bool:
    """Whether a module computes with parts: it has sharded projections of its own, or a group."""
    if module is None:
        return False
    children = module.children().values()
    return any(splits(one) or unites(one) for one in children) or bool(groups_in(module))


def is_given_parts(module: nn.Module) -> bool:
    """Whether a module makes the whole of what ranks have parts of."""
    return unites(module)


def stage(modules: Iterable[nn.Module]) -> str:
    """What to say where a layer is asked for that may be on another rank; "" where none is."""
    for module in modules:
        if stages_of(module) > 1:
            held = layers_held(module)
            return (
                f"Layers are on several ranks, this one has {held.start} to {held.stop - 1}:"
                " write `if 'layers.0' in model:` around what a layer's rank does, and"
                " model.layers[k] with k counted from the first layer."
            )
    return ""
