"""Generations from many prompts in several processes: whose texts are whose.

In: a loop, what is done at its forwards.  Out: each rank's texts, or those of rank 0 alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mlxgraph.graph import ops
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import is_draw
from mlxgraph.mlx_facts.loops import is_of_one_row, told_of
from mlxgraph.ranks.said import digest, weights
from mlxgraph.ranks.together import Work, together
from mlxgraph.run.engine import Engine
from mlxgraph.trace.forwards import text_call
from mlxgraph.trace.generation import Loop

NAME = "model.generate"
_ADDRESS = re.compile(r"0x[0-9a-f]+")  # of a function, in one process
_FUNCTIONS = ("sampler", "logits_processors")


def generate_together(engine: Engine) -> Work:
    """A generation from several texts as a piece of work, to be entered."""
    return together(NAME, lambda: engine.runner.tree.is_spread)


def mine(work: Work, engine: Engine, loop: Loop, graph: Graph, params: Mapping[str, Any]) -> Any:
    """The numbers of this rank's texts, and whether rank 0 does all of them.

    Raises: RanksDifferError, RankError.
    """
    lengths = loop.prompt.lengths or []
    tree = engine.runner.tree
    plain = {k: value for k, value in loop.options.items() if k not in _FUNCTIONS}
    work.agree(
        f"{len(lengths)} prompts, {loop.most} new tokens at most",
        prompts=digest(loop.prompt.tokens, lengths),
        edits=digest(_ADDRESS.sub("", str(graph))),
        values=digest(list(graph.constants), dict(params)),
        options=digest(loop.most, plain, [told_of(one) for one in _functions(loop)]),
        weights=weights(zip(tree.weight_names, tree.weights(), strict=False)),
    )
    in_order = _in_one_order(engine, loop, graph)
    costs = [float(length + loop.most) for length in lengths]
    return work.mine(costs, range(len(costs)) if in_order else ()), in_order


def _in_one_order(engine: Engine, loop: Loop, graph: Graph) -> bool:
    """Whether texts are not each other's equals: random numbers come in one order, and a user's
    function may count its calls."""
    if engine.runner.census(text_call(max(loop.prompt.lengths or [1]))).draws:
        return True
    if any(n.op == ops.APPLY or ops.is_random(n.op) or is_draw(n) for n in graph.nodes()):
        return True
    return not all(map(is_of_one_row, _functions(loop)))


def _functions(loop: Loop) -> list[Any]:
    own = [loop.options.get("sampler"), *(loop.options.get("logits_processors") or ())]
    return [one for one in own if one is not None]
