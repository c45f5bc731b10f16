"""What every kind of forward has in common: hooks that answer for a run, and its end.

A run knows its values and its modules, and neither knows the run for good: in a circle every
activation would be held until the garbage collector comes by.  The modules may outlive it, and then
they are as they are.

In: a run.  Out: what a stand-in and a watch ask.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Protocol

from mlxgraph.graph.site import OUTPUT, Site
from mlxgraph.mlx_facts.compiling import uncompiled
from mlxgraph.run.call import Call
from mlxgraph.run.inside import Watch
from mlxgraph.run.standin import Hook, StandIn
from mlxgraph.run.tree import ModuleTree


class Stop(BaseException):
    """Everything that was asked for is known: the rest of the forward is not run.

    Not an `Exception`, so that no model's own `except Exception` holds it up.
    """


class Answers(Protocol):
    """A run, as its modules see it.

    Attributes: seen: how often each path has been called.
    """

    seen: Counter[str]

    def answer(
        self, path: str, original: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        """What a hooked module's call returns."""

    def stops_at(self, site: Site) -> bool:
        """Whether a value is read or written."""

    def computes_from(self, site: Site) -> bool:
        """Whether what follows has to be computed from what is answered."""

    def through(self, site: Site, value: Any) -> Any:
        """The value that goes on."""


def answering(run: Answers) -> Hook:
    """The hook of a run's modules."""
    alive = weakref.ref(run)

    def answer(path: str, original: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        run = alive()
        if run is None:
            return original(*args, **kwargs)
        return run.answer(path, original, args, kwargs)

    return answer


class ValuesInside:
    """A run's answers for the values of attentions; the run may be over, and then it has none."""

    __slots__ = ("_run",)

    def __init__(self, run: Answers):
        self._run = weakref.ref(run)

    def wants(self, path: str, number: int) -> bool:
        run = self._run()
        return run is not None and run.stops_at(Site(path, OUTPUT, number))

    def writes(self, path: str, number: int) -> bool:
        run = self._run()
        return run is not None and run.computes_from(Site(path, OUTPUT, number))

    def value(self, path: str, number: int, value: Any) -> Any:
        run = self._run()
        assert run is not None  # whoever shows a value has asked whether it is wanted
        run.seen[path] = number + 1
        return run.through(Site(path, OUTPUT, number), value)


def go_through(tree: ModuleTree, call: Call, standin: StandIn, watch: Watch | None) -> None:
    """Run a forward until it ends, or everything that was asked for is known."""
    try:
        with (
            uncompiled() if tree.may_compile else nullcontext(),
            watch.on(standin) if watch else nullcontext(),
        ):
            call.forward(standin.root, call.args, call.kwargs)
    except Stop:
        pass
