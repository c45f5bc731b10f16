"""One open block: it turns what handles are asked to do into nodes, and ends as a Graph.

In: a census (what the forward will visit), the model's modules, and how to look at a value.
Out: a Graph.  Never: runs the model.

The methods of `Recording` are its door: handles, module handles and traces use these and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.errors import GradientOrderError, OrderError, ShapeError
from mlxgraph.errors.source_line import here
from mlxgraph.evaluate.bounds import TAKES
from mlxgraph.graph import check, ops
from mlxgraph.graph.algebra import draws, rebuilt, shifted_by
from mlxgraph.graph.census import Census, Whole
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node, site_of, walk
from mlxgraph.graph.site import INPUTS, OUTPUT, SKIP, Site
from mlxgraph.graph.values import dtype_name
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.arrays import same_data
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.probes import is_followed
from mlxgraph.record import module_state, write_through
from mlxgraph.record.bounds import check_taken
from mlxgraph.record.conform import ANY_DTYPE, NUMBER_KINDS, check_number, shape_and_dtype
from mlxgraph.record.escapes import check_escapes
from mlxgraph.record.freeze import freeze
from mlxgraph.record.gradient import gradient
from mlxgraph.record.handle import is_handle, not_known_yet
from mlxgraph.record.inference import Inference
from mlxgraph.record.param import filled, holes
from mlxgraph.record.proxy import wrap
from mlxgraph.record.rows import check_rows
from mlxgraph.record.saves import Saves
from mlxgraph.record.site_values import SiteValues, no_parts
from mlxgraph.record.sums import lowered, lowered_node
from mlxgraph.record.views import View
from mlxgraph.record.write_through import WholeSite

Look = Callable[["Recording", Node], Any]


class Recording:
    """The state of one block.

    Args:
        census: what the forward visits.
        root: the model, by which an open recording on it is found.
        modules: gives the model's modules by path, to be called on placeholders.
        look: gives the real value of a node; None where the inputs are not known yet.

    Attributes: `open` until the block ends; `owner`, where it was opened; `unbound`, the params
        that were never given values; `loss`, the last `loss.backward()`;
        `takes_gradients`, whether anything does; `constants`, what came from outside; `by_hand`,
        what modules returned that were called by hand.
    """

    def __init__(
        self,
        census: Census,
        root: Any,
        modules: Callable[[], Mapping[str, Any]],
        look: Look | None = None,
    ):
        self.census = census
        self.root = root
        self.open = True
        self.owner = 0  # the generator that the block was opened in (`record.stack`)
        self.constants: list[Any] = []
        self.params: dict[str, Node] = {}  # those that were touched, used in the graph or not
        self.unbound: tuple[str, ...] = ()
        self.loss: Any = None
        self.takes_gradients = False
        self.saved = self._saves = Saves()
        self._look = look
        self.detached = False  # whether views are values of their own, as MLX's are
        self.sites = self._sites = SiteValues(census)
        self._inference = Inference(census, modules, self._sites.check_visited, self.constants)
        self.build = self._inference.build
        self.info = self._inference.info
        self.infos, self.lines = self._inference.infos, self._inference.lines
        self.mark, self.rewind = self._inference.mark, self._inference.rewind
        self._key = random_state.current()
        self._draws = 0
        self.by_hand: dict[str, Any] = {}
        self.set_on_modules: list[Any] = []  # see `record.module_state`

    # -- operations -------------------------------------------------------------------------------

    def result(self, op: str, args: tuple, kwargs: tuple = ()) -> Any:
        """A proxy of an operation's result; a value that is no array comes back as it is."""
        node = self.build(op, args, kwargs)
        return wrap(self, node, self.infos[node].value)

    def call(self, op: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Record `op(*args, **kwargs)` on user values."""
        if op in TAKES:
            check_taken(op, args, kwargs)
        frozen = tuple([freeze(value, self) for value in args])
        named = tuple([(k, freeze(v, self)) for k, v in kwargs.items()]) if kwargs else ()
        return self.result(op, frozen, named)

    def arithmetic(self, op: str, args: tuple) -> Any:
        """Record an elementwise operation; its Python numbers become inputs of the run."""
        if any([type(value) is int and value not in ANY_DTYPE for value in args]):
            of = args[1:] if op == ops.MX_WHERE else args
            array = next((value for value in of if isinstance(value, ARRAY)), None)
            for value in args if array is not None else ():
                check_number(op, value, array)
        return self.result(op, tuple([self.operand(value) for value in args]))

    def draw(self, op: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Record a random draw; two draws are never the same node."""
        self._draws += 1
        return self.call(op, (self._draws, *args), kwargs)

    def call_module(self, path: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Record a module called by hand on values: as it is, without the model's own edits."""
        frozen = tuple([freeze(value, self) for value in args])
        named = tuple([(key, freeze(value, self)) for key, value in kwargs.items()])
        result = self.result(ops.CALL, (path, *frozen), named)
        draws = self.census.drawing.get(Node(ops.CALL, (path, *frozen), named))
        if draws:  # two calls are two draws
            result = self.result(ops.CALL, (self._draws + 1, path, *frozen), named)
            self._draws += draws
        self.by_hand[path] = result
        return result

    def last_by_hand(self, site: Site) -> Any:
        """What a module that no forward calls returned when it was last called by hand, or None."""
        path = self.census.aliases.get(site.path, site.path)
        if path in self.by_hand and not self.census.visits(self._sites.scoped(site)):
            return self.by_hand[path]
        return None

    # -- values from outside ----------------------------------------------------------------------

    def operand(self, value: Any) -> Any:
        """A frozen operand: as `freeze`, but Python numbers are lifted."""
        if isinstance(value, np.generic):
            value = value.item()
        kind = NUMBER_KINDS.get(type(value))
        return self._number(value, kind) if kind else freeze(value, self)

    def lift(self, array: mx.array) -> Node:
        """An array from outside becomes an input of the run, with the value it has now.

        The same array lifted twice is two inputs: MLX changes arrays in place (`v += 1`), and
        nothing tells whether this one has changed since.
        """
        node = self.build(ops.CONSTANT, (len(self.constants), array.shape, dtype_name(array.dtype)))
        self.constants.append(same_data(array))
        return node

    def _number(self, value: Any, kind: str) -> Node:
        """A Python number in arithmetic becomes a weakly typed input of the run."""
        node = self.build(ops.NUMBER, (len(self.constants), kind))
        self.constants.append(value)
        return node

    def is_compiling(self) -> bool:
        """Whether a function of the user's that captures the random state is being compiled."""
        now = random_state.current()
        return now is not self._key and is_followed(now) and not is_followed(self._key)

    def check_escapes(self) -> None:
        """Raise if an array from outside was made from a placeholder, or drawn, behind our back."""
        check_escapes(self._inference.lines, self.constants, self._key, self.census.checked)

    # -- sites ------------------------------------------------------------------------------------

    def read(self, site: Site) -> Any:
        """A handle on the site's value as the program has left it so far."""
        cell = self._sites.cell(site, self.build)
        value = self.info(cell.node).value
        if type(value) is Whole:
            raise no_parts(cell.site, value)
        return wrap(self, cell.node, value, WholeSite(cell))

    def node_at(self, site: Site) -> Node:
        """The node that a site holds now."""
        return self._sites.cell(site, self.build).node

    def replace(self, site: Site, value: Any) -> None:
        """`module.output = value`"""
        write_through.write_site(self, self._sites.cell(site, self.build), value)

    def replace_input(self, site: Site, value: Any) -> None:
        """`module.input = value`: older handles on the inputs are replaced from here on."""
        cell = self._sites.cell(site, self.build)
        before = cell.node
        whole = self.read(site)
        positional, named = whole
        if len(positional):
            positional[0] = value
        else:
            named[next(iter(named))] = value
        if cell.node is not before:
            cell.replace(cell.node)

    def skip(self, site: Site, value: Any) -> None:
        """Do not run the module that `site` is the output of; `value` is its output."""
        site = self._sites.scoped(site)
        self._sites.check_visited(site)
        target = self.census.values[site]
        node = freeze(value, self)
        given = shape_and_dtype(self.info(node).value if type(node) is Node else value)
        if type(node) is not Node or given != shape_and_dtype(target):
            raise ShapeError(
                f"{site.spoken} is {shape_and_dtype(target)}, and skipping it was to give {given}",
                str(here()),
                "Give a value of the same shape and dtype, such as the module's input.",
            )
        if self._sites.scope:  # the module runs for the other prompts' rows
            self.replace(site, value)
        else:
            self.check_order(site._replace(port=SKIP), node)
            self._sites.skip(site, node)
        self._sites.close_inside(site)

    def meant(self, site: Site) -> Site:
        """The site that a name means in this block."""
        return self._sites.scoped(site)

    @property
    def visited(self) -> Census:
        """What the forward visits, that of the prompt which is open where there are several."""
        return self._sites.visited

    def check_order(self, site: Site, node: Node) -> None:
        """Raise if a write at `site` would need what the forward computes later, or has no rows."""
        if site.port == INPUTS and site.path in self.census.embeddings:
            check_rows(site, node, self.census.embeddings[site.path], self.constants)
        if self.info(node).when <= self.census.position(site):
            return
        if any(n.op == ops.GRAD for n in walk([node])):
            raise GradientOrderError(site.spoken, str(here()))
        late = [n for n in walk([node]) if n.op == ops.SITE]
        worst = max(late, key=lambda n: self.info(n).when)
        read_at = self.line_of(worst)
        raise OrderError(site.spoken, site_of(worst).spoken, str(here()), str(read_at or ""))

    # -- several prompts --------------------------------------------------------------------------

    def has_prompts(self) -> None:
        """From here on sites belong to a prompt: `prompt` says which."""
        self._sites.scope = None

    def prompt(self, census: Census) -> AbstractContextManager[None]:
        """A block in which sites are those of the next prompt, which alone visits `census`.

        Raises: OutsideTraceError in a block of another prompt.
        """
        return self._sites.prompt(census)

    # -- handles (what their own methods come to) -------------------------------------------------

    def view(self, handle: Any, view: View) -> Any:
        """A handle on a part of another handle's value."""
        return write_through.part_of(self, handle, view, self.detached)

    def write(self, handle: Any, value: Any) -> None:
        """`handle[...] = value`"""
        write_through.write(self, handle, value)

    def write_part(self, handle: Any, view: View, value: Any) -> None:
        """`handle[index] = value`"""
        write_through.write_part(self, handle, view, value)

    def augment(self, handle: Any, op: str, other: Any) -> None:
        """`handle += other`"""
        write_through.augment(self, handle, op, other)

    def write_at(self, site: Site, handle: Any, value: Any) -> None:
        """Write a handle that was read at a site: the whole of it, or the part that it shows."""
        if write_through.is_part(handle):
            self.write(handle, value)
        else:
            self.replace(site, value)

    def gradient(self, loss: Any, handle: Any) -> Any:
        """The gradient of a scalar loss at a handle's value, of the same shape."""
        return gradient(self, loss, handle)

    def gradients(self, loss: Any, at: Any) -> Any:
        """`t.grad(loss, h)`: at one handle, or a list of gradients at several."""
        if isinstance(at, (list, tuple)) and not is_handle(at):
            return [gradient(self, loss, handle) for handle in at]
        return gradient(self, loss, at)

    def save(self, handle: Any, name: str | None = None, listed: bool = True) -> Any:
        """A handle that keeps the value as it is at this line.

        Args: listed: whether the value stands among the saved values by name.
        """
        return self._saves.add(self, handle, name, listed)

    def look(self, node: Node) -> Any:
        """The real value of a node, now.  Raises: LookError where the inputs are not known yet."""
        if self._look is None:
            raise not_known_yet()
        return self._look(self, lowered_node(self, node))

    def line_of(self, node: Node) -> Any:
        """The user's line that made a node, or None."""
        return self._inference.lines.get(node)

    # -- the graph --------------------------------------------------------------------------------

    @property
    def saves(self) -> int:
        """How many values are saved so far."""
        return len(self._saves)

    def take_in(self, graph: Graph) -> None:
        """Go on from where a graph leaves off: what it reads is what was written so far.

        Its deferred edits are not for here: which sites they mean, a model decides.
        """
        shifted = shifted_by(graph.replace(then=()), len(self.constants), self._draws)
        self._draws += draws(graph)
        self.constants.extend(graph.constants)
        moved = rebuilt(
            shifted, lambda node: self.node_at(site_of(node)) if node.op == ops.SITE else None
        )
        for node in moved.nodes():
            note = moved.notes.get(node)
            if note is not None and note.where:
                self._inference.lines.setdefault(node, note.where)
            self._inference.check_indices(node)
            self.takes_gradients = self.takes_gradients or node.op == ops.GRAD
            if node.op == ops.PARAM:
                self.params.setdefault(node.args[0], node)
        for site, node in moved.writes:
            if site.port != SKIP:
                cell = self._sites.cell(site, self.build)
                self.check_order(cell.site, node)
                cell.node = node
        for site, node in moved.writes:
            if site.port == SKIP:  # last: nothing inside the module can be named from here on
                self.skip(site._replace(port=OUTPUT), wrap(self, node, self.info(node).value))
        for name, node in moved.saves:
            self._saves.take_in(name, wrap(self, node, self.info(node).value))

    def graph(self) -> Graph:
        """What has been recorded so far, as a value."""
        writes, saves = lowered(self, self._sites.writes(), self._saves.named())
        graph = Graph(writes, saves, self.constants, self._inference.notes())
        check.if_asked(graph)
        return graph

    # -- the end ----------------------------------------------------------------------------------

    def bind(self, graph: Graph, given: Mapping[str, Any]) -> dict[str, Any]:
        """Values for the params of what was recorded; those without one are `unbound` from here on.

        Raises: UnknownNameError for a value without a param, ParamError for one that does not fit.
        """
        if not self.params and not given:
            return {}
        wanted = holes(graph)
        params = filled({**self.params, **wanted}, given)
        self.unbound = tuple(name for name in wanted if name not in params)
        return params

    def finish(self, graph: Graph, results: Sequence[Any]) -> dict[str, Any]:
        """Give every saved handle its value: each is an array from now on.

        Args: graph: what was recorded; results: the values of its saves.
        Returns: the values by name, those that are listed.
        """
        return self._saves.finish([name for name, _ in graph.saves], results)

    def let_go(self) -> None:
        """Keep no handle and no Python function of this block, now that its graph has been made."""
        self._inference.forget_functions()
        self._saves.forget()

    def close(self) -> None:
        """No operation is recorded after this.

        What referred back to the recording lets go of it, so that a trace is freed when its last
        user is gone and not by the garbage collector, whose rounds would cost more than the trace.
        """
        self.open = False
        module_state.put_back(self, self._saves.keeps)
        self.by_hand.clear()
        self._look = None
        self.loss = None
