"""Many forwards on one set of copies: those of a generation.

A plain run makes its copies of the modules anew; for a token at a time that would be most of the
work.  Here they are made once, and what answers their calls is another run in each forward.  State
that a module keeps lives as long as the copies do.

In: a plan and the values of its sources, for each forward.  Out: what the model returns, and the
saves, lazy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from copy import copy
from functools import partial
from typing import Any

import mlx.core as mx

from mlxgraph.errors import NeverCalledError
from mlxgraph.graph.census import Census
from mlxgraph.graph.node import Node, walk
from mlxgraph.graph.site import OUTPUT, Site
from mlxgraph.mlx_facts.compiling import uncompiled
from mlxgraph.run.answering import ValuesInside
from mlxgraph.run.draws import Draws
from mlxgraph.run.forward import Run, saved
from mlxgraph.run.inside import Watch
from mlxgraph.run.plan import Plan
from mlxgraph.run.standin import Hook, StandIn
from mlxgraph.run.tree import ModuleTree


class _Now:
    """What answers at the moment.  It knows no module, so that there is no circle."""

    __slots__ = ("hook",)

    def __init__(self) -> None:
        self.hook: Hook | None = None

    def answer(
        self, path: str, original: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        if self.hook is None:
            return original(*args, **kwargs)
        return self.hook(path, original, args, kwargs)


class LongRun:
    """Copies of a model for many forwards.

    Args: hooked: the paths that plans may name; weights: arrays to use in place of the tree's.
    """

    def __init__(
        self, tree: ModuleTree, hooked: Iterable[str], weights: Sequence[mx.array] | None = None
    ):
        self._tree = tree
        self._now = _Now()
        self._weights = tree.seen_now()
        self._standin = StandIn(tree, hooked, self._now.answer, weights)

    def is_of_now(self) -> bool:
        """Whether the model's weights are still those that were copied."""
        return self._tree.are_weights(self._weights)

    def forward(
        self,
        plan: Plan | None,
        known: dict[Node, Any],
        args: tuple,
        kwargs: dict[str, Any],
        check: Callable[[Site, Any], None] | None = None,
    ) -> tuple[Any, list[Any], Run | None]:
        """One forward.  Returns: the model's output, the plan's saves, the run to be looked at.

        Args: check: is told what the model has at a site, before that is edited.
        """
        tree, standin = self._tree, self._standin
        draws = Draws(plan.drawn) if plan is not None and plan.drawn else None
        kind = Run if check is None else partial(_Checked, check)
        run = None if plan is None else kind(plan, known, None, draws)
        if run is not None:
            run.by_hand.modules = standin.modules
        if draws is not None:
            draws.begin()
        watch = _watch(tree, plan, run)
        self._now.hook = watch.module if watch else run.answer if run else None
        try:
            with (
                uncompiled() if tree.may_compile else nullcontext(),
                tree.beyond.as_it_was(),
                watch.on(standin) if watch else nullcontext(),
            ):
                output = standin.root(*args, **kwargs)
            saves = [] if plan is None or run is None else saved(plan, run.values)
        except BaseException:
            if draws is not None:
                draws.undo()
            raise
        finally:
            self._now.hook = None
        if draws is not None:
            draws.finish()
        return output, saves, run


class _Checked(Run):
    """A run whose values are looked at before they are edited."""

    def __init__(self, check: Callable[[Site, Any], None], *args: Any):
        super().__init__(*args)
        self._check = check

    def through(self, site: Site, value: Any) -> Any:
        self._check(site, value)
        return super().through(site, value)


def _watch(tree: ModuleTree, plan: Plan | None, run: Run | None) -> Watch | None:
    if plan is None or run is None or not plan.inside:
        return None
    return Watch(tree, run.answer, ValuesInside(run), plan.inside, plan.written)


def to_the_end(plan: Plan) -> Plan:
    """A plan made with the model's output among its saves, which is returned and not saved."""
    *saves, output = plan.saves
    root = Site("", OUTPUT)
    used = root in plan.writes or output in saves or _reads(output, [*saves, *plan.writes.values()])
    stops = plan.stops if used else plan.stops - {root}
    return plan._replace(
        saves=tuple(saves),
        cut_from=plan.cut_from[:-1],
        read=plan.read if used else plan.read - {root},
        stops=stops,
        last=None,
        expected=None,
    )


def _reads(node: Node, roots: Iterable[Node]) -> bool:
    return any(below is node for below in walk(roots))


def check_reached(plan: Plan, run: Run, line: Callable[[Site], str]) -> None:
    """Raise NeverCalledError for a site of the plan that this forward did not come to."""
    for site in plan.stops:
        if run.seen[site.path] <= site.call:
            raise NeverCalledError(
                site.spoken,
                line(site),
                (),
                reason="a forward of this generation does not come to it: the model takes another"
                " way with a cache, or with one token at a time.",
            )


def as_traced(census: Census) -> Census:
    """A census of which only the sites and their order count: other forwards have other shapes."""
    twin = copy(census)
    twin.traceable = True
    return twin
