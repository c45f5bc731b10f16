"""Runs of a model that is spread over several processes: all of them at once, and to their end.

Each rank has to take part in every forward, however little of it is asked for there.  So what is
saved is computed where the block ends, on every rank, and not when one of them looks at it.

In: a job, and how it is run.  Out: its values, computed.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlxgraph.errors import RankError
from mlxgraph.graph.nested import leaves
from mlxgraph.graph.node import Node, site_node
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.probes import is_followed
from mlxgraph.ranks.in_step import computed, in_step, stopped
from mlxgraph.ranks.said import digest
from mlxgraph.record.gather import own_part
from mlxgraph.run.engine import Engine
from mlxgraph.run.last_layer import NAME as LAST_LAYER
from mlxgraph.run.parts import check_parts
from mlxgraph.run.pushdown import NAME as PUSHDOWN

NAME = "a run of a sharded model"
_ADDRESS = re.compile(r"0x[0-9a-f]+")
Run = Callable[[Any, Sequence[Node]], list[Any]]


def on_every_rank(engine: Engine, job: Any, nodes: Sequence[Node] | None, run: Run) -> list[Any]:
    """The values of a job, computed; all ranks ask for it.

    Raises: PartError; RanksDifferError; RankError where another rank has failed or ended, and in
        another thread than the main one.
    """
    wanted = [node for _, node in job.graph.saves] if nodes is None else [*nodes]
    asked, staged = len(wanted), is_staged(engine)
    if threading.current_thread() is not threading.main_thread():
        raise RankError(
            "this model is spread over several ranks, and runs here in a thread beside the main"
            " one: threads come in any order, and every rank has to run the same at once",
            "Run it in the main thread.",
        )
    if staged:  # whoever stops early, or keeps few positions, does not send what others wait for
        wanted.append(site_node(""))
        rewrites = job.options.rewrites - {PUSHDOWN, LAST_LAYER}
        job = job._replace(options=job.options._replace(rewrites=rewrites))

    def checked() -> list[Any]:
        check_parts(engine.runner.tree, job.graph, own_part)
        return run(job, wanted) if wanted else []

    given = [*job.call.arrays, *leaves([list(job.graph.constants), dict(job.params)])]
    if any(isinstance(one, ARRAY) and is_followed(one) for one in given):
        return checked()[:asked]  # a transformation follows: nothing is computed here
    values = in_step(NAME, checked, lambda: _said(job, wanted, staged))
    computed([one for one in leaves(values) if isinstance(one, ARRAY)])
    return values[:asked]


def is_staged(engine: Engine) -> bool:
    """Whether ranks hold different layers."""
    return bool(engine.runner.tree.stage)


def let_others_know(engine: Engine, error: BaseException) -> None:
    """A block has ended without its run, for which other ranks would wait."""
    if engine.runner.tree.is_spread:
        stopped(NAME, error)


def _said(job: Any, wanted: Sequence[Node], staged: bool) -> Mapping[str, bytes]:
    inputs = digest(job.call.arrays, job.call.lengths)
    if staged:  # a rank edits the layers that it has
        return {"inputs": inputs}
    return {
        "inputs": inputs,
        "edits": digest(_ADDRESS.sub("", str(job.graph)), len(wanted)),
        "values in edits": digest(list(job.graph.constants), dict(job.params)),
    }
