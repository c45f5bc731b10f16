"""Names of sites inside a module's own forward.

    layers.3.mlp.ops.softmax           what the forward of `layers.3.mlp` calls `mx.softmax` for
    layers.3.mlp.ops.fast.rope         `mx.fast.rope`
    layers.3.self_attn.pattern         a value of the attention that `layers.3.self_attn` computes
    layers.3.resid_mid                 the residual stream between its parts (`graph.stream`)

They stand where a module's path stands.  Pure text: that a module of a model is really called so,
and comes first, is known to whoever has the model.
"""

from __future__ import annotations

import re

from mlxgraph.graph.site import SCOPE
from mlxgraph.graph.stream import RESID_MID

OPS = "ops"
QUERIES, KEYS, VALUES, SCORES, PATTERN, HEADS = ATTENTION = (
    "queries", "keys", "values", "scores", "pattern", "heads",
)  # fmt: skip
_OPERATION = re.compile(rf"(?:(.*)\.)?{OPS}\.([A-Za-z_][A-Za-z_0-9.]*)")


def parted(path: str) -> tuple[str, str] | None:
    """The module of a site inside it, and what follows; None for what can be no such site."""
    scope = ""
    if path.startswith(SCOPE):
        scope, colon, path = path.partition(":")
        scope += colon
    found = _OPERATION.fullmatch(path)
    if found:
        return scope + (found.group(1) or ""), f"{OPS}.{found.group(2)}"
    module, _, last = path.rpartition(".")
    return (scope + module, last) if last in ATTENTION or last == RESID_MID else None


def below(module: str, tail: str) -> str:
    """The path of a site inside a module."""
    return f"{module}.{tail}" if module and not module.endswith(":") else module + tail


def may_be_inside(path: str) -> bool:
    """Whether a path can be that of a site inside a module."""
    return parted(path) is not None
