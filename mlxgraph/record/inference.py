"""Inference: what each recorded node will be, worked out on placeholders as it is recorded.

A shape that does not fit raises on the user's own line, before anything is computed.  What was
worked out stays with the census, so that the same program recorded again is only looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlxgraph.errors import MLXGraphError, OperationError, ShapeError
from mlxgraph.errors.source_line import here
from mlxgraph.evaluate.bounds import Outside, check_frozen, indexed, nodes_in
from mlxgraph.evaluate.evaluate import call_arguments, evaluate
from mlxgraph.evaluate.known import known_values
from mlxgraph.graph import ops
from mlxgraph.graph.census import Census, Info
from mlxgraph.graph.graph import Note
from mlxgraph.graph.listing import around
from mlxgraph.graph.nested import map_nested
from mlxgraph.graph.node import Node, site_of, walk
from mlxgraph.graph.site import Site
from mlxgraph.graph.values import Opaque, dtype_name
from mlxgraph.mlx_facts import originals, random_state
from mlxgraph.mlx_facts.dtypes import dtype_named
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.placeholders import placeholder
from mlxgraph.mlx_facts.probes import says_holds_nothing
from mlxgraph.record.bounds import refuse
from mlxgraph.record.conform import shape_and_dtype
from mlxgraph.record.no_value import refuse_modules
from mlxgraph.record.not_taken import in_other_words
from mlxgraph.record.stack import paused

_WEAK = {"int": 1, "float": 1.0, "bool": True}
MOST_INFOS = 20_000
LAST = 1 << 60  # a gradient is known when the whole forward is over


class Inference:
    """The nodes of one recording: their placeholders, when they can be computed, their lines.

    Args:
        census: what the forward visits; keeps what is worked out here for the next recording.
        modules: the model's modules by path, to be called on placeholders.
        check: raises where a site cannot be read.
        constants: the recording's, to show in errors.
    """

    def __init__(
        self,
        census: Census,
        modules: Callable[[], Mapping[str, Any]],
        check: Callable[[Site], None],
        constants: list[Any],
    ):
        self.lines: dict[Node, Any] = {}
        self.infos = census.infos
        self._opaque: set[Node] = set()  # Python functions, and what is made of their results
        self._census = census
        self._modules = modules
        self._constants = constants
        self._check = check
        if len(self.infos) > MOST_INFOS:
            self.infos.clear()

    def build(self, op: str, args: tuple, kwargs: tuple = ()) -> Node:
        """The node for an operation, checked against its inputs' shapes and dtypes."""
        node = Node(op, args, kwargs)
        if node not in self.infos:
            self._infer(node)
        if node not in self.lines:
            self.lines[node] = here()
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

    def forget_functions(self) -> None:
        """Let go of the Python functions of this recording: what is kept with the census lives
        long, and they would with all that they capture."""
        for node in self._opaque:
            self.infos.pop(node, None)

    def mark(self) -> tuple[int, int]:
        """Where the recording stands, for `rewind`."""
        return len(self._constants), len(self.lines)

    def rewind(self, mark: tuple[int, int]) -> None:
        """Forget the nodes and constants that came after a mark: nothing uses them."""
        constants, lines = mark
        del self._constants[constants:]
        for node in [*self.lines][lines:]:
            del self.lines[node]

    def check_indices(self, node: Node) -> None:
        """Raise BoundsError where a node, of a graph that meets this forward, indexes outside."""
        self.info(node)
        found = indexed(node.op, node.args, node.kwargs)
        if found is None:
            return
        known = known_values(nodes_in(found[1]), self._constants, {})
        if not known:
            return  # whole numbers were checked when the shape was worked out
        try:
            check_frozen(
                found[1],
                self.infos[found[0]].value.shape,
                lambda child: known[child] if child in known else self.info(child).value,
            )
        except Outside as outside:
            refuse(outside, str(self.lines.get(node) or here()))

    def notes(self) -> Notes:
        """Line, shape and dtype of every node so far."""
        return Notes(self.lines, self.infos)

    def _infer(self, node: Node) -> None:
        when: float = -1
        if node.op == ops.SITE:
            site = site_of(node)
            self._check(site)
            value, when = self._census.value(site), self._census.position(site)
        elif node.op == ops.CONSTANT:
            value = placeholder(node.args[1], dtype_named(node.args[2]))
        elif node.op == ops.NUMBER:
            value = _WEAK[node.args[1]]
        elif node.op == ops.PARAM:
            _, shape, dtype = node.args
            value = 1.0 if shape is None else placeholder(shape, dtype_named(dtype or "float32"))
        elif node.op == ops.GRAD:
            value, when = self.info(node.args[1]).value, LAST
        else:
            for child in node.inputs:
                when = max(when, self.info(child).when)
            value = self._try(node)
        self.infos[node] = Info(value, when)
        if node.op == ops.APPLY or (self._opaque and not self._opaque.isdisjoint(node.inputs)):
            self._opaque.add(node)

    def _try(self, node: Node) -> Any:
        """A node's value on placeholders.

        What is drawn here is drawn for its shape, and leaves the random state as it was.
        """
        key = random_state.current()
        try:
            with paused():
                result = self._value(node)
            if node.op == ops.CALL and not random_state.same(key):
                made = random_state.draws_between(key, random_state.current())
                self._census.drawing[node] = made
        except MLXGraphError:
            raise
        except Outside as outside:
            refuse(outside, str(self.lines.get(node) or here()))
        except (ValueError, TypeError, IndexError) as error:
            self._refuse(node, error)
        except RuntimeError as error:
            if node.op == ops.APPLY or says_holds_nothing(error):
                raise  # a function that looks at values: whoever called it runs it on real ones
            self._refuse(node, error)
        finally:
            random_state.restore(key)
        return map_nested(result, _abstract)

    def _value(self, node: Node) -> Any:
        def lookup(child: Node) -> Any:
            return self.infos[child].value

        if node.op == ops.AT_STEPS:
            return lookup(node.args[2])  # whichever step it will be
        if node.op == ops.CALL:
            path, args, kwargs = call_arguments(node, lookup)
            return self._modules()[path](*args, **kwargs)
        if node.op != ops.APPLY:
            return evaluate(node, lookup)
        try:
            return evaluate(node, lookup)
        except (RuntimeError, ValueError) as error:
            if not says_holds_nothing(error):
                raise
        # it looks at values: tried on zeros of their kind
        return evaluate(node, lambda child: map_nested(lookup(child), _zeros))

    def _refuse(self, node: Node, error: Exception) -> None:
        refuse_modules([a.value for a in node.args if type(a) is Opaque], node.op)
        shapes = " and ".join(shape_and_dtype(self.infos[child].value) for child in node.inputs)
        reason = in_other_words(node, lambda n: self.infos[n].value) or str(error).split("\n")[0]
        op = node.op.removeprefix("mx.")
        line = self.lines.setdefault(node, here())
        listing = around(walk([*self.lines]), node, 2, self._constants, self.notes())
        del self.lines[node]
        if isinstance(error, (TypeError, RuntimeError)):
            raise OperationError(op, shapes, str(line), reason, listing) from error
        raise ShapeError(f"{op} of {shapes}: {reason}", str(line), listing=listing) from error


def _abstract(value: Any) -> Any:
    return placeholder(value.shape, value.dtype) if isinstance(value, ARRAY) else value


def _zeros(value: Any) -> Any:
    return originals.zeros(value.shape, value.dtype) if isinstance(value, ARRAY) else value


class Notes(dict):
    """Line, shape and dtype of each node, worked out only when somebody reads them."""

    def __init__(self, lines: dict[Node, Any], infos: dict[Node, Info]):
        super().__init__()
        self._lines = lines
        self._infos = {node: infos[node] for node in lines if node in infos}

    def get(self, node: Node, default: Any = None) -> Any:
        line = self._lines.get(node)
        info = self._infos.get(node)
        if line is None and info is None:
            return super().get(node, default)
        value = info.value if info else None
        if not isinstance(value, ARRAY):
            return Note(str(line or ""))
        return Note(str(line or ""), value.shape, dtype_name(value.dtype))
