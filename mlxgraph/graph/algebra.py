"""The algebra of graphs: sequence, retarget, bind, without, only.

Every function takes graphs and returns a new one.  Nothing here needs a model: a graph recorded
on one can be composed, aimed elsewhere and filled in before any model is at hand.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlxgraph.errors import InputError, MergeError, ParamError, UnknownNameError
from mlxgraph.graph import ops
from mlxgraph.graph.base import G, GraphBase, Moved, canonical, rebuilt
from mlxgraph.graph.deferred import Edit, Read, is_graph, site_name
from mlxgraph.graph.node import Node, called, is_draw, site_node, site_of
from mlxgraph.graph.site import MODEL_OUTPUT, OUTPUT, ROOT_PREFIX, Site
from mlxgraph.graph.site_name import site_text, taken_apart
from mlxgraph.graph.values import dtype_name

# -- sequence -----------------------------------------------------------------------------------


def sequence(first: G, second: G) -> G:
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
        return written.get(site_of(node)) if node.op == ops.SITE else None

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


def draws(graph: GraphBase) -> int:
    """How many random draws a graph has counted: each is told apart by its number."""
    return max((node.args[0] for node in graph.nodes() if is_draw(node)), default=0)


def shifted_by(graph: G, constants: int, drawn: int) -> G:
    """The graph as it reads behind another one: constants and draws are numbered on from there.

    Its own tuple of constants is not moved.
    """
    if not constants and not drawn:
        return graph

    def shift(node: Node) -> Node | None:
        if node.op in (ops.CONSTANT, ops.NUMBER):
            return Node(node.op, (node.args[0] + constants, *node.args[1:]))
        if is_draw(node):
            return Node(node.op, (node.args[0] + drawn, *node.args[1:]), node.kwargs)
        return None

    return rebuilt(graph, shift)


def _save_names(graph: GraphBase) -> set[str]:
    names = {name for name, _ in graph.saves}
    for deferred in graph.then:
        if is_graph(deferred):
            names |= _save_names(deferred)
        elif isinstance(deferred, Read) and deferred.name is not None:
            names.add(deferred.name)
    return names


def _check_saves(first: GraphBase, second: GraphBase) -> None:
    shared = _save_names(first) & _save_names(second)
    if shared:
        raise MergeError(
            f"both graphs save {sorted(shared)[0]!r}.\n"
            "  Save it under another name: `h.save('other')` or mg.read(..., name='other')."
        )


_SITE_IN_NAME = re.compile(r"([A-Za-z_][\w.]*)(\.(?:output|inputs?)\b|\(\))")

# -- aim, fill, cut -----------------------------------------------------------------------------


def retarget(graph: G, moves: Mapping[str, str]) -> G:
    """The graph aimed at other modules.

    Args: moves: old path -> new path, or a prefix of paths -> another prefix.  All moves happen
        at once, so two modules can be exchanged.

    Raises: UnknownNameError for an old path that the graph does not use, MergeError for moves
        that send two writes to one site.
    """
    if not isinstance(moves, Mapping):
        raise InputError(
            f"moves are a dict of old and new names, not a {type(moves).__name__}.\n"
            '  Write g.retarget({"layers.5": "layers.8"}).'
        )
    moves = {site_text(old): site_text(new) for old, new in moves.items()}
    used: set[str] = set()

    def aim(path: str) -> str:
        found = [(part, old) for old in moves if (part := part_named(path, old)) is not None]
        if not found:
            return path
        part, old = max(found, key=lambda pair: pair[0].stop - pair[0].start)
        used.add(old)
        new = moves[old]
        if not part.start and not path.startswith(old):
            new = new.removeprefix(ROOT_PREFIX)
        return path[: part.start] + new + path[part.stop :]

    def site(old: Site) -> Site:
        if not old.path and MODEL_OUTPUT in moves:
            used.add(MODEL_OUTPUT)
            return old._replace(path=moves[MODEL_OUTPUT])
        return old._replace(path=aim(old.path))

    def replace(node: Node) -> Node | None:
        if node.op == ops.SITE:
            return site_node(*site(site_of(node)))
        if node.op == ops.CALL:
            number = node.args[:1] if is_draw(node) else ()
            rest = node.args[len(number) + 1 :]
            return Node(ops.CALL, (*number, aim(called(node)), *rest), node.kwargs)
        return None

    def deferred(old: Any) -> Any:
        if is_graph(old):
            return moved(old)
        return old._replace(pattern=aim(old.pattern))

    def moved(old: G) -> G:
        new = rebuilt(old, replace)
        writes = [(site(before), node) for before, node in new.writes]
        if len({after for after, _ in writes}) < len(writes):
            raise MergeError("retargeting sends two writes to one site; merge them first")
        saves = [(_renamed(name, aim), node) for name, node in new.saves]
        then = tuple(deferred(one) for one in old.then)
        return canonical(new.replace(writes=writes, saves=saves, then=then))

    result = moved(graph)
    for old in moves:
        if old not in used:
            known = dict.fromkeys([*(s.path for s in graph.sites), *_patterns(graph)])
            raise UnknownNameError("path in the graph", old, known)
    return result


def part_named(path: str, name: str) -> slice | None:
    """Where in a path a name stands: from its start, relative (`layers.5` in `model.layers.5.mlp`),
    or, of a name with the root prefix, without that prefix."""
    padded = f".{path}."
    for form in (name, name.removeprefix(ROOT_PREFIX)):
        at = padded.find(f".{form}.")
        if form and at >= 0:
            return slice(at, at + len(form))
    return None


def _renamed(name: str, aim: Callable[[str], str]) -> str:
    """A save that goes by its site's name moves with the site; the whole model's stays."""

    def moved(path: str) -> str:
        whole = Site("").spoken.removesuffix(f".{OUTPUT}")
        inside = f"{whole}.{whole}"  # a part of the model that is called as the model is
        return path if path == whole else f"{whole}.{aim(whole)}" if path == inside else aim(path)

    if _SITE_IN_NAME.search(name):
        return _SITE_IN_NAME.sub(lambda found: moved(found.group(1)) + found.group(2), name)
    path, dot, port = name.rpartition(".")
    return f"{moved(path)}{dot}{port}" if path else name


def _patterns(graph: GraphBase) -> list[str]:
    return [one.pattern for one in graph.then if not is_graph(one)]


_INSIDE = (
    "What a function of mg.edit uses is known when it meets a model: give the value to the run,"
    " model.run(g, x, alpha=2.0)."
)


def bind(graph: G, values: Mapping[str, Any]) -> G:
    """The graph with params filled in: numbers become numbers, arrays become inputs.

    Raises: UnknownNameError for a name that is no param of the graph, ParamError for a value of
    another shape.
    """
    for name in values:
        if name not in graph.params:
            also = _INSIDE if graph.then and not graph.params else ""
            raise UnknownNameError("param", name, graph.params, also)
    values = {name: plain_number(value) for name, value in values.items()}
    constants = list(graph.constants)
    filled: dict[Node, Node] = {}

    def fill(node: Node) -> Node | None:
        if node.op in ops.BY_OPERATORS:
            number = of_whole_numbers(node, constants)
            if number is None:
                return None
            constants.append(number)
            return Node(ops.NUMBER, (len(constants) - 1, type(number).__name__))
        if node.op != ops.PARAM or node.args[0] not in values:
            return None
        if node not in filled:
            value = values[node.args[0]]
            filled[node] = source_in_place_of(node, len(constants), value)
            constants.append(value)
        return filled[node]

    new = rebuilt(graph, fill)
    then = tuple(_bound(deferred, values) for deferred in graph.then)
    return canonical(new.replace(constants=constants, then=then))


def _bound(deferred: Any, values: Mapping[str, Any]) -> Any:
    own = {name: value for name, value in values.items() if name in deferred.params}
    if not own:
        return deferred
    if is_graph(deferred):
        return bind(deferred, own)
    return deferred._replace(function=deferred.function.bound(own))


def plain_number(value: Any) -> Any:
    """A numpy scalar as the Python number it is; anything else as it is."""
    is_scalar = getattr(value, "shape", None) == () and type(value).__module__ == "numpy"
    return value.item() if is_scalar else value


LARGEST_EXPONENT = 1000


def of_whole_numbers(node: Node, constants: Sequence[Any]) -> Any:
    """What Python makes of whole numbers alone (`2 ** -1`), as it would in the block; or None.

    MLX would compute with int32: nothing of fractions, and not beyond its range.
    """
    numbers = [
        constants[arg.args[0]] if type(arg) is Node and arg.op == ops.NUMBER else arg
        for arg in node.args
    ]
    if node.kwargs or not all(isinstance(number, int) for number in numbers):
        return None
    if node.op == ops.MX_POWER and numbers[1] > LARGEST_EXPONENT:
        return None
    try:
        return getattr(operator, f"__{ops.OPERATIONS[node.op].operators[0]}__")(*numbers)
    except (ArithmeticError, ValueError, AttributeError):  # what cannot be computed says so later
        return None


def source_in_place_of(param: Node, index: int, value: Any) -> Node:
    """The constant or number that a param becomes; its value is the graph's `index`-th."""
    name, shape, _ = param.args
    if isinstance(value, (bool, int, float)):
        if shape not in (None, ()):
            raise ParamError(name, shape, f"the number {value!r}")
        return Node(ops.NUMBER, (index, type(value).__name__))
    given = getattr(value, "shape", None)
    if given is None:
        raise ParamError(name, shape, f"a {type(value).__name__}")
    if shape is not None and tuple(given) != tuple(shape):
        raise ParamError(name, shape, f"an array of shape {tuple(given)}")
    return Node(ops.CONSTANT, (index, tuple(given), dtype_name(value.dtype)))


def without(graph: G, name: str) -> G:
    """The graph without its writes at a site (named as in `graph.sites`, or by its path).

    A deferred edit goes by its own pattern: `without("layers.*.mlp")` drops the edit of all of
    them, and `without("layers.3.mlp")` takes nothing out of it.

    Raises: UnknownNameError for a site that the graph does not write.
    """
    return _cut(graph, name, keep_named=False)


def only(graph: G, name: str) -> G:
    """The graph with no writes but those at one site; saves stay, and so do deferred reads.

    Deferred edits go by their own pattern, as in `without`.  A graph among what is deferred is cut
    as this one is.

    Raises: UnknownNameError for a site that the graph does not write.
    """
    return _cut(graph, name, keep_named=True)


def _cut(graph: G, name: str, keep_named: bool) -> G:
    name = site_text(name)
    relative = name.removeprefix(ROOT_PREFIX)
    if any(relative == path or path.endswith("." + relative) for path in _paths(graph)):
        name = _ModuleName(name)
    if not _writes(graph, name):
        raise UnknownNameError("write at", name, _written(graph))
    return _kept(graph, name, keep_named)


class _ModuleName(str):
    """A name that is a module's in this graph, whatever port its last part may be: a module called
    `output` comes first, as it does in a model."""

    __slots__ = ()


def _paths(graph: GraphBase) -> set[str]:
    """The modules that a graph reads or writes, the graphs among what is deferred included."""
    inside = [path for one in graph.then if is_graph(one) for path in _paths(one)]
    return {site.path for site in graph.sites} | set(inside)


def _kept(graph: G, name: str, named: bool) -> G:
    """The graph with those of its edits that go by a name, or with the others."""
    then: list[Any] = []
    for one in graph.then:
        if is_graph(one):
            inside = _kept(one, name, named)
            then += [inside] if inside.writes or inside.saves or inside.then else []
        elif isinstance(one, Read) or _names_edit(name, one) == named:
            then.append(one)
    kept = [(site, node) for site, node in graph.writes if _names_site(name, site) == named]
    return canonical(graph.replace(writes=kept, then=then))


def _names_site(name: str, site: Site) -> bool:
    forms = (site.path,) if type(name) is _ModuleName else (str(site), site.name, site.path)
    relative = name.removeprefix(ROOT_PREFIX)
    return name in forms or any(f == relative or f.endswith("." + relative) for f in forms)


def _names_edit(name: str, edit: Edit) -> bool:
    given, own = taken_apart(name), taken_apart(site_name(edit))
    same = given.module.removeprefix(ROOT_PREFIX) == own.module.removeprefix(ROOT_PREFIX)
    # A bare module's name means its edit at whatever port.
    return same and (not given.port and not given.call or given.tail == own.tail)


def _written(graph: GraphBase) -> list[str]:
    """What a graph writes, by name, for an error's text."""
    names = [str(site) for site, _ in graph.writes]
    for deferred in graph.then:
        names += _written(deferred) if is_graph(deferred) else [deferred.pattern]
    return names


def _writes(graph: GraphBase, name: str) -> bool:
    """Whether a graph, or one among what is deferred in it, writes what goes by a name."""
    return any(_names_site(name, site) for site, _ in graph.writes) or any(
        _writes(one, name) if is_graph(one) else type(one) is Edit and _names_edit(name, one)
        for one in graph.then
    )
