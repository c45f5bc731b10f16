"""Work of many prompts, shared out among ranks where a script was launched in several processes."""

from __future__ import annotations

from typing import Any

from mlx.utils import tree_flatten

from mlxgraph.analysis.traceable import Traceable
from mlxgraph.ranks.held import is_spread
from mlxgraph.ranks.said import digest, weights
from mlxgraph.ranks.together import Work, together


def among_ranks(name: str, model: Traceable) -> Work:
    """A piece of work on a model, to be entered; of each rank where each forward needs them all."""
    return together(name, lambda: is_spread(module for _, module in model.named_modules()))


def weights_of(model: Traceable) -> bytes:
    """What tells this model's weights, and the edits that stay on it, from another's."""
    root: Any = dict(model.named_modules())[""]
    return digest(str(getattr(model, "edits", "")), weights(tree_flatten(root.parameters())))
