"""The book of nodes of one recording: what each is worth, and where it was written.

Every node is tried on placeholders as it is entered, so that a shape that does not fit raises on
the user's own line.  What was worked out stays with the census, so the same program recorded
again is only looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import mlx.core as mx

from mlxgraph.errors import MLXGraphError, OperationError, ShapeError
from mlxgraph.errors.source_line import here
from mlxgraph.graph.census import Census, Info
from mlxgraph.graph.listing import around
from mlxgraph.graph.nested import map_nested
from mlxgraph.graph.node import APPLY, CONSTANT, GRAD, NUMBER, PARAM, SITE, Node, site_of, walk
from mlxgraph.graph.site import Site
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record.conform import describe
from mlxgraph.record.notes import Notes
from mlxgraph.record.stack import paused

WEAK = {"int": 1, "float": 1.0, "bool": True}
MOST_INFOS = 20_000
LAST = 1 << 60  # a gradient is known when the whole forward is over


class Tools(Protocol):
    """What the running side lends to a recording."""

    def evaluate(self, node: Node, values: Callable[[Node], Any]) -> Any:
        """The value of one node, given those of its inputs."""

    def placeholder(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        """An array that has a shape and a dtype and can never be evaluated."""

    def look(self, recording: Any, node: Node) -> Any:
        """The real value of a node, from a run of what was recorded so far."""


def _closed(site: Site) -> None:
    """The check of a book whose recording is over: what it holds was checked when it was open."""


class Book:
    """Nodes with their placeholders, the census position from which they are known, and lines."""

    def __init__(
        self,
        census: Census,
        tools: Tools,
        check: Callable[[Site], None],
        constants: list[Any],
    ):
        self.census = census
        self.tools = tools
        self.constants = constants
        self.infos = census.infos
        self.places: dict[Node, Any] = {}
        self._check = check
        if len(self.infos) > MOST_INFOS:
            self.infos.clear()

    def close(self) -> None:
        """Let go of the recording."""
        self._check = _closed

    def build(self, op: str, args: tuple, kwargs: tuple = ()) -> Node:
        """The node for an operation, checked against its inputs' shapes and dtypes."""
        node = Node(op, args, kwargs)
        if node not in self.infos:
            self._infer(node)
        if node not in self.places:
            self.places[node] = here()
        return node

    def info(self, node: Node) -> Info:
        """What is known of a node: its placeholder, and when it can be computed."""
        known = self.infos.get(node)
        if known is not None:
            return known
        for below in walk([node]):
            if below not in self.infos:
                self._infer(below)
        return self.infos[node]

    def _infer(self, node: Node) -> None:
        when = -1
        if node.op == SITE:
            site = site_of(node)
            self._check(site)
            value, when = self.census.values[site], self.census.order[site]
        elif node.op == CONSTANT:
            value = self.tools.placeholder(node.args[1], getattr(mx, node.args[2]))
        elif node.op == NUMBER:
            value = WEAK[node.args[1]]
        elif node.op == PARAM:
            _, shape, dtype = node.args
            value = 1.0
            if shape is not None:
                value = self.tools.placeholder(shape, getattr(mx, dtype or "float32"))
        elif node.op == GRAD:
            value, when = self.info(node.args[1]).value, LAST
        else:
            for child in node.inputs:
                when = max(when, self.info(child).when)
            value = self._try(node)
        self.infos[node] = Info(value, when)

    def _try(self, node: Node) -> Any:
        try:
            with paused():
                result = self.tools.evaluate(node, lambda child: self.infos[child].value)
        except MLXGraphError:
            raise
        except (ValueError, TypeError, IndexError) as error:
            self._refuse(node, error)
        except RuntimeError as error:
            if node.op == APPLY or "[eval]" in str(error):
                raise  # a function that looks at values: whoever called it runs it on real ones
            self._refuse(node, error)
        return map_nested(result, self._abstract)

    def _abstract(self, value: Any) -> Any:
        if isinstance(value, ARRAY):
            return self.tools.placeholder(value.shape, value.dtype)
        return value

    def _refuse(self, node: Node, error: Exception) -> None:
        shapes = " and ".join(describe(self.infos[child].value) for child in node.inputs)
        reason = str(error).split("\n")[0]
        op = node.op.removeprefix("mx.")
        where = self.places.setdefault(node, here())
        notes = Notes(self.places, self.infos)
        listing = around(walk([*self.places]), node, 2, self.constants, notes)
        del self.places[node]
        if isinstance(error, (TypeError, RuntimeError)):
            raise OperationError(op, shapes, str(where), reason, listing) from error
        raise ShapeError(f"{op} of {shapes}: {reason}", str(where), listing=listing) from error
