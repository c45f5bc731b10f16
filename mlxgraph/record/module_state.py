"""State of modules that a block calls by hand: as it was, once the block is over.

A module that is no part of the model runs its own code on recorded values, and may keep some: the
running mean of an `nn.BatchNorm`, the last hidden state.  For as long as the block is open that is
what it reads.  After it these are worth nothing, and the module gets back what it had.

In: what is set on a module.  Out: `put_back`.  Never: touches what was saved.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from mlxgraph.graph import ops
from mlxgraph.graph.node import walk
from mlxgraph.mlx_facts.modules import Attribute, attribute_of, exchange_setting
from mlxgraph.record.handle import HANDLES, handle_in
from mlxgraph.record.stack import current

_NESTED = frozenset({tuple, list, dict})


def put_back(recording: Any, is_saved: Callable[[Any], bool]) -> None:
    """Give modules back what they had before recorded values were set on them."""
    kept: list[tuple[Any, str, Attribute]] = recording.set_on_modules
    recording.set_on_modules = []
    for module, name, before in reversed(kept):
        value = attribute_of(module, name).value
        found = handle_in((value,))
        if found is None or found._recording is not recording or is_saved(value):
            continue
        if before.where or any(node.op == ops.SITE for node in walk([found._node])):
            before.put_back(module, name)


def _setting(real: Callable[..., None]) -> Callable[..., None]:
    @wraps(real)
    def method(self: Any, name: str, value: Any) -> None:
        kind = type(value)
        if kind in HANDLES or kind in _NESTED:
            found = None if current() is None else handle_in((value,))
            recording = None if found is None else found._recording
            if recording is not None and recording.open:
                recording.set_on_modules.append((self, name, attribute_of(self, name)))
        real(self, name, value)

    return method


exchange_setting(_setting)
