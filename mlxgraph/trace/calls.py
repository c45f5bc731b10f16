"""`module.calls`: the calls of a module that the forward calls several times, by number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlxgraph.errors import InputError, NoLayerError
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import with_edges
from mlxgraph.graph.site import OUTPUT
from mlxgraph.record.no_value import written
from mlxgraph.record.stack import recording_on


@with_edges
class Calls:
    """`module.calls[k]`: one call of a module that the forward calls several times."""

    def __init__(self, handle: Any):
        self._handle = handle

    def __getitem__(self, number: int) -> Any:
        handle = self._handle
        if not hasattr(type(number), "__index__"):
            raise InputError(
                f"calls go by number, and {number!r} is none.\n  at {here()}\n"
                f"  Write {written(handle)}.calls[0] for the first."
            )
        # how many calls there are is known inside a trace
        if number >= 0 and recording_on(handle._engine.root) is None:
            return handle._at_call(number)
        count = len(self)
        if not -count <= number < count:
            raise NoLayerError("calls", number, count, str(here()), handle._name)
        return handle._at_call(number % count)

    def __len__(self) -> int:
        recording = self._handle._recording("calls")
        return recording.visited.calls(recording.meant(self._handle._site(OUTPUT)).unscoped.path)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))
