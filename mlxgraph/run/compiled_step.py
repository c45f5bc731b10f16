"""One new token as a compiled forward, with keys and values among its inputs and outputs.

For plain caches alone, and only where it was seen to give what the same step gives in Python: that
is asked at the first step, and again whenever the caches have grown.

In: a plan, the tokens, caches with room.  Out: what the model returns and the saves, lazy; or
nothing, and the step is to be made in Python.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx

from mlxgraph.graph.nested import leaves, unflatten
from mlxgraph.graph.node import Node
from mlxgraph.mlx_facts.compiling import Compiled
from mlxgraph.mlx_facts.fixed_cache import FixedCache, advance, has_room
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.run.long_run import LongRun
from mlxgraph.run.padded import NOISE
from mlxgraph.run.plan import Plan
from mlxgraph.run.tree import ModuleTree


class CompiledStep:
    """A plan's step, compiled.

    Attributes: reason: why it is not used, once that is known.
    """

    def __init__(self, tree: ModuleTree, hooked: frozenset[str], plan: Plan):
        self.reason = _untraceable(tree, plan)
        self._tree = tree
        self._hooked = hooked
        self._plan = plan
        self._template: Any = None
        self._sure: set[int] = set()  # sizes of caches at which it was seen to be right
        self._compiled = Compiled(self._trace, False)

    def fits(self, args: tuple, kwargs: Mapping[str, Any]) -> bool:
        """Whether a call is one of one token with plain caches that have room for it."""
        if self.reason or len(args) != 1 or [*kwargs] != ["cache"] or args[0].shape[1] != 1:
            return False
        return all(map(has_room, kwargs["cache"])) and bool(kwargs["cache"])

    def __call__(
        self, args: tuple, kwargs: Mapping[str, Any], known: Mapping[Node, Any]
    ) -> tuple[list[mx.array], Any] | None:
        """The step's arrays, and the caches that `take` gives them to; None where it fails."""
        caches = kwargs["cache"]
        offset = mx.array(caches[0].offset, mx.int32)
        lifted = [
            v if isinstance(v, ARRAY) else ARRAY(v)
            for v in (known[node] for node in self._plan.sources)
        ]
        keys, values = [c.keys for c in caches], [c.values for c in caches]
        weights = self._tree.weights()
        try:
            return self._compiled(weights, args[0], offset, keys, values, lifted), caches
        except Exception as error:  # whatever the model's own code makes of it
            self.reason = str(error).split("\n")[0] or type(error).__name__
            return None

    def is_sure(self, caches: Sequence[Any]) -> bool:
        """Whether it was seen to be right with caches of this size."""
        return caches[0].keys.shape[2] in self._sure

    def compare(self, found: Sequence[mx.array], output: mx.array, caches: Sequence[Any]) -> None:
        """Compare with what the same step gave in Python; another result is never used."""
        mine, theirs = found[0].astype(mx.float32), output.astype(mx.float32)
        largest = max(mx.abs(theirs).max().item(), 1e-6)
        if mine.shape != theirs.shape or mx.abs(mine - theirs).max().item() > NOISE * largest:
            self.reason = "compiled, a step gives another result"
        else:
            self._sure.add(caches[0].keys.shape[2])

    def take(self, found: list[mx.array], caches: Sequence[Any]) -> tuple[Any, list[Any]]:
        """Give the caches what is theirs.  Returns: what the model returns, and the saves."""
        count = len(caches)
        output, keys, values = found[0], found[1 : 1 + count], found[1 + count : 1 + 2 * count]
        for cache, k, v in zip(caches, keys, values, strict=True):
            advance(cache, k, v)
        rest = iter(found[1 + 2 * count :])
        filled = [next(rest) if isinstance(v, ARRAY) else v for v in leaves(self._template)]
        return output, unflatten(self._template, filled)

    def _trace(
        self,
        weights: list[mx.array],
        tokens: mx.array,
        offset: mx.array,
        keys: list[mx.array],
        values: list[mx.array],
        lifted: list[mx.array],
    ) -> list[mx.array]:
        """What `mx.compile` traces."""
        long = LongRun(self._tree, self._hooked, weights)
        caches = [FixedCache(k, v, offset) for k, v in zip(keys, values, strict=True)]
        known = dict(zip(self._plan.sources, lifted, strict=True))
        output, saves, _ = long.forward(self._plan, known, (tokens,), {"cache": caches})
        if not isinstance(output, ARRAY):
            raise TypeError(f"the model returns a {type(output).__name__}")
        self._template = saves
        arrays = [value for value in leaves(saves) if isinstance(value, ARRAY)]
        return [output, *[c.keys for c in caches], *[c.values for c in caches], *arrays]


def _untraceable(tree: ModuleTree, plan: Plan) -> str:
    if plan.draws or plan.opaque or plan.inside or plan.gradients:
        return "it draws, looks inside modules, or calls a function that nobody can look into"
    return tree.untraceable()
