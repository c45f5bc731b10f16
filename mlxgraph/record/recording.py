"""One open block: it turns what proxies are asked to do into nodes, and ends as a Graph.

In: a census (what the forward will visit) and two tools from the running side: how to evaluate
a node on placeholders, and how to look at a value.  Out: a Graph.
Never: runs the model.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.errors import (
    EscapedError,
    GradientError,
    GradientOrderError,
    NeverCalledError,
    OrderError,
    OutsideTraceError,
    ShapeError,
    StaleHandleError,
)
from mlxgraph.errors.source_line import SourceLine, here
from mlxgraph.graph.census import Census
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import CONSTANT, GRAD, NUMBER, SITE, Node, site_of, walk
from mlxgraph.graph.site import SKIP, Site
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record.conform import NUMBER_KINDS, describe, fitted
from mlxgraph.record.freeze import dtype_name, freeze
from mlxgraph.record.gradient import slope
from mlxgraph.record.inference import Book, Tools
from mlxgraph.record.nested_proxy import Nest
from mlxgraph.record.notes import Notes
from mlxgraph.record.proxy import Proxy, wrap


class Cell:
    """A site's value in program order: the node it holds now, and who replaced it."""

    __slots__ = ("site", "node", "epoch", "replaced_at", "written_at")

    def __init__(self, site: Site, node: Node):
        self.site = site
        self.node = node
        self.epoch = 0
        self.replaced_at: SourceLine | None = None
        self.written_at: SourceLine | None = None


class Recording:
    """The state of one block."""

    def __init__(self, census: Census, tools: Tools):
        self.census = census
        self.tools = tools
        self.owner: Any = None
        self.constants: list[Any] = []
        self.book = Book(census, tools, self._check_visited, self.constants)
        self.infos = self.book.infos
        self.places = self.book.places
        self.build = self.book.build
        self.info = self.book.info
        self.open = True
        self.cells: dict[Site, Cell] = {}
        self.saves: list[tuple[str | None, Any]] = []
        self.unbound: tuple[str, ...] = ()
        self.saved_in_place: list[tuple[Any, Any]] = []
        self.draws = 0
        self.params: dict[str, Node] = {}  # those that were touched, used in the graph or not
        self.loss: Any = None
        self.scope: str | None = ""
        self.skipped: dict[str, Any] = {}
        self.by_hand: dict[str, Any] = {}

    def result(self, op: str, args: tuple, kwargs: tuple = ()) -> Any:
        """A proxy of an operation's result; a value that is no array comes back as it is."""
        node = self.build(op, args, kwargs)
        return wrap(self, node, self.infos[node].value)

    def call(self, op: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Record `op(*args, **kwargs)` on user values."""
        frozen = tuple([freeze(value, self) for value in args])
        named = tuple([(k, freeze(v, self)) for k, v in kwargs.items()]) if kwargs else ()
        return self.result(op, frozen, named)

    def arithmetic(self, op: str, args: tuple, kwargs: dict[str, Any] | None = None) -> Any:
        """Record an elementwise operation; its Python numbers become inputs of the pass."""
        return self.result(op, tuple([self.operand(value) for value in args]))

    def operand(self, value: Any) -> Any:
        """A frozen operand: as `freeze`, but Python numbers are lifted."""
        if isinstance(value, np.generic):
            value = value.item()
        kind = NUMBER_KINDS.get(type(value))
        return self.number(value, kind) if kind else freeze(value, self)

    def draw(self, op: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Record a random draw; two draws are never the same node."""
        self.draws += 1
        return self.call(op, (self.draws, *args), kwargs)

    # -- values from outside --------------------------------------------------------------

    def lift(self, array: mx.array) -> Node:
        """An array from outside becomes an input of the pass, with the value it has now.

        The same array lifted twice is two inputs: MLX changes arrays in place (`v += 1`), and
        nothing tells whether this one has changed since.
        """
        node = self.build(CONSTANT, (len(self.constants), array.shape, dtype_name(array.dtype)))
        self.constants.append(array.__copy__())
        return node

    def number(self, value: Any, kind: str) -> Node:
        """A Python number in arithmetic becomes a weakly typed input of the pass."""
        node = self.build(NUMBER, (len(self.constants), kind))
        self.constants.append(value)
        return node

    def check_escapes(self) -> None:
        """Raise if an array from outside was made from a placeholder behind our back."""
        for node in [node for node in self.places if node.op == CONSTANT]:
            try:
                mx.async_eval(self.constants[node.args[0]])
            except RuntimeError as error:
                if "without a primitive" in str(error):
                    raise EscapedError(str(self.places[node])) from None
                raise
            except ValueError as error:  # followed by a transformation, and so no escape
                if "graph transformation" not in str(error):
                    raise

    # -- sites ------------------------------------------------------------------------------

    def _check_visited(self, site: Site) -> None:
        for prefix, where in self.skipped.items():
            if site.path.startswith(prefix):
                reason = f"{prefix[:-1]} was skipped at {where}, and nothing in it runs."
                raise NeverCalledError(str(site), str(here()), (), reason=reason)
        if site not in self.census.order:
            called = dict.fromkeys(s.path for s in self.census.order)
            times = self.census.calls(site.path)
            raise NeverCalledError(str(site), str(here()), called, times)

    def cell(self, site: Site) -> Cell:
        """The site's current value."""
        site = self.scoped(site)
        cell = self.cells.get(site)
        if cell is None:
            self._check_visited(site)
            cell = Cell(site, self.build(SITE, tuple(site)))
            self.cells[site] = cell
        return cell

    def scoped(self, site: Site) -> Site:
        """The site of the invoke that is open, where there are several prompts."""
        if self.scope == "":
            return site
        if self.scope is None:
            raise OutsideTraceError(f"{site}, outside of `with t.invoke(...)`,")
        return site if site.path.startswith("@") else site._replace(path=self.scope + site.path)

    def read(self, site: Site) -> Any:
        """A handle on the site's value as the program has left it so far."""
        cell = self.cell(site)
        return wrap(self, cell.node, self.info(cell.node).value, cell=cell)

    def replace(self, site: Site, value: Any) -> None:
        """`module.output = value`"""
        cell = self.cell(site)
        site = cell.site
        if self._already_there(value, cell):
            return
        node = self.fitted(value, cell.node, site)
        self.check_order(cell.site, node)
        cell.node = node
        cell.epoch += 1
        cell.replaced_at = cell.written_at = here()

    def skip(self, site: Site, value: Any) -> None:
        """Do not run the module that `site` is the output of; `value` is its output."""
        site = self.scoped(site)
        self._check_visited(site)
        target = self.census.values[site]
        node = freeze(value, self)
        if type(node) is not Node or describe(self.info(node).value) != describe(target):
            given = describe(self.info(node).value) if type(node) is Node else repr(value)
            raise ShapeError(
                f"{site} is {describe(target)}, and skipping it was to give {given}",
                str(here()),
                "Give a value of the same shape and dtype, such as the module's input.",
            )
        skipped = site._replace(port=SKIP)
        if self.scope:  # the module runs for the other prompts' rows
            self.replace(site, value)
            self.skipped[site.path + "."] = here()
            return
        self.check_order(skipped, node)
        cell = self.cells.setdefault(skipped, Cell(skipped, node))
        cell.node = node
        self.skipped[site.path + "."] = here()

    @staticmethod
    def _already_there(value: Any, cell: Cell) -> bool:
        """`module.output += v` writes through first, and then assigns the handle itself."""
        return (
            type(value) in (Proxy, Nest)
            and value._cell is cell
            and value._base is None
            and value._node is cell.node
            and value._epoch == cell.epoch
        )

    def augment(self, handle: Any, op: str, other: Any) -> None:
        """`handle += other`: the place's value as it is now, changed."""
        chain, root_node = self._chain(handle)
        node = root_node
        for view in reversed(chain[:-1]):
            node = view._step.take(self.build, node)
        handle._node = node
        self.write(handle, self.result(op, (node, other)))

    def _chain(self, handle: Any) -> tuple[list[Any], Node]:
        """The handles from a view up to its root, and the node that the root's place holds now."""
        chain = [handle]
        while chain[-1]._base is not None:
            chain.append(chain[-1]._base)
        root = chain[-1]
        cell = root._cell
        if cell is None and root._node.op == GRAD:
            raise GradientError(
                f"a gradient cannot be written: nothing reads it.\n  at {here()}\n"
                "  Copy it to change it, `g = mx.array(h.grad)`; to change what flows back, write"
                " the forward with mx.stop_gradient or mx.custom_function."
            )
        if cell is None:
            return chain, root._node
        if root._epoch != cell.epoch:
            raise StaleHandleError(str(cell.site), str(here()), str(cell.replaced_at))
        return chain, cell.node

    def write(self, handle: Any, value: Any) -> None:
        """`handle[...] = value`, through every view between the handle and its site."""
        part = self.fitted(value, handle._node, handle)
        chain, base = self._chain(handle)
        root = chain[-1]
        cell = root._cell
        bases = []
        for view in reversed(chain[:-1]):
            bases.append((view._step, base))
            if view is not handle:
                base = view._step.take(self.build, base)
        node = part
        for step, base in reversed(bases):
            node = step.put(self.build, base, node)
        if cell is not None:
            self.check_order(cell.site, node)
            cell.node = node
            cell.written_at = here()
        root._node = node
        for view in reversed(chain[1:-1]):
            node = view._step.take(self.build, node)
            view._node = node
        handle._node = part if handle is not root else node
        if handle._base is not None:
            handle._synced = handle._base._node

    def update(self, handle: Any, step: Any, value: Any) -> None:
        """`handle[index] = value`, without making the view a handle of its own."""
        if step.back == "update" and self._is_mask(step.args[0]):
            self._update_masked(handle, step, value)
            return
        view = wrap(self, *self._taken(handle, step), base=handle, step=step)
        self.write(view, value)

    def _is_mask(self, index: Any) -> bool:
        """Whether an index is an array of bools: MLX writes through those, and does not read."""
        value = self.info(index).value if type(index) is Node else None
        return isinstance(value, ARRAY) and value.dtype == mx.bool_

    def _update_masked(self, handle: Any, step: Any, value: Any) -> None:
        chain, node = self._chain(handle)
        for view in reversed(chain[:-1]):
            node = view._step.take(self.build, node)
        handle._node = node
        self.write(handle, self.result("update", (node, step.args[0], self.operand(value))))

    def replace_input(self, site: Site, value: Any) -> None:
        """`module.input = value`: older handles on the inputs are stale from here on."""
        cell = self.cell(site)
        before = cell.node
        whole = self.read(site)
        arguments = whole[0] if len(whole[0]) else whole[1]
        arguments[next(iter(arguments.keys())) if arguments.is_dict() else 0] = value
        if cell.node is not before:
            cell.epoch += 1
            cell.replaced_at = here()

    def _taken(self, handle: Any, step: Any) -> tuple[Node, Any]:
        node = step.take(self.build, handle._node)
        return node, self.infos[node].value

    def view(self, handle: Any, step: Any) -> Any:
        """A handle on a part of another handle's value."""
        return wrap(self, *self._taken(handle, step), base=handle, step=step)

    def check_order(self, site: Site, node: Node) -> None:
        """Raise if a write at `site` would need what the forward computes later."""
        if self.info(node).when <= self.census.position(site):
            return
        if any(n.op == GRAD for n in walk([node])):
            raise GradientOrderError(str(site), str(here()))
        late = [n for n in walk([node]) if n.op == SITE]
        worst = max(late, key=lambda n: self.info(n).when)
        read_at = self.places.get(worst)
        raise OrderError(str(site), str(site_of(worst)), str(here()), str(read_at or ""))

    def fitted(self, value: Any, like: Node, what: Any) -> Node:
        """`value` as a node of the shape and dtype of `like`; `what` names the place in errors."""
        return fitted(self, value, like, what)

    # -- gradients ------------------------------------------------------------------------

    def gradient(self, loss: Any, handle: Any) -> Any:
        """The gradient of a scalar loss at a handle's value, of the same shape."""
        return slope(self, loss, handle)

    # -- saves and looks ----------------------------------------------------------------------

    def save(self, handle: Any, name: str | None) -> Any:
        """A handle that keeps the value as it is at this line."""
        kept = wrap(
            self,
            handle._node,
            self.info(handle._node).value,
            base=handle._base,
            step=handle._step,
            cell=handle._cell,
        )
        kept._epoch = handle._epoch
        self.saves.append((name, kept))
        self.saved_in_place.append((handle, kept))
        return kept

    def look(self, node: Node) -> Any:
        """The real value of a node, now."""
        return self.tools.look(self, node)

    # -- the end ----------------------------------------------------------------------------

    def graph(self, extra: tuple[tuple[str, Node], ...] = ()) -> Graph:
        """What has been recorded so far, as a value."""
        writes = [
            (site, cell.node)
            for site, cell in self.cells.items()
            if cell.node.op != SITE or cell.node.args != tuple(site)
        ]
        names: dict[str, int] = {}
        saves = []
        for name, handle in self.saves:
            name = name or self._default_name(handle)
            count = names.get(name, 0)
            names[name] = count + 1
            saves.append((f"{name}#{count + 1}" if count else name, handle._node))
        return Graph(writes, (*saves, *extra), self.constants, Notes(self.places, self.infos))

    @staticmethod
    def _default_name(handle: Any) -> str:
        if handle._cell is not None and handle._base is None:
            return str(handle._cell.site.unscoped)
        node = handle._node
        return str(site_of(node).unscoped) if node.op == SITE else node.op.rpartition(".")[2]

    def finish(self, results: list[Any]) -> None:
        """Fill every saved handle with its value: from now on it is an array like any other."""
        results_of = {
            id(kept): result for (_, kept), result in zip(self.saves, results, strict=True)
        }
        for handle, kept in self.saved_in_place:
            if id(handle) not in results_of and handle._node is kept._node:
                handle._fill(results_of[id(kept)])
                results_of[id(handle)] = None
        for (_, kept), result in zip(self.saves, results, strict=True):
            kept._fill(result)
        self.saved_in_place.clear()

    def close(self) -> None:
        """No operation is recorded after this.

        What referred back to the recording lets go of it, so that a trace is freed when its last
        user is gone and not by the garbage collector, whose rounds would cost more than the trace.
        """
        self.open = False
        self.book.close()
        self.by_hand.clear()
        self.loss = None
