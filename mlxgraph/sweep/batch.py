"""One forward of a sweep, as a value: in Python the first time, compiled when it comes again.

What is kept is known by structure: the edits of every run, where they join, the call's shapes.
Vectors, numbers, weights and tokens are inputs, so a sweep of other values, or on another text of
that length, meets it again.  Compiling is for small models, whose forwards are mostly Python and
the launching of kernels; what takes long is left as it is.

In: rows, a call.  Out: what each saves, evaluated.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.graph.nested import leaves
from mlxgraph.graph.node import Node
from mlxgraph.mlx_facts.compiling import Compiled, stream_name
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.run.call import Call
from mlxgraph.run.grown import Base, Row, run_grown
from mlxgraph.run.late import Late
from mlxgraph.run.prepared import arrays_in, with_arrays
from mlxgraph.run.pushdown import Cut
from mlxgraph.sweep.certain import all_alike
from mlxgraph.sweep.shared import Shared

OFTEN = 1  # times that it was run before it is compiled
SHORT = 0.25  # seconds above which it is not


class Batch(NamedTuple):
    """The runs of one forward.  Attributes: as the arguments of `run_grown`."""

    rows: list[Row]
    call: Call
    cut: Cut | None
    base: Base | None
    late: Late | None

    @property
    def key(self) -> Any:
        """Equal for batches that one compiled form fits."""
        rows = tuple([(frozenset(r.plan.writes.items()), r.plan.saves, r.first) for r in self.rows])
        late = None if self.late is None else (self.late.begin, *self.late.at[2:5])
        base = None if self.base is None else frozenset(self.base.writes.items())
        return rows, self.call.key, self.cut, base, late, stream_name()

    def run(self, shared: Shared, weights: Sequence[mx.array] | None = None) -> list[list[Any]]:
        """What each run saves, lazy."""
        given = shared.slabs, shared.containers, shared.runner.tree, self.call, self.cut
        return run_grown(self.rows, shared.census, *given, self.base, self.late, weights)


class _Kept:
    """What is known of a batch that was run before.  Attributes: often: how often; seconds: that
    it took last; compiled: None before that was tried, False where it failed; sure: whether it was
    compared."""

    __slots__ = ("often", "seconds", "compiled", "sure")

    def __init__(self) -> None:
        self.often, self.seconds, self.sure = 0, 0.0, False
        self.compiled: _CompiledBatch | bool | None = None


def run_batch(shared: Shared, batch: Batch) -> list[list[Any]]:
    """What each run of a batch saves, evaluated.  Raises: as `run_grown`, and the model's own."""
    runner = shared.runner
    key = (batch.key, runner.root.training)
    kept = runner.batches.get(key) or runner.batches.put(key, _Kept())
    began = time.perf_counter()
    found = _compiled(shared, batch, kept)
    if found is None:
        found = _evaluated(batch.run(shared))
    kept.often += 1
    kept.seconds = time.perf_counter() - began
    return found


def _compiled(shared: Shared, batch: Batch, kept: _Kept) -> list[list[Any]] | None:
    """What a compiled form gives; None where there is none."""
    if kept.compiled is None and kept.often >= OFTEN and kept.seconds < SHORT:
        may = not shared.runner.tree.untraceable() and batch.call.plain
        may = may and not any(row.plan.opaque for row in batch.rows)
        kept.compiled = _CompiledBatch(shared, batch) if may else False
    if not isinstance(kept.compiled, _CompiledBatch):
        return None
    try:
        found = _evaluated(kept.compiled(shared, batch))
    except Exception:  # what is wrong without compiling too says so in the run that follows
        kept.compiled = False
        return None
    if not kept.sure:  # once: whether the compiled form gives what Python gives
        plain = _evaluated(batch.run(shared))
        kept.sure = all_alike(found, plain)
        if not kept.sure:
            kept.compiled = False
            return plain
    return found


def _evaluated(values: list[list[Any]]) -> list[list[Any]]:
    mx.eval([leaf for leaf in leaves(values) if isinstance(leaf, ARRAY)])
    return values


class _CompiledBatch:
    """A batch under `mx.compile`; it keeps no value of any run."""

    def __init__(self, shared: Shared, batch: Batch):
        self._sources = [list(row.known) for row in batch.rows]
        self._of_base = list(batch.base.known) if batch.base is not None else []
        rows = [row._replace(known={}) for row in batch.rows]
        base = None if batch.base is None else batch.base._replace(known={})
        self._batch = batch._replace(rows=rows, base=base, call=batch.call.without_values())
        self._shared: Shared | None = None  # of the run that is under way
        self._template: Any = None
        self._function = Compiled(_tracing(self), draws=False)

    def __call__(self, shared: Shared, batch: Batch) -> list[list[Any]]:
        known = [
            [row.known[n] for n in of] for row, of in zip(batch.rows, self._sources, strict=True)
        ]
        known.append([] if batch.base is None else [batch.base.known[n] for n in self._of_base])
        lifted = [[v if isinstance(v, ARRAY) else ARRAY(v) for v in values] for values in known]
        self._shared = shared
        try:
            arrays = self._function(shared.runner.tree.weights(), batch.call.arrays, lifted)
        finally:
            self._shared = None
        found: list[list[Any]] = with_arrays(self._template, arrays)
        return found

    def trace(
        self, weights: list[mx.array], inputs: list[mx.array], lifted: list[list[mx.array]]
    ) -> list[mx.array]:
        """What `mx.compile` traces."""
        assert self._shared is not None
        self._shared.runner.count()
        *of_rows, of_base = lifted
        own, sources = self._batch, self._sources
        rows = [
            row._replace(known=dict(zip(nodes, values, strict=True)))
            for row, nodes, values in zip(own.rows, sources, of_rows, strict=True)
        ]
        base = own.base and own.base._replace(known=_named(self._of_base, of_base))
        batch = own._replace(rows=rows, base=base, call=own.call.with_arrays(inputs))
        self._template = batch.run(self._shared, weights)
        return arrays_in(self._template)


def _lifted(value: Any) -> mx.array:
    return value if isinstance(value, ARRAY) else ARRAY(value)


def _named(nodes: list[Node], values: list[mx.array]) -> dict[Node, Any]:
    return dict(zip(nodes, values, strict=True))


def _tracing(batch: _CompiledBatch) -> Callable[..., list[mx.array]]:
    """What `mx.compile` is given: it does not keep the batch, which keeps what is compiled."""
    alive = weakref.ref(batch)

    def trace(*given: Any) -> list[mx.array]:
        batch = alive()
        assert batch is not None  # it is what called
        return batch.trace(*given)

    return trace
