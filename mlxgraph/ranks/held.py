"""What a rank holds of a model: all of it, or a part that computes with other ranks."""

from __future__ import annotations

from collections.abc import Iterable

import mlx.nn as nn

from mlxgraph.mlx_facts.processes import groups_in, stages_of


def is_spread(modules: Iterable[nn.Module]) -> bool:
    """Whether a model computes with other ranks: each forward is one of all of them."""
    return any(groups_in(module) or stages_of(module) > 1 for module in modules)
