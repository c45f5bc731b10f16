"""The algebra of graphs: sequence, retarget, bind, without, only.

Every function takes graphs and returns a new one.  Nothing here needs a model: a graph recorded
on one can be composed, aimed elsewhere and filled in before any model is at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mlxgraph.errors import MergeError, ParamError, UnknownNameError
from mlxgraph.graph.deferred import Edit, Read
from mlxgraph.graph.node import (
    CALL,
    CONSTANT,
    NUMBER,
    PARAM,
    SITE,
    Node,
    site_node,
    site_of,
    substitute,
)
from mlxgraph.graph.site import MODEL_OUTPUT, Site

if TYPE_CHECKING:
    from mlxgraph.graph.graph import Graph, Note


RANDOM = "mx.random."


def canonical(graph: Graph) -> Graph:
    """The same graph with its constants numbered in the order in which the nodes use them.

    Two ways of building one program then give equal graphs.
    """
    writes = sorted(graph.writes, key=lambda write: site_key(write[0]))
    order: dict[int, int] = {}
    for node in graph.replace(writes=writes, saves=sorted(graph.saves, key=_name)).nodes():
        if node.op in (CONSTANT, NUMBER):
            order.setdefault(node.args[0], len(order))
    if list(order) == list(range(len(graph.constants))) and tuple(writes) == graph.writes:
        return graph
    constants = [graph.constants[k] for k in order]

    def renumber(node: Node) -> Node | None:
        if node.op in (CONSTANT, NUMBER):
            return Node(node.op, (order[node.args[0]], *node.args[1:]))
        return None

    return rebuilt(graph.replace(writes=writes, constants=constants), renumber)


def _name(save: tuple[str, Node]) -> str:
    return save[0]


def site_key(site: Site) -> tuple:
    """Sorts sites as people count: layer 2 before layer 10."""
    parts = tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in site.path.split("."))
    return parts, site.port, site.call


def rebuilt(graph: Graph, replace: Callable[[Node], Node | None]) -> Graph:
    """The graph with every node passed through `replace`; notes go along."""
    new = substitute(graph.roots, replace)
    notes = Moved(graph.notes, {after: before for before, after in new.items()})
    return graph.replace(
        writes=[(site, new[node]) for site, node in graph.writes],
        saves=[(name, new[node]) for name, node in graph.saves],
        notes=notes,
    )


def is_graph(step: Any) -> bool:
    """Whether a step of a graph is a graph itself."""
    return hasattr(step, "writes")


class Moved(dict):
    """Notes of nodes that were rebuilt: a new node is known by the one it came from."""

    def __init__(
        self,
        before: Mapping[Node, Note],
        origin: Mapping[Node, Node],
        other: Mapping[Node, Note] | None = None,
    ):
        super().__init__()
        self._before = before
        self._origin = origin
        self._other = other

    def get(self, node: Node, default: Any = None) -> Any:
        found = self._before.get(self._origin.get(node, node))
        if found is None and self._other is not None:
            found = self._other.get(node)
        return default if found is None else found


# -- sequence -----------------------------------------------------------------------------------


def sequence(first: Graph, second: Graph) -> Graph:
    """`first >> second`: what the second reads is what the first has written.

    Saves are kept from both; a name that both use is an error.
    """
    if not second.writes and not second.saves and not second.then:
        return first
    _check_saves(first, second)
    if first.then:
        middle = (second.replace(then=()),) if second.writes or second.saves else ()
        return first.replace(then=(*first.then, *middle, *second.then))
    shifted = shifted_by(second, len(first.constants), draws(first))
    written = dict(first.writes)

    def current(node: Node) -> Node | None:
        return written.get(site_of(node)) if node.op == SITE else None

    moved = rebuilt(shifted, current)
    written.update(moved.writes)
    return canonical(
        first.replace(
            writes=_dropping_idle(written),
            saves=(*first.saves, *moved.saves),
            constants=(*first.constants, *second.constants),
            notes=Moved(moved.notes, {}, first.notes),
            then=second.then,
        )
    )


def _dropping_idle(writes: Mapping[Site, Node]) -> list[tuple[Site, Node]]:
    return [(site, node) for site, node in writes.items() if node is not site_node(*site)]


def draws(graph: Graph) -> int:
    """How many random draws a graph has counted: each is told apart by its number."""
    return max((node.args[0] for node in graph.nodes() if is_draw(node)), default=0)


def is_draw(node: Node) -> bool:
    """Whether a node draws from the random state."""
    return node.op.startswith(RANDOM) and bool(node.args) and type(node.args[0]) is int


def shifted_by(graph: Graph, constants: int, drawn: int) -> Graph:
    """The graph as it reads behind another one: constants and draws are numbered on from there.

    Its own tuple of constants is not moved.
    """
    if not constants and not drawn:
        return graph

    def shift(node: Node) -> Node | None:
        if node.op in (CONSTANT, NUMBER):
            return Node(node.op, (node.args[0] + constants, *node.args[1:]))
        if is_draw(node):
            return Node(node.op, (node.args[0] + drawn, *node.args[1:]), node.kwargs)
        return None

    return rebuilt(graph, shift)


def _save_names(graph: Graph) -> set[str]:
    names = {name for name, _ in graph.saves}
    for step in graph.then:
        if is_graph(step):
            names |= _save_names(step)
        elif isinstance(step, Read) and step.name is not None:
            names.add(step.name)
    return names


def _check_saves(first: Graph, second: Graph) -> None:
    shared = _save_names(first) & _save_names(second)
    if shared:
        raise MergeError(
            f"both graphs save {sorted(shared)[0]!r}.\n"
            "  Save it under another name: `h.save('other')` or mg.read(..., name='other')."
        )


# -- aim, fill, cut -----------------------------------------------------------------------------


def retarget(graph: Graph, places: Mapping[str, str]) -> Graph:
    """The graph aimed at other modules.

    Args: places: old path -> new path, or a prefix of paths -> another prefix.  All moves happen
        at once, so two places can be exchanged.

    Raises: UnknownNameError for an old path that the graph does not use.
    """
    used: set[str] = set()

    def aim(path: str) -> str:
        found = [(part, old) for old in places if (part := part_named(path, old)) is not None]
        if not found:
            return path
        part, old = max(found, key=lambda pair: pair[0].stop - pair[0].start)
        used.add(old)
        new = places[old]
        if not part.start and not path.startswith(old):
            new = new.removeprefix(ROOT)
        return path[: part.start] + new + path[part.stop :]

    def site(old: Site) -> Site:
        if not old.path and MODEL_OUTPUT in places:
            used.add(MODEL_OUTPUT)
            return old._replace(path=places[MODEL_OUTPUT])
        return old._replace(path=aim(old.path))

    def replace(node: Node) -> Node | None:
        if node.op == SITE:
            return site_node(*site(site_of(node)))
        if node.op == CALL:
            return Node(CALL, (aim(node.args[0]), *node.args[1:]), node.kwargs)
        return None

    def step(old: Any) -> Any:
        if is_graph(old):
            return moved(old)
        return old._replace(pattern=aim(old.pattern))

    def moved(old: Graph) -> Graph:
        new = rebuilt(old, replace)
        writes = [(site(place), node) for place, node in new.writes]
        if len({place for place, _ in writes}) < len(writes):
            raise MergeError("retargeting sends two writes to one site; merge them first")
        saves = [(_renamed(name, aim), node) for name, node in new.saves]
        then = tuple(step(s) for s in old.then)
        return canonical(new.replace(writes=writes, saves=saves, then=then))

    result = moved(graph)
    for old in places:
        if old not in used:
            known = dict.fromkeys([*(s.path for s in graph.sites), *_patterns(graph)])
            raise UnknownNameError("place in the graph", old, known)
    return result


ROOT = "model."


def part_named(path: str, name: str) -> slice | None:
    """Where in a path a name stands: from its start, relative (`layers.5` in `model.layers.5.mlp`),
    or, of a name with the root prefix, without that prefix."""
    padded = f".{path}."
    for form in (name, name.removeprefix(ROOT)):
        at = padded.find(f".{form}.")
        if form and at >= 0:
            return slice(at, at + len(form))
    return None


def _renamed(name: str, aim: Callable[[str], str]) -> str:
    """A save that goes by its site's name moves with the site."""
    path, dot, port = name.rpartition(".")
    return f"{aim(path)}{dot}{port}" if path else name


def _patterns(graph: Graph) -> list[str]:
    return [s.pattern for s in graph.then if not is_graph(s)]


def bind(graph: Graph, values: Mapping[str, Any]) -> Graph:
    """The graph with params filled in: numbers become numbers, arrays become inputs.

    Raises: UnknownNameError for a name that is no param of the graph, ParamError for a value of
    another shape.
    """
    for name in values:
        if name not in graph.params:
            raise UnknownNameError("param", name, graph.params)
    values = {name: plain_number(value) for name, value in values.items()}
    constants = list(graph.constants)
    places: dict[Node, Node] = {}

    def fill(node: Node) -> Node | None:
        if node.op != PARAM or node.args[0] not in values:
            return None
        if node not in places:
            value = values[node.args[0]]
            places[node] = constant_leaf(len(constants), value, node)
            constants.append(value)
        return places[node]

    new = rebuilt(graph, fill)
    then = tuple(_bind_step(step, values) for step in graph.then)
    return canonical(new.replace(constants=constants, then=then))


def _bind_step(step: Any, values: Mapping[str, Any]) -> Any:
    own = {name: value for name, value in values.items() if name in step.params}
    if not own:
        return step
    if is_graph(step):
        return bind(step, own)
    return step._replace(function=step.function.bound(own))


def plain_number(value: Any) -> Any:
    """A numpy scalar as the Python number it is; anything else as it is."""
    is_scalar = getattr(value, "shape", None) == () and type(value).__module__ == "numpy"
    return value.item() if is_scalar else value


def constant_leaf(index: int, value: Any, param: Node) -> Node:
    """The leaf that stands for a value in place of a param."""
    name, shape, _ = param.args
    if isinstance(value, (bool, int, float)):
        if shape not in (None, ()):
            raise ParamError(name, shape, f"the number {value!r}")
        return Node(NUMBER, (index, type(value).__name__))
    given = getattr(value, "shape", None)
    if given is None:
        raise ParamError(name, shape, f"a {type(value).__name__}")
    if shape is not None and tuple(given) != tuple(shape):
        raise ParamError(name, shape, f"an array of shape {tuple(given)}")
    return Node(CONSTANT, (index, tuple(given), dtype_name_of(value)))


def dtype_name_of(array: Any) -> str:
    """The name under which `mlx.core` knows an array's dtype."""
    name = str(array.dtype).rpartition(".")[2]
    return "bool_" if name == "bool" else name


def without(graph: Graph, name: str) -> Graph:
    """The graph without its writes at a site (named as in `graph.sites`, or by its path)."""
    kept = [(site, node) for site, node in graph.writes if not _names_site(name, site)]
    then = tuple(
        without(s, name) if is_graph(s) and _uses(s, name) else s
        for s in graph.then
        if not (isinstance(s, Edit) and _names_edit(name, s))
    )
    if len(kept) == len(graph.writes) and then == graph.then:
        raise UnknownNameError("write at", name, _written(graph))
    return canonical(graph.replace(writes=kept, then=then))


def only(graph: Graph, name: str) -> Graph:
    """The graph with no writes but those at one site; saves stay."""
    kept = [(site, node) for site, node in graph.writes if _names_site(name, site)]
    then = tuple(
        s
        for s in graph.then
        if isinstance(s, Read)
        or (isinstance(s, Edit) and _names_edit(name, s))
        or (is_graph(s) and _uses(s, name))
    )
    if not kept and not any(not isinstance(s, Read) for s in then):
        raise UnknownNameError("write at", name, _written(graph))
    return canonical(graph.replace(writes=kept, then=then))


def _names_site(name: str, site: Site) -> bool:
    forms = (str(site), site.name, site.path)
    relative = name.removeprefix(ROOT)
    return name in forms or any(f == relative or f.endswith("." + relative) for f in forms)


def _names_edit(name: str, step: Edit) -> bool:
    names = {name, name.removeprefix(ROOT)}
    pattern = step.pattern.removeprefix(ROOT)
    return bool(names & {step.pattern, pattern, f"{step.pattern}.{step.port}"})


def _written(graph: Graph) -> list[str]:
    """What a graph writes, by name, for an error's text."""
    names = [str(site) for site, _ in graph.writes]
    for step in graph.then:
        names += _written(step) if is_graph(step) else [step.pattern]
    return names


def _uses(graph: Graph, name: str) -> bool:
    return any(_names_site(name, site) for site, _ in graph.writes)
