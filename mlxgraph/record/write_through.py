"""Writing: what `h[i] = v`, `h += v` and `module.output = v` do to the values of a recording.

Nodes never change.  What a write changes is which node a handle stands for, and which node a site
holds.  How a handle was reached says where a write to it goes, its *origin*:

    origin     the handle is                     a write to it
    ---------  --------------------------------  ------------------------------------------------
    WholeSite  the value of a site               gives the site's cell the new node
    Part       a view (`h[:, -1]`) of a handle   is put back, view by view, into the handle that
                                                 it is a view of, down to the first one
    None       a value computed in the block     changes this handle alone

A cell is a site's value in program order.  Its *epoch* counts the times it was replaced as a whole;
a handle of an earlier epoch goes on reading its own value, and writing into it is refused.

    state of a handle  what happened since it was read  its node           a write to it
    -----------------  -------------------------------  -----------------  -----------------------
    fresh              nothing                          is the cell's      goes to the site
    behind             a write through another handle   is the older one   goes to the site, on top
                                                                           of the newer value
    replaced           `module.output = v`              is the older one   StaleHandleError
    saved              anything                         is its line's own  goes to the site, and
                                                                           changes what is kept

Reading the site again always gives the newer value.

**Augmented assignment.**  Python runs `h[i] += v` as three steps: `part = h[i]`, `part += v`,
`h[i] = part`.  The second has written through to the site already, so the third must do nothing.
It is told by the part's own record of the node that its base had after the write (`Part.written`):
if the base still stands for that node, nobody wrote in between.  `module.output += v` is the same
with a site in place of an index: what comes back is the cell's own, of its node and its epoch.
An augmented form starts from what the site holds *now*, not from what the handle read, so that no
update is lost.
"""

from __future__ import annotations

from typing import Any

from mlxgraph.errors import GradientError, OperationError, StaleHandleError
from mlxgraph.errors.source_line import SourceLine, here
from mlxgraph.graph import ops
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import Site
from mlxgraph.graph.values import dtype_name
from mlxgraph.mlx_facts.arrays import become, is_mask
from mlxgraph.mlx_facts.dtypes import both_inexact
from mlxgraph.mlx_facts.probes import known_range
from mlxgraph.record.conform import check_number, conformed
from mlxgraph.record.freeze import freeze
from mlxgraph.record.handle import is_handle
from mlxgraph.record.proxy import is_plain, wrap
from mlxgraph.record.views import View


class Cell:
    """A site's value in program order: the node it holds now, and the line that replaced it."""

    __slots__ = ("site", "node", "epoch", "replaced_at")

    def __init__(self, site: Site, node: Node):
        self.site = site
        self.node = node
        self.epoch = 0
        self.replaced_at: SourceLine | None = None

    def replace(self, node: Node) -> None:
        """Give the site another value as a whole: older handles are replaced from here on."""
        self.node = node
        self.epoch += 1
        self.replaced_at = here()


class WholeSite:
    """The origin of a handle on the whole value of a site."""

    __slots__ = ("cell", "epoch")

    def __init__(self, cell: Cell):
        self.cell = cell
        self.epoch = cell.epoch

    @property
    def site(self) -> Site:
        """The site whose value this is."""
        return self.cell.site


class Part:
    """The origin of a view: the handle it is a view of, how, and what a write through it left."""

    __slots__ = ("base", "view", "written", "index")
    site = None  # a part of a site's value is not its value

    def __init__(self, base: Any, view: View):
        self.base = base
        self.view = view
        self.written: Node | None = None  # the base's node after the last write through here
        self.index: Any = None  # as the user gave it, where it cannot change


def part_of(recording: Any, handle: Any, view: View, detached: bool = False) -> Any:
    """A handle on a part of another handle's value, or on a copy of it."""
    node = view.take(recording.build, handle._node)
    value = recording.infos[node].value
    if value is not None and not recording.census.traceable and is_plain(value):
        return recording.look(node)  # a number that the model makes of values: that of this run
    return wrap(recording, node, value, None if detached else Part(handle, view))


def is_part(handle: Any) -> bool:
    """Whether a handle is a view of another."""
    return type(handle._origin) is Part


def copy_of(recording: Any, handle: Any) -> Any:
    """Another handle on the same value, reached in the same way: the state that a save keeps."""
    kept = wrap(recording, handle._node, recording.infos[handle._node].value)
    origin = handle._origin
    if type(origin) is Part:
        kept._origin = Part(origin.base, origin.view)
    elif type(origin) is WholeSite:
        kept._origin = WholeSite(origin.cell)
        kept._origin.epoch = origin.epoch
    return kept


# -- writing -------------------------------------------------------------------------------------


def write(recording: Any, handle: Any, value: Any) -> None:
    """`handle[...] = value`, through every view between the handle and its site."""
    part = conformed(recording, value, handle._node, handle)
    chain, base = _chain(handle)
    root, build = chain[-1], recording.build
    bases = []

    def numbers(index: Any) -> Any:
        if type(index) is not Node or index.op != ops.CONSTANT:
            return None
        array = recording.constants[index.args[0]]
        return None if known_range(array) is None else array.reshape(-1).tolist()

    for view in reversed(chain[:-1]):
        if view is not handle and view._origin.view.shows_twice(numbers):
            raise _twice(view)
        bases.append((view._origin.view, base))
        if view is not handle:
            base = view._origin.view.take(build, base)
    node = part
    for view, base in reversed(bases):
        node = view.put(build, base, node)
    if type(root._origin) is WholeSite:
        cell = root._origin.cell
        recording.check_order(cell.site, node)
        cell.node = node
    root._node = node
    for view in reversed(chain[1:-1]):
        node = view._origin.view.take(build, node)
        view._node = node
    if handle is not root:
        handle._node = part
        handle._origin.written = handle._origin.base._node


def _twice(view: Any) -> OperationError:
    return OperationError(
        "a write",
        f"a part of {view._describe()}, which shows a place twice",
        str(here()),
        "one of the two would be lost.\n  Write to the whole part, or to what it is a part of",
    )


def augment(recording: Any, handle: Any, op: str, other: Any) -> None:
    """`handle += other`: what stands there now, changed."""
    handle._node = node = _now(recording, handle)
    result = recording.result(op, (node, other))
    if result.dtype != handle.dtype:
        # an array of its own MLX makes one of the result's dtype
        if handle._origin is None and result.shape == handle.shape:
            become(handle, result.dtype)
            handle._node = result._node
            return
        if not both_inexact(result.dtype, handle.dtype):
            raise _other_kind(op, handle, result)
    write(recording, handle, result)


def _other_kind(op: str, handle: Any, result: Any) -> OperationError:
    """A site, or a part of an array, of whole numbers stays one, and would lose the rest."""
    name, now = ops.short(op), dtype_name(result.dtype)
    return OperationError(
        f"in-place {name}",
        f"{handle._describe()}, which is {dtype_name(handle.dtype)}",
        str(here()),
        f"the result is {now}.\n  Write k = mx.{name}(k, ...), or cast it first, astype(mx.{now})",
    )


def write_part(recording: Any, handle: Any, view: View, value: Any) -> None:
    """`handle[index] = value`"""
    if _is_written(handle, view, value):
        return
    if view.back == ops.UPDATE and _is_mask(recording, view.args[0]):
        # MLX writes through a mask, and does not read through one
        node = handle._node = _now(recording, handle)
        check_number(ops.UPDATE, value, handle)
        changed = (node, view.args[0], recording.operand(value))
        write(recording, handle, recording.result(ops.UPDATE, changed))
        return
    part = part_of(recording, handle, view)
    if not is_handle(part) and view.back == ops.PUT:
        # an entry that is no array (an offset, a cache, None) may become anything
        entry = freeze(value, recording)
        part, value = (
            handle,
            recording.result(ops.PUT, (_now(recording, handle), *view.args, entry)),
        )
    write(recording, part, value)


def write_site(recording: Any, cell: Cell, value: Any) -> None:
    """`module.output = value`"""
    if _is_the_cells_own(value, cell):
        return
    node = conformed(recording, value, cell.node, cell.site)
    recording.check_order(cell.site, node)
    cell.replace(node)


def _is_written(handle: Any, view: View, value: Any) -> bool:
    """The third step of `h[i] += v`, after the second has written through."""
    if not is_handle(value):
        return False
    origin = value._origin
    return (
        type(origin) is Part
        and origin.base is handle
        and origin.view == view
        and origin.written is not None
        and origin.written is handle._node
    )


def _is_the_cells_own(value: Any, cell: Cell) -> bool:
    """The third step of `module.output += v`, after the second has written through."""
    if not is_handle(value):
        return False
    origin = value._origin
    return (
        type(origin) is WholeSite
        and origin.cell is cell
        and origin.epoch == cell.epoch
        and value._node is cell.node
    )


def _now(recording: Any, handle: Any) -> Node:
    """The node that stands where a handle was reached, as the program has left it so far."""
    chain, node = _chain(handle)
    for view in reversed(chain[:-1]):
        node = view._origin.view.take(recording.build, node)
    return node


def _chain(handle: Any) -> tuple[list[Any], Node]:
    """The handles from a view down to its root, and the node that stands at the root now."""
    chain = [handle]
    while type(chain[-1]._origin) is Part:
        chain.append(chain[-1]._origin.base)
    root = chain[-1]
    origin = root._origin
    if type(origin) is WholeSite:
        cell = origin.cell
        if origin.epoch != cell.epoch:
            raise StaleHandleError(cell.site.spoken, str(here()), str(cell.replaced_at))
        return chain, cell.node
    if root._node.op == ops.GRAD:
        raise GradientError(
            f"a gradient cannot be written: nothing reads it.\n  at {here()}\n"
            "  Copy it to change it, `g = mx.array(h.grad)`; to change what flows back, write"
            " the forward with mx.stop_gradient or mx.custom_function."
        )
    return chain, root._node


def _is_mask(recording: Any, index: Any) -> bool:
    """Whether an index is an array of bools."""
    return type(index) is Node and is_mask(recording.info(index).value)
