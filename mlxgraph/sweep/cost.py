"""What runs cost: layers times positions, and bytes.

The unit of work is one layer at one position.  The final norm and the head, whose work depends on
how many positions are looked at, are counted in it by their weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import NamedTuple

from mlxgraph.graph.nested import leaves
from mlxgraph.graph.site import Site
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.sweep.shared import Planned, Shared

SHARE = 4  # a forward may take this part of the machine's memory, unless a limit is given
COPIES = 4  # of a layer's values that are alive at once, about: what comes in, goes out, is added


class Work(NamedTuple):
    """Work in layers times positions; `layers` and `head` apart."""

    layers: float
    head: float

    @property
    def all(self) -> float:
        return self.layers + self.head

    def __add__(self, other: Work) -> Work:  # type: ignore[override]
        return Work(self.layers + other.layers, self.head + other.head)


class Costs:
    """What runs on one call cost."""

    def __init__(self, shared: Shared):
        self._shared = shared
        self.layers = max(len(shared.layers), 1)
        self.rows, self.length = shared.slabs.rows, shared.length
        inside, outside = _weights(shared)
        self._head = self.layers * outside / inside if inside else 0.0

    def alone(self, kept: int | None = None) -> Work:
        """One forward of one run.  Args: kept: how many positions the head sees, or all."""
        return Work(self.layers * self.length, self._head * (kept or self.length))

    def grown(
        self,
        rows: Sequence[Planned],
        start: int = 0,
        kept: int | None = None,
        join: bool = True,
        late: bool = False,
    ) -> Work:
        """A forward of several runs, slab 0 among them.

        Args: start: the first position that is computed; kept: how many positions the head sees;
            join: whether the batch grows on the way, or is whole from the start; late: whether the
            last layer runs at the positions of the head alone.
        """
        positions = self.length - start
        depth = sum(self._layers_of(one) if join else self.layers for one in rows)
        seen = positions if kept is None else kept
        saved = (len(rows) + join) * (positions - seen) if late else 0
        layers = (self.layers * join + depth) * positions - saved
        return Work(layers, (len(rows) + join) * self._head * seen)

    def least(
        self, rows: Iterable[Planned], kept: int | None, late: Callable[[Planned], bool]
    ) -> Work:
        """What no way of sharing whole layers and positions can go below: one bare forward, and
        of each run the layers after its first write, from its first edited position on.

        Args: late: whether the last layer of a run is needed at the kept positions alone.
        """
        layers = whole = 0.0
        count = 1
        for one in rows:
            positions, depth = self.length - min(one.first, self.length), self._layers_of(one)
            layers += depth * positions
            if kept is not None and depth and late(one):
                layers -= max(positions - kept, 0)
            whole += self.layers * self.length
            count += 1
        head = self._head * (self.length if kept is None else kept)
        shared = self.layers * self.length + layers
        return Work(shared, count * head) if shared < whole else Work(whole, (count - 1) * head)

    def _layers_of(self, one: Planned) -> int:
        return self._shared.layers_after(one.row.first) if len(self._shared.layers) else 1

    def bytes_of_a_row(self, start: int = 0, kept: int | None = None) -> int:
        """What one run more in a forward takes of memory, about: values of a layer, and logits."""
        census, length = self._shared.census, max(self.length, 1)
        output = _bytes(census.values.get(Site("")))
        widest = max((_bytes(census.values[s]) for s in census.outputs() if s.path), default=0)
        inner = COPIES * widest * (length - start) // length
        return max(1, inner + output * (length - start if kept is None else kept) // length)


def _weights(shared: Shared) -> tuple[int, int]:
    """Numbers in the matrices of the layers, and in those of what comes after them."""
    container = shared.engine.names.container
    inside = outside = 0
    for path, module in shared.runner.tree.modules.items():
        weight = module.get("weight") if hasattr(module, "get") else None
        if not isinstance(weight, ARRAY) or weight.ndim < 2:
            continue
        if container and path.startswith(container + "."):
            inside += weight.size
        elif path not in shared.runner.tree.embeddings or not outside:
            outside = max(outside, weight.size)
    return inside, outside


def _bytes(value: object) -> int:
    return sum(prod(one.shape) * one.dtype.size for one in leaves(value) if isinstance(one, ARRAY))


def memory_for_a_forward() -> int:
    """How many bytes the values of one forward may take where no limit is given."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // SHARE
