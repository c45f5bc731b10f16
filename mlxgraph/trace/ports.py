"""`.inputs` and `.input` of whatever is called in a forward: a module, an operation."""

from __future__ import annotations

from typing import Any

from mlxgraph.errors.tracebacks import with_edges
from mlxgraph.graph.site import INPUTS


@with_edges
class Called:
    """A handle on something that is called: it knows its recording and its sites."""

    __slots__ = ()

    def _recording(self, what: str) -> Any:
        raise NotImplementedError

    def _site(self, port: str) -> Any:
        raise NotImplementedError

    @property
    def inputs(self) -> Any:
        """All that it is called with: `(args, kwargs)`."""
        return self._recording("inputs").read(self._site(INPUTS))

    @inputs.setter
    def inputs(self, value: Any) -> None:
        self._recording("inputs").replace(self._site(INPUTS), value)

    @property
    def input(self) -> Any:
        """The first positional argument, or the first keyword argument if there is no other."""
        args, kwargs = self.inputs
        return args[0] if len(args) else kwargs[next(iter(kwargs))]

    @input.setter
    def input(self, value: Any) -> None:
        self._recording("input").replace_input(self._site(INPUTS), value)
