"""The steps of a fold: each edit at each site, as a map of vectors.

In: a model without edits, edits, inputs to resolve them on.  Out: steps, in order, or FoldError.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from mlxgraph.errors import FoldError
from mlxgraph.graph.deferred import Edit, Read, function_name, is_graph, site_name
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import OUTPUT, SKIP, Site
from mlxgraph.model.affine import Affine, NotAffine, affine_of


class Step(NamedTuple):
    """One edit at one site.

    Attributes: path: of the module; change: what is done to its output; where: the user's line;
        function: what the user called it.
    """

    path: str
    change: Affine
    where: str
    function: str

    @property
    def name(self) -> str:
        """The site as an error says it."""
        return self.path or "the whole model"

    def error(self, why: str, advice: str = "") -> FoldError:
        """Why the step cannot be folded."""
        named = f" with {self.function}" if self.function else ""
        return FoldError(f"{self.name}{named}", why, advice, self.where)


def steps_of(plain: Any, edits: Graph, inputs: tuple) -> list[Step]:
    """The steps of some edits.  Raises: FoldError, and what resolving the edits raises."""
    return list(_steps(plain, edits, inputs, {path for path, _ in plain.named_modules()}))


def _steps(plain: Any, edits: Graph, inputs: tuple, modules: set[str]) -> Iterator[Step]:
    if edits.saves:
        raise _of_reads(edits.saves[0][0], "")
    if edits.writes:
        yield from _resolved(plain, edits.replace(then=()), inputs, modules)
    for one in edits.then:
        if is_graph(one):
            yield from _steps(plain, one, inputs, modules)
        elif isinstance(one, Read):
            raise _of_reads(site_name(one), one.where)
        else:
            _check(one)
            yield from _resolved(plain, Graph(then=[one]), inputs, modules, one)


def _of_reads(name: str, where: str) -> FoldError:
    return FoldError(
        name,
        "it saves a value, and a weight keeps none",
        "Leave mg.read and .save() out, or write g.replace(saves=()) for the writes of a trace.",
        where,
    )


def _check(edit: Edit) -> None:
    """Refuse what is said of an edit itself."""
    why = ""
    if edit.positions is not None:
        why = "it has positions=, and a weight is for all positions"
    elif edit.heads is not None:
        why = "it has heads=, and only whole outputs are folded"
    if why:
        named = f"{site_name(edit)} with {function_name(edit.function)}"
        raise FoldError(named, why, where=edit.where)


def _resolved(
    plain: Any, graph: Graph, inputs: tuple, modules: set[str], edit: Edit | None = None
) -> Iterator[Step]:
    with plain.trace(*inputs, graph=graph, compile=False) as trace:
        pass
    found = trace.graph
    for site, node in found.writes:
        where = edit.where if edit is not None else _where(found, node)
        named = f" with {function_name(edit.function)}" if edit is not None else ""
        spoken = (site.path or "the whole model") if site.port == OUTPUT else site.spoken
        why = _not_an_output(site, modules)
        if why:
            raise FoldError(f"{spoken}{named}", why, where=where)
        try:
            change = affine_of(node, site, found.constants)
        except NotAffine as reason:
            raise FoldError(f"{spoken}{named}", str(reason), where=where) from None
        yield Step(site.path, change, where, named.removeprefix(" with "))


def _where(graph: Graph, node: Node) -> str:
    note = graph.notes.get(node)
    return note.where if note is not None else ""


def _not_an_output(site: Site, modules: set[str]) -> str:
    if site.port == SKIP:
        return "it skips the module"
    if site.port != OUTPUT:
        return "it edits what the module is given, and outputs alone are folded"
    if site.call > 0:
        return "it edits one of several calls, and a weight is for all of them"
    if site.path not in modules:
        return "it edits what a module computes inside"
    return ""
