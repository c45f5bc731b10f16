"""The last block at few positions, in a forward of many runs.

As `run.two_passes`, and in a forward that begins at a later position of the text too: there the
block is given a cache, which holds keys and values of the positions before.

In: how the block is called.  Out: its output at the wanted positions.  Never: evaluates an array.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.mlx_facts.kept_cache import KeptCache
from mlxgraph.run.two_passes import AtPositions, KeysAndValues, Original


class Late(NamedTuple):
    """The last block.  Args: at: how it runs on the whole text; begin: where the forward begins."""

    at: AtPositions
    begin: int

    @property
    def path(self) -> str:
        return self.at.path

    def run(self, original: Original, *args: Any, **kwargs: Any) -> mx.array:
        """Its output at the positions alone, (rows, stop - start, width), lazy."""
        at = self.at
        if not self.begin:
            return at.run(original, args, kwargs)
        given = dict(zip(at.names, args, strict=False)) | kwargs
        stream, cache = given.pop(at.names[0]), given.pop("cache", None)
        start, stop = at.start - self.begin, at.stop - self.begin
        whole = self._on(original, args, kwargs, stream[:, :stop], cache)
        plain = all(
            value is None or type(value) in (bool, int, float, str) for value in given.values()
        )
        if (
            type(cache) is not KeptCache
            or cache.keys is None
            or cache.window is not None
            or not plain
        ):
            return whole[:, start:stop]
        held = KeysAndValues.of(cache.keys, cache.values, at.start)  # all that is computed of it
        return self._on(original, args, kwargs, stream[:, start:stop], held)

    def _on(
        self, original: Original, args: tuple, kwargs: dict[str, Any], stream: mx.array, cache: Any
    ) -> mx.array:
        given = dict(zip(self.at.names, args, strict=False)) | kwargs
        given |= {self.at.names[0]: stream, "cache": cache}
        positional = [given.pop(name) for name in self.at.names[: len(args)]]
        result: mx.array = original(*positional, **given)
        return result
