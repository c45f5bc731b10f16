"""What a layer writes to the residual stream, and where the stream is between its parts.

A forward shows it.  Each layer is given noise, and each module that a layer itself calls answers
with noise of its own, all of them with a mark in a place where the others have none.  What a module
is given, and what the layer gives, then says by its marks what it is the sum of, and by how much of
each; and by all its other numbers whether it is that sum.  The weights have no part in it, and next
to nothing is computed.  A second forward has another input and the same sum: all that comes after
the sum has to stay as it is, or there is something that goes by the input alone.  A third has
another sum: something has to change.

In: a module tree, a call.  Out: a `Layer` for each module of a list.  Never: goes by names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.graph.site import OUTPUT, Site
from mlxgraph.graph.stream import Sum, Term
from mlxgraph.mlx_facts.originals import ARRAY, zeros
from mlxgraph.run.call import Call, describe_call
from mlxgraph.run.stream_probe import Probe, Seen, step_of
from mlxgraph.run.tree import ModuleTree

LENGTH = 8  # tokens that it is tried on: a layer is made alike for all texts
ROUNDINGS = 4  # steps of the dtype that a sum may be off by, relative to what is added
# Of what was shifted: what rounding leaves of it where the same sum gives the same, at least this,
# and so many steps of the coarsest dtype.
NEAR, MORE_ROUNDINGS = 1e-3, 12


class Layer(NamedTuple):
    """What one layer does to the residual stream.

    Attributes:
        given: where its first input is; made: where its first output is.
        writers: what it adds to the input, in the order of the calls; empty where it gives no sum
            of its input and what its modules give.
        middle: the stream between its parts, if there is one; else `reason` says why not.
        carries: by how much its input is in its output.
    """

    given: Term | None
    made: Term | None
    writers: tuple[Term, ...]
    middle: Sum | None
    reason: str
    carries: float = 1.0


def layers_in(tree: ModuleTree, call: Call, container: str) -> Mapping[str, Layer]:
    """The layers of a list of modules by their paths: found once for a tree and a kind of call."""
    ids = zeros((1, LENGTH), mx.int32)
    short = describe_call((ids,), {}, tokens=ids, lengths=[LENGTH])
    key = (container, short.key if call.tokens is not None else call.key, tree.root.training)
    found = tree.streams.get(key)
    if found is None:
        calls = [short, _example(call)] if call.tokens is not None else [_example(call)]
        found, error = _tried(tree, calls, container)
        if error:  # not kept: what stands in the way may be a transformation around it
            reason = f"the model does not run on noise ({error})"
            return {path: Layer(None, None, (), None, reason) for path in _paths(tree, container)}
        tree.streams[key] = found
    return found


def _tried(tree: ModuleTree, calls: list[Call], container: str) -> tuple[Mapping[str, Layer], str]:
    """The layers by the first call that the model takes; and else what it has against the last.

    A short text alone may not be all that it takes.
    """
    said = ""
    for call in calls:
        try:
            return _found(tree, call, container), ""
        except Exception as error:  # whatever the model's own code raises
            said = str(error).split("\n")[0] or type(error).__name__
    return {}, said


def _example(call: Call) -> Call:
    """A call of the same kind, whose numbers are of no account."""
    if call.plain:
        return call.with_arrays([zeros(array.shape, array.dtype) for array in call.arrays])
    return call.again()


def _found(tree: ModuleTree, call: Call, container: str) -> Mapping[str, Layer]:
    names = _paths(tree, container)
    first = Probe(tree, names, {}).run(call)
    layers = {path: _read(path, first.seen.get(path)) for path in names}
    last = {path: layer.middle.terms[-1] for path, layer in layers.items() if layer.middle}
    if not last:
        return layers
    same = Probe(tree, names, last).run(call)
    other = Probe(tree, names, dict.fromkeys(last)).run(call)
    for path, term in last.items():
        reason = _refuted(term, first.seen[path], same.seen[path], other.seen[path])
        if reason:
            layers[path] = layers[path]._replace(middle=None, reason=reason)
    return layers


def _paths(tree: ModuleTree, container: str) -> list[str]:
    """The modules of a list, by number."""
    start = f"{container}." if container else ""
    below = [path for path in tree.modules if path.startswith(start)]
    return [path for path in below if path.removeprefix(start).isdigit()]


# -- reading what was seen -------------------------------------------------------------------------


def _read(path: str, seen: Seen | None) -> Layer:
    if seen is None:
        return Layer(None, None, (), None, "the forward calls no layer there that takes the stream")
    given = Term(seen.site, seen.keys)
    if seen.times > 1:
        reason = f"the forward calls this layer {seen.times} times"
        return Layer(given, None, (), None, reason)
    if seen.made is None or seen.made.shape != seen.noise.shape:
        reason = "this layer does not give what it is given, a stream of one shape"
        return Layer(given, None, (), None, reason)
    made = Term(Site(path, OUTPUT, seen.site.call), seen.made_keys)
    mx.eval(seen.made, [child.given for child in seen.children])
    whole = _parts(seen, seen.made)
    if whole is not None and not whole.get(0):
        reason = (
            "what this layer gives is no sum with its input: a norm comes after the sum, or a part"
            " passes the stream on itself"
        )
        return Layer(given, made, (), None, reason)
    writers = tuple(_terms(seen, whole or {}))
    parts, reason = _middle(seen, whole)
    middle = None if parts is None else Sum((given, *_terms(seen, parts)))
    return Layer(given, made, writers, middle, reason, (whole or {0: 1.0})[0])


def _terms(seen: Seen, parts: Mapping[int, float]) -> list[Term]:
    return [
        Term(child.site, child.keys, parts[child.mark])
        for child in seen.children
        if child.mark in parts
    ]


def _middle(seen: Seen, whole: Mapping[int, float] | None) -> tuple[dict[int, float] | None, str]:
    """The parts of the first sum that a module of the layer is given; else why there is none.

    Where none is given one, as by a norm that is no module, the first part may make it.

    Args: whole: the parts of what the layer gives, if it is a sum of such.
    """
    read = [_parts(seen, array) for child in seen.children for array in child.given]
    sums = [parts for parts in read if parts and parts.get(0) == 1 and 1 < len(parts)]
    if whole is None:
        if sums:
            return min(sums, key=len), ""
        return None, "what the layer gives is no sum of its input and what its modules give"
    sums = [parts for parts in sums if len(parts) < len(whole)]
    if not sums:
        first = next((c.mark for c in seen.children if c.mark in whole), None)
        if len(whole) < 3 or first is None or whole[0] != 1:
            said = ", ".join(_said(seen, whole)) or "nothing"
            return None, f"this layer adds what one part gives, {said}"
        return {0: 1.0, first: whole[first]}, ""
    found = min(sums, key=len)
    near = ROUNDINGS * step_of(seen.made)
    scaled = {k: whole[0] * f for k, f in found.items()}
    if any(abs(whole.get(k, 0) - f) > near * abs(f) for k, f in scaled.items()):
        return None, "what the layer gives has another sum in it than its parts are given"
    return found, ""


def _said(seen: Seen, parts: Mapping[int, float]) -> list[str]:
    start = f"{seen.site.path}."
    return [term.site.path.removeprefix(start) for term in _terms(seen, parts)]


def _refuted(last: Term, first: Seen, same: Seen, other: Seen) -> str:
    """Why a sum is not what the rest of its layer goes by, or nothing.

    Args: last: its last part; same: as seen with other parts of the same sum; other: with another
        sum.
    """
    sites = [child.site for child in first.children]
    if any(sites != [child.site for child in seen.children] for seen in (same, other)):
        return "this layer does not call the same modules for any input"
    after = slice(sites.index(last.site) + 1, None)
    mx.eval([(c.given, seen.made) for seen in (same, other) for c in seen.children])
    one, two, three = (
        [array for child in seen.children[after] for array in child.given]
        for seen in (first, same, other)
    )
    broken = [_differ(a, b, same) for a, b in zip(one, two, strict=True)]
    changed = [_differ(a, b, other) for a, b in zip(one, three, strict=True)]
    if any(broken) or _differ(first.made, same.made, same):
        return "what follows attention goes by the layer's input alone: they stand side by side"
    scale = (_parts(first, first.made) or {0: 1.0})[0]
    if _differ(other.made, first.made.astype(mx.float32) + ARRAY(scale * other.shift), other):
        return "the layer does not give the sum on as it is, for the next one to add to"
    if not any(changed):
        return "no part is given the sum of the input and another: they stand side by side"
    return ""


def _differ(one: Any, another: Any, shifted: Seen) -> bool:
    """Whether two values differ by more than rounding leaves of what was shifted."""
    gap = np.array(one.astype(mx.float32) - another.astype(mx.float32))
    near = max(NEAR, MORE_ROUNDINGS * shifted.step) * np.mean(np.abs(shifted.shift))
    return not np.mean(np.abs(gap)) <= near


def _parts(seen: Seen, array: mx.array) -> dict[int, float] | None:
    """What an array is the sum of: 0 is the layer's input, and each part by how much; None where it
    is no such sum."""
    numbers = np.array(array.astype(mx.float32)).astype(np.float64)
    noises = {0: seen.noise} | {c.mark: c.noise for c in seen.children if c.noise is not None}
    marks = numbers.reshape(-1)[: seen.marks]
    total, size = np.zeros_like(numbers), np.zeros_like(numbers)
    parts = {mark: float(marks[mark]) for mark in noises if marks[mark]}
    if not np.isfinite(marks).all() or np.count_nonzero(marks) != len(parts):
        return None
    for mark, scale in parts.items():
        part = scale * noises[mark]
        total, size = total + part, size + np.abs(part)
    near = ROUNDINGS * step_of(array)
    return parts if np.all(np.abs(numbers - total) <= near * size) else None
