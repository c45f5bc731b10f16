"""Taking the census: one unevaluated forward in which every module reports.

It is traced by `mx.compile` over stand-ins of the inputs, so nothing can be computed by accident
and it works inside other transformations.  A model that looks at values while it runs cannot be
traced: then the forward is built lazily from the real inputs, and the census says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from operator import is_
from typing import Any

import mlx.core as mx

from mlxgraph.errors import OperationError
from mlxgraph.errors.source_line import here
from mlxgraph.graph.census import Census, Whole
from mlxgraph.graph.inside import ATTENTION, below
from mlxgraph.graph.nested import (
    entries,
    has_attributes,
    hides_arrays,
    is_container,
    is_given_value,
    map_nested,
)
from mlxgraph.graph.site import INPUTS, OUTPUT, Site
from mlxgraph.graph.stream import Sum
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.compiling import only_traced, uncompiled
from mlxgraph.mlx_facts.placeholders import placeholder
from mlxgraph.mlx_facts.probes import is_computed
from mlxgraph.mlx_facts.watching import reach
from mlxgraph.run.by_name import ByName
from mlxgraph.run.call import Call
from mlxgraph.run.handwritten import Finder
from mlxgraph.run.inside import Watch, line_of_call
from mlxgraph.run.rows import rows_of, same_array
from mlxgraph.run.standin import StandIn
from mlxgraph.run.stream import layers_in
from mlxgraph.run.tree import ModuleTree
from mlxgraph.run.turned import note_axes


def take_census(tree: ModuleTree, call: Call) -> Census:
    """What one forward with these inputs visits; inputs that carry state are left as they are.

    Sites inside modules are looked for when the census is first asked for one.
    Raises: whatever the model raises on these inputs.
    """
    census = _taken(tree, call)
    look_with(census, tree, call)
    return census


def look_with(census: Census, tree: ModuleTree, call: Call) -> None:
    """Have a census look inside modules by forwards on a call.

    One that carries state is kept as it is, and copied when it is looked at: whoever runs it in
    between says anew with which.
    """
    kept = call.without_values() if census.traceable else call
    census.look = partial(_fuller, tree=tree, call=kept)
    census.find_sums = partial(_middles, tree, kept)


def _middles(tree: ModuleTree, call: Call, container: str) -> dict[str, tuple[Sum | None, str]]:
    """Of a list's layers by path: the residual stream between their parts, or why there is none."""
    found = layers_in(tree, call, container)
    return {path: (layer.middle, layer.reason) for path, layer in found.items()}


def _fuller(plain: Census, tree: ModuleTree, call: Call) -> Census:
    """The census that has the sites inside modules too.

    Raises: OperationError where two forwards with the same inputs call different functions.
    """
    reach([type(module).__module__ for module in tree.modules.values()])
    finder = Finder()
    first = _taken(tree, call, finder)
    again = _taken(tree, call, None, finder.found)
    own = {below(module, name) for module in finder.found for name in ATTENTION}
    calls = [site for site in again.order if site.path not in own]
    if [*first.order] != calls or first.of_modules() != plain.of_modules():
        raise OperationError(
            "looking inside",
            type(tree.root).__name__,
            str(here()),
            "what its modules call is not the same in every forward: a part of it is compiled where"
            " that cannot be seen, or it draws, or it branches on what it keeps.\n  Read and edit"
            " the modules themselves",
        )
    again.written, again.unknown = finder.found, finder.unknown
    if call.turned:
        note_axes(again, call, partial(_with_insides, tree))
    return again


def _with_insides(tree: ModuleTree, call: Call) -> Census:
    census = take_census(tree, call._replace(turned=False))
    census.look_inside()
    return census


def _taken(tree: ModuleTree, call: Call, *inside: Any) -> Census:
    """Args: inside: a Finder or None, and the attentions that one has found, for a census that has
    the sites inside modules too."""
    if tree.aliases:
        try:
            return _census(tree, call, True, inside)
        except Exception:  # names that are told apart may be too much for a model's own code
            pass
    return _census(tree, call, False, inside)


def _census(tree: ModuleTree, call: Call, by_name: bool, inside: tuple) -> Census:
    """Args: by_name: whether to tell apart by which of its names a shared module is called."""
    before = random_state.current()
    call = call.again()
    visit = partial(_visit, tree=tree, by_name=by_name, inside=inside)
    try:
        census = _traced(call, visit) if call.plain else None
        if census is None:
            census = untraced = Census(traceable=False)
            _noting_changes(census, call, lambda: visit(untraced, call))
        census.draws = not random_state.same(before)
    finally:
        random_state.restore(before)
    return census


def _traced(call: Call, visit: Callable[[Census, Call], None]) -> Census | None:
    """The census from a trace, or None if this forward cannot be traced."""
    census = Census()

    def trace(*tracers: mx.array) -> None:
        given = call.with_arrays(tracers)
        _noting_changes(census, given, lambda: visit(census, given))

    try:
        only_traced(trace, call.arrays)
    except Exception:  # the plain forward that follows raises what is the model's own
        return None
    return census


def _visit(census: Census, call: Call, tree: ModuleTree, by_name: bool, inside: tuple) -> None:
    seen: Counter[str] = Counter()
    names = ByName()
    census.aliases = tree.aliases

    def report(path: str, original: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        number = seen[path]
        seen[path] += 1
        if by_name:
            census.first.setdefault(names.of(path), number)
        within = path not in tree.modules
        if within:
            census.inside[Site(path, OUTPUT, number)] = line_of_call(tree, path)
        given = map_nested((args, kwargs), _abstract)
        census.visit(Site(path, INPUTS, number), given, within)
        if len(args) == 1 and path in tree.embeddings:
            census.embeddings[path] = size = rows_of(tree.embeddings[path])
            for k in same_array(call.arrays, args[0]):
                census.rows[k] = (path, size)
        if finder is not None and not within:
            finder.begin()
        result = original(*args, **kwargs)
        census.visit(Site(path, OUTPUT, number), _described(result), within)
        if finder is not None:
            finder.saw(path, number, args, kwargs, result) if within else finder.end(path)
        return result

    def show(path: str, number: int, value: mx.array) -> mx.array:
        if by_name:
            census.first.setdefault(names.of(path), number)
        site = Site(path, OUTPUT, number)
        census.inside[site] = line_of_call(tree, path)
        census.visit(site, _abstract(value), True)
        return value

    finder = inside[0] if inside else None
    if finder is not None:
        finder.start()
    watch = Watch(tree, report, _Shown(show), None, *inside[1:]) if inside else None
    standin = StandIn(tree, tree.modules, watch.module if watch else report)
    if by_name:
        names.watch(tree, standin)
    with (
        uncompiled() if tree.may_compile else nullcontext(),
        tree.beyond.as_it_was(),
        watch.on(standin) if watch else nullcontext(),
    ):
        call.forward(standin.root, call.args, call.kwargs)


class _Shown:
    """Answers for the values of attentions in a census: all are wanted, none is changed."""

    __slots__ = ("value",)

    def __init__(self, value: Callable[[str, int, mx.array], mx.array]):
        self.value = value

    def wants(self, path: str, number: int) -> bool:
        return True

    def writes(self, path: str, number: int) -> bool:
        return False

    def in_blocks(self, path: str, number: int, inner: Any) -> bool:
        return False


def _noting_changes(census: Census, given: Call, forward: Callable[[], None]) -> None:
    """Run a forward, and note whether it changes lists, dicts, objects or arrays in them."""
    inputs = (given.args, given.kwargs)
    before = [*_parts(inputs)]
    forward()
    after = [*_parts(inputs)]
    same = len(before) == len(after) and all(map(is_, before, after))
    held = any(isinstance(v, (list, dict)) or has_attributes(v) for v in before[3:])
    census.changes = not same or (held and census.traceable and any(map(is_computed, given.arrays)))


def _parts(value: Any) -> Iterator[Any]:
    """Every container and every leaf of a nested value, with the keys of dicts."""
    yield value
    if is_given_value(value):
        for _, item in entries(value):
            yield from _parts(item)


def _described(value: Any) -> Any:
    """What a module returned, with placeholders for its arrays."""
    try:
        described = map_nested(value, _abstract)
    except RecursionError:
        return Whole(type(value).__name__, "it contains itself")
    if not is_container(value) and hides_arrays(value):
        why = "its own methods change it, or it can be called: it is state, as a cache is"
        return Whole(type(value).__name__, why)
    return described


def _abstract(value: Any) -> Any:
    return placeholder(value.shape, value.dtype) if isinstance(value, mx.array) else value
