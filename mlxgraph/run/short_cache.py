"""The census of a forward that has a cache with a few tokens in it.

It tells axes of the forward's own tokens from those of all tokens so far, which a forward on a
whole text cannot.
"""

from __future__ import annotations

import mlx.core as mx

from mlxgraph.graph.census import Census
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.originals import zeros
from mlxgraph.run.call import describe_call
from mlxgraph.run.census import take_census
from mlxgraph.run.runner import Runner


def census_with_cache(runner: Runner, rows: int, had: int, new: int) -> Census | None:
    """What a forward on `new` tokens visits, `had` of them in its cache before; None for a model
    that does not run with a cache of mlx-lm's.  Taken once for a model."""
    key = (rows, had, new, runner.root.training)
    known = runner.with_cache.get(key)
    if known is None:
        known = runner.with_cache.put(key, (_taken(runner, rows, had, new),))
    return known[0]


def _taken(runner: Runner, rows: int, had: int, new: int) -> Census | None:
    from mlx_lm.models.cache import make_prompt_cache  # here: it takes long to import

    before = random_state.current()
    try:
        cache = make_prompt_cache(runner.root)
        with runner.tree.beyond.as_it_was():
            runner.modules()[""](zeros((rows, had), mx.int32), cache=cache)
        call = describe_call((zeros((rows, new), mx.int32),), {"cache": cache})
        census = take_census(runner.tree, call)
        census.look_inside()
    except Exception:  # whatever the model's own code raises: it is none that takes a cache
        return None
    finally:
        random_state.restore(before)
    return census
