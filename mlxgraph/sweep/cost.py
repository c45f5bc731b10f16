"""What runs cost: layers times positions, and bytes.

The unit of work is one layer at one position.  The final norm and the head, whose work depends on
how many positions are looked at, are counted in it by their weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from math import prod
from typing import NamedTuple

import mlx.core as mx

from mlxgraph.graph.inside import SCORES
from mlxgraph.graph.nested import leaves
from mlxgraph.graph.site import Site
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.sweep import split
from mlxgraph.sweep.shared import Planned, Shared

LONG = 64  # positions from which on scores count
SHARE = 4  # a forward may take this part of the machine's memory, unless a limit is given
MEANWHILE = {mx.cpu: 4e6, mx.gpu: 6e8}  # multiplications, for an eighth of a forward's Python
COPIES = 8  # of a layer's values that are alive at once, about: what comes in, goes out, is added


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
        self._weights = max(inside, 1)

    @property
    def forward(self) -> float:
        """What one more forward costs, in positions of all layers: the weights are read once more,
        and Python runs, which a device does much in the meantime of."""
        return split.FORWARD * (1 + MEANWHILE[mx.default_device().type] / self._weights)

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
        """What one run more in a forward takes of memory, about: values of a layer, scores of an
        attention, and logits."""
        census, length = self._shared.census, max(self.length, 1)
        output = _bytes(census.values.get(Site("")))
        inner = (COPIES * self._widest + 2 * self._scores) * (length - start) // length
        return max(1, inner + output * (length - start if kept is None else kept) // length)

    @cached_property
    def _widest(self) -> int:
        """The bytes of the largest output of a module before the layers' end."""
        census, ends = self._shared.census, self._shared.layers
        last = max(ends, default=float("inf"))
        found = [s for s in census.outputs() if s.path and census.order[s] <= last]
        return max((_bytes(census.values[site]) for site in found), default=0)

    @cached_property
    def _scores(self) -> int:
        """The bytes of the largest attention's scores, which are more than all else in long texts:
        not every kernel does without."""
        census = self._shared.census
        if self.length < LONG:
            return 0
        census.look_inside()
        found = [s for s in census.inside if s.path.endswith(f".{SCORES}")]
        return max((_bytes(census.values[site]) for site in found), default=0)


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
