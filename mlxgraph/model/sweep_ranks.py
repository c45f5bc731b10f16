"""A sweep in several processes: what they compare before it, each with the others.

In: a sweep's variants.  Out: an agreement, or an error on every rank.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from mlxgraph.mlx_facts import random_state
from mlxgraph.ranks.held import is_spread
from mlxgraph.ranks.said import digest, weights
from mlxgraph.ranks.together import Work, together
from mlxgraph.run.call import Call
from mlxgraph.run.engine import Engine
from mlxgraph.sweep.variants import Axes, Variant

DRAWN = -1  # among the variants' numbers: the random state after those that draw
_ADDRESS = re.compile(r"0x[0-9a-f]+")  # of a function, in one process
_TEXTS = 256  # graphs that are compared word by word; of all others, what they hold


def sweep_together(engine: Engine) -> Work:
    """A sweep as a piece of work, to be entered."""
    return together("model.sweep", lambda: is_spread(engine.runner.tree.modules.values()))


def agree(
    work: Work,
    engine: Engine,
    call: Call,
    variants: Sequence[Variant],
    axes: Axes,
    metric: str,
    shares: Sequence[Sequence[int]],
    draws: bool,
) -> None:
    """See that each rank is about to sweep the same, and to do its own share of it.

    Raises: RanksDifferError, RankError.
    """
    tree = engine.runner.tree
    said = {
        "inputs": digest(call.arrays, call.lengths),
        "labels": digest({name: list(labels) for name, labels in axes.items()}),
        "metric": digest(metric),
        "shares": digest([list(numbers) for numbers in shares]),
    }
    if not tree.stage:  # else a rank edits the layers that it has
        said["graphs"] = digest(*_structures(variants))
        said["values"] = digest([(list(one.graph.constants), dict(one.params)) for one in variants])
    if not tree.is_spread:  # else a rank has its own
        said["weights"] = weights(zip(tree.weight_names, tree.weights(), strict=False))
    elif draws:
        said["random state"] = digest(random_state.current())
    work.agree(f"{len(variants)} variants", **said)


def _structures(variants: Sequence[Variant]) -> Iterator[Any]:
    """The texts of graphs, of each kind one, evenly chosen where there are many."""
    graphs = list({hash(one.graph): one.graph for one in variants}.values())
    yield len(graphs)
    for graph in graphs[:: max(1, len(graphs) // _TEXTS)]:
        yield _ADDRESS.sub("", str(graph))
