"""Generations from many prompts in several processes: whose texts are whose.

In: a loop, what is done at its forwards.  Out: each rank's texts, or those of rank 0 alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mlxgraph.graph import ops
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import is_draw
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.loops import is_of_one_row, settle, told_of
from mlxgraph.ranks.in_step import by_all
from mlxgraph.ranks.said import digest, weights
from mlxgraph.ranks.together import Work, together
from mlxgraph.run.engine import Engine
from mlxgraph.trace.forwards import text_call

NAME = "model.generate"
_ADDRESS = re.compile(r"0x[0-9a-f]+")  # of a function, in one process
_NOT_PLAIN = ("sampler", "logits_processors", "prompt_cache", "prompt_progress_callback")


def generate_together(engine: Engine) -> Work:
    """A generation from several texts as a piece of work, to be entered."""
    return together(NAME, lambda: engine.runner.tree.is_spread)


def mine(work: Work, engine: Engine, loop: Any, graph: Graph, params: Mapping[str, Any]) -> Any:
    """The numbers of this rank's texts, and whether rank 0 does all of them.

    Raises: RanksDifferError, RankError.
    """
    lengths = loop.prompt.lengths or []
    in_one_order = agree(work, engine, loop, graph, params)
    costs = [float(length + loop.most) for length in lengths]
    return work.mine(costs, range(len(costs)) if in_one_order else ()), in_one_order


def agree(work: Work, engine: Engine, loop: Any, graph: Graph, params: Mapping[str, Any]) -> bool:
    """See that each rank is about to generate the same; whether what draws has one order.

    Raises: RanksDifferError, RankError.
    """
    lengths, tree = loop.prompt.lengths or [], engine.runner.tree
    plain = {k: value for k, value in loop.options.items() if k not in _NOT_PLAIN}
    said = {
        "prompts": digest(loop.prompt.tokens, lengths),
        "options": digest(loop.most, plain, [told_of(one) for one in _functions(loop)]),
    }
    if not tree.stage:  # else a rank edits the layers that it has
        said["edits"] = digest(_ADDRESS.sub("", str(graph)))
        said["values"] = digest(list(graph.constants), dict(params))
    in_one_order = _in_one_order(engine, loop, graph)
    if not tree.is_spread:  # else a rank has its own
        said["weights"] = weights(zip(tree.weight_names, tree.weights(), strict=False))
    elif in_one_order:
        said["random state"] = digest(random_state.current())
    work.agree(f"{len(lengths)} prompts, {loop.most} new tokens at most", **said)
    return in_one_order


def in_step(
    engine: Engine, loop: Any, graph: Graph, params: Mapping[str, Any], tokens: Iterator[Any]
) -> Iterator[Any]:
    """The tokens of a generation; on a model that is spread over ranks those of all of them."""
    if not engine.runner.tree.is_spread:
        return tokens
    return _agreeing(engine, loop, graph, params, tokens)


def _agreeing(
    engine: Engine, loop: Any, graph: Graph, params: Mapping[str, Any], tokens: Iterator[Any]
) -> Iterator[Any]:
    heard: list[Any] = []
    with generate_together(engine) as work:
        if work.several:
            agree(work, engine, loop, graph, params)
        try:
            with by_all():
                for token in tokens:
                    heard.append(token)
                    yield token
        except GeneratorExit:  # whoever takes the tokens wants no more of them, on every rank
            return
        finally:
            settle()  # two forwards at once would hear each other's numbers
        work.agree("its last token", tokens=digest(heard))


def _in_one_order(engine: Engine, loop: Any, graph: Graph) -> bool:
    """Whether texts are not each other's equals: random numbers come in one order, and a user's
    function may count its calls."""
    if engine.runner.census(text_call(max(loop.prompt.lengths or [1]))).draws:
        return True
    if any(n.op == ops.APPLY or ops.is_random(n.op) or is_draw(n) for n in graph.nodes()):
        return True
    return not all(map(is_of_one_row, _functions(loop)))


def _functions(loop: Any) -> list[Any]:
    own = [loop.options.get("sampler"), *(loop.options.get("logits_processors") or ())]
    return [one for one in own if one is not None]
