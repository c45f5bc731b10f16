"""The steps of a fold: each edit at each site, as a map of vectors.

In: a model without edits, edits, inputs to resolve them on.  Out: steps, in order, or FoldError.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.errors import FoldError
from mlxgraph.graph.deferred import Edit, Read, function_name, is_graph, site_name
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import OUTPUT, SKIP, Site
from mlxgraph.mlx_facts.compiling import only_traced
from mlxgraph.mlx_facts.originals import normal, zeros
from mlxgraph.mlx_facts.probes import says_followed
from mlxgraph.model.affine import Affine, NotAffine, affine_of

SAME = 1e-5  # of the largest number


class Step(NamedTuple):
    """One edit at one site.

    Attributes: path: of the module; change: what is done to its output; where: the user's line;
        function: what the user called it; shape: of the value, () where it is not known.
    """

    path: str
    change: Affine
    where: str
    function: str
    shape: tuple[int, ...] = ()

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
    modules, others = {path for path, _ in plain.named_modules()}, _other_inputs(plain, inputs)
    return list(_steps(plain, edits, (inputs, others), modules))


def _steps(
    plain: Any, edits: Graph, inputs: tuple[tuple, tuple | None], modules: set[str]
) -> Iterator[Step]:
    if edits.saves:
        raise _of_reads(edits.saves[0][0], "")
    if edits.writes:
        yield from _resolved(plain, edits.replace(then=()), inputs[0], modules)
    for one in edits.then:
        if is_graph(one):
            yield from _steps(plain, one, inputs, modules)
        elif isinstance(one, Read):
            raise _of_reads(site_name(one), one.where)
        else:
            _check(one)
            yield from _on_any(plain, one, inputs, modules)


def _on_any(
    plain: Any, edit: Edit, inputs: tuple[tuple, tuple | None], modules: set[str]
) -> Iterator[Step]:
    """The steps of a deferred edit, whose function is called anew for each kind of input.

    Raises: FoldError where it does something else to another one.
    """
    graph = Graph(then=[edit])
    steps = list(_resolved(plain, graph, inputs[0], modules, edit))
    if inputs[1] is not None:
        others = list(_resolved(plain, graph, inputs[1], modules, edit))
        pairs = zip(steps, others, strict=False)
        if len(steps) != len(others) or not all(_alike(*pair) for pair in pairs):
            named = f"{site_name(edit)} with {function_name(edit.function)}"
            why = "it does something else to an input of another shape or with other tokens"
            raise FoldError(named, why, where=edit.where)
    for step in steps:
        if _looks_at_numbers(edit.function, step.shape):
            raise step.error("it looks at the numbers of its value to say what it does")
    yield from steps


def _looks_at_numbers(function: Any, shape: tuple[int, ...]) -> bool:
    """Whether a function asks for numbers, which a tracer does not have."""
    try:
        only_traced(function, [zeros(shape, mx.float32)])
    except Exception as error:  # whatever else it says of a tracer, it is no block
        return says_followed(error)
    return False


def _alike(one: Step, other: Step) -> bool:
    """Whether two steps are one map, as far as some vectors tell."""
    if one.path != other.path or one.shape[-1:] != other.shape[-1:]:
        return False
    if not one.shape:
        return True  # what leaves the value alone
    width = one.shape[-1]
    vectors = mx.concatenate(
        [normal((4, width), mx.float32, key=mx.random.key(0)), zeros((1, width))]
    )
    made, again = one.change(vectors), other.change(vectors)
    near = mx.abs(made - again).max() <= SAME * mx.maximum(mx.abs(made), mx.abs(again)).max()
    return bool((near | mx.array_equal(made, again)).item())


def _other_inputs(plain: Any, inputs: tuple) -> tuple | None:
    """Inputs of another number of rows and positions, and in another order; None where the model
    does not run on these."""
    with plain.trace(*inputs, compile=False) as trace:
        pass
    given = (trace.tokens,) if trace.tokens is not None else inputs
    others = tuple([_other(one) if isinstance(one, mx.array) else one for one in given])
    try:
        with plain.trace(*others, compile=False):
            pass
    except Exception:  # whatever the model has against it
        return None
    return others


def _other(array: mx.array) -> mx.array:
    if not array.ndim:
        return array
    array = mx.concatenate([array, array])
    return mx.concatenate([array[:, ::-1], array[:, :1]], axis=1) if array.ndim > 1 else array


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
        note = found.notes.get(node)
        shape = note.shape if note is not None and note.shape else ()
        yield Step(site.path, change, where, named.removeprefix(" with "), shape)


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
