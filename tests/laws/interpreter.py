"""A naive reference: what a program of reads, writes and saves means, rule by rule.

Independent of the library.  It hooks a model by hand (a subclass per module, put on and taken
off), and it runs the *whole program again* at every site of the forward that the program names,
with the sites that have not been reached yet holding nothing.  What a site holds when the program
is over is what the model gets back.  Slow, and plainly what rules R3 to R6 say:

    a program        a list of instructions over numbered handles
    a handle         a value, and where it lives: flat positions in a site's value, or nowhere
    a store          site -> value, in program order

A view is a list of flat positions in its root, found by doing the view to an array of positions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import copy
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from tests import outputs

# Module path, port, call number, then the keys that lead to an array in a nested value.  The port
# is "output"; "input" for the first positional argument; "inputs" with keys for the others.
Site = tuple


# Objects of arrays: their entries go by attribute.
OBJECTS = (outputs.Output, outputs.Plain, outputs.Typed, SimpleNamespace)
NAMES = ("loss", "logits", "hidden")


class Attribute(str):
    """A key that is the name of an attribute."""


# -- hooks of our own ---------------------------------------------------------------------------

Visit = Callable[[list[tuple[Site, mx.array]]], list[mx.array]]


def hooked_forward(module: nn.Module, inputs: tuple, visit: Visit) -> Any:
    """The model's output when `visit` may replace the arrays that go into and out of each call."""
    paths = {id(m): path for path, m in modules_of(module)}
    calls: Counter[str] = Counter()
    worn: list[tuple[nn.Module, type]] = []

    def through(value: Any, where: Callable[[tuple], Site]) -> Any:
        found = list(_arrays(value, ()))
        changed = iter(visit([(where(keys), array) for keys, array in found]))
        return _with_arrays(value, changed)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        path = paths[id(self)]
        number = calls[path]
        calls[path] += 1

        def at_input(keys: tuple) -> Site:
            first = keys == (0, 0)
            return (path, "input", number) if first else (path, "inputs", number, *keys)

        args, kwargs = through((args, kwargs), at_input)
        result = type(self).__mro__[1].__call__(self, *args, **kwargs)
        return through(result, lambda keys: (path, "output", number, *keys))

    try:
        for _, part in modules_of(module):
            own = type(part)
            part.__class__ = type(own.__name__, (own,), {"__call__": call})
            worn.append((part, own))
        return module(*inputs)
    finally:
        for part, own in worn:
            part.__class__ = own


def _arrays(value: Any, keys: tuple) -> Any:
    """Every array in a nested value, with the keys that lead to it."""
    if isinstance(value, mx.array):
        yield keys, value
    elif type(value) in (tuple, list, dict):
        items = value.items() if type(value) is dict else enumerate(value)
        for key, item in items:
            yield from _arrays(item, (*keys, key))
    elif isinstance(value, OBJECTS):
        for name in NAMES:
            yield from _arrays(getattr(value, name), (*keys, Attribute(name)))


def _with_arrays(value: Any, arrays: Any) -> Any:
    if isinstance(value, mx.array):
        return next(arrays)
    if type(value) is dict:
        return {key: _with_arrays(item, arrays) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)([_with_arrays(item, arrays) for item in value])
    if isinstance(value, OBJECTS):
        changed = [_with_arrays(getattr(value, name), arrays) for name in NAMES]
        return type(value)(**dict(zip(NAMES, changed, strict=True)))
    return value


def modules_of(module: nn.Module) -> list[tuple[str, nn.Module]]:
    found: dict[int, tuple[str, nn.Module]] = {}
    for path, part in module.named_modules():
        if id(part) not in found or len(path) < len(found[id(part)][0]):
            found[id(part)] = (path, part)
    return list(found.values())


def sites_of(module: nn.Module, inputs: tuple) -> dict[Site, mx.array]:
    """Every site of a forward with its plain value, in forward order."""
    seen: dict[Site, mx.array] = {}

    def visit(found: list[tuple[Site, mx.array]]) -> list[mx.array]:
        for site, value in found:
            seen[site] = mx.array(value)
        return [value for _, value in found]

    hooked_forward(module, inputs, visit)
    mx.eval(list(seen.values()))
    return seen


def positions_of(sites: Any) -> dict[Site, int]:
    """When each site is reached; the parts of one nested value are reached together."""
    found: dict[Site, int] = {}
    before = None
    for site in sites:
        path, port, call, *_ = site
        together = (path, port == "output", call)
        found[site] = max(found.values(), default=-1) + (together != before)
        before = together
    return found


# -- programs -------------------------------------------------------------------------------------


class Read(NamedTuple):
    """`h_dst = site`"""

    dst: int
    site: Site


class View(NamedTuple):
    """`h_dst = h_src` seen another way"""

    dst: int
    src: int
    how: str
    args: tuple


class Compute(NamedTuple):
    """`h_dst = op(h_a, b)`; `b` a handle number, a float or None"""

    dst: int
    op: str
    a: int
    b: Any


class Copy(NamedTuple):
    """`h_dst = mx.array(h_src)`"""

    dst: int
    src: int


class Set(NamedTuple):
    """`h_handle[index] = value`"""

    handle: int
    index: Any
    value: Any


class Aug(NamedTuple):
    """`h_handle += value` and the like: from what the place holds now"""

    handle: int
    op: str
    value: Any


class Replace(NamedTuple):
    """`site = value`"""

    site: Site
    value: Any


class Save(NamedTuple):
    """`h_dst = h_src.save()`: a handle of its own from then on"""

    dst: int
    src: int


class H(NamedTuple):
    """A handle's number, where an operand could also be a number."""

    number: int


VIEWS: dict[str, Callable[..., Any]] = {
    "index": lambda a, i: a[i],
    "reshape": lambda a, shape: a.reshape(shape),
    "flatten": lambda a: a.reshape(-1),
    "unflatten": lambda a, axis, sizes: a.reshape(a.shape[:axis] + sizes + a.shape[axis + 1 :]),
    "transpose": lambda a, axes: a.transpose(axes),
    "swapaxes": lambda a, p, q: a.swapaxes(p, q),
    "moveaxis": lambda a, p, q: np.moveaxis(a, p, q),
    "squeeze": lambda a, axis: np.squeeze(a, axis),
    "expand_dims": lambda a, axis: np.expand_dims(a, axis),
    "split": lambda a, parts, axis, k: np.split(a, parts, axis)[k],
    "T": lambda a: a.T,
    "heads": lambda a, h: a.reshape(*a.shape[:-1], h, a.shape[-1] // h).swapaxes(-2, -3),
}
OPS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "radd": lambda a, b: b + a,
    "rsub": lambda a, b: b - a,
    "tanh": lambda a, b: mx.tanh(a),
    "softmax": lambda a, b: mx.softmax(a, axis=-1),
    "negative": lambda a, b: -a,
    "maximum": lambda a, b: mx.maximum(a, b),
    "mean": lambda a, b: a.mean(axis=-1, keepdims=True),
}


class Handle:
    """A value, and where writes to it go."""

    def __init__(self, value: Any, shape: tuple, root: Handle | None, positions: Any, site: Any):
        self.value = value  # None: not computed by the forward yet
        self.shape = shape
        self.root = root
        self.positions = positions
        self.site = site
        self.parent: Handle | None = None


class Store:
    """The program's own state while it runs through once."""

    def __init__(self, raw: dict[Site, Any], plain: dict[Site, mx.array]):
        self.raw = raw
        self.plain = plain  # for shapes and dtypes
        self.now: dict[Site, Any] = {}
        self.handles: dict[int, Handle] = {}
        self.kept: list[int] = []

    def value(self, site: Site) -> Any:
        return self.now[site] if site in self.now else self.raw.get(site)

    def operand(self, value: Any) -> Any:
        return self.handles[value.number].value if isinstance(value, H) else value

    def run(self, program: list[Any]) -> Store:
        """Every instruction once, from top to bottom."""
        for step in program:
            self._one(step)
        return self

    def _one(self, step: Any) -> None:
        kind = type(step)
        if kind is Read:
            shape = self.plain[step.site].shape
            where = _numbered(shape)
            self.handles[step.dst] = Handle(self.value(step.site), shape, None, where, step.site)
        elif kind is View:
            source = self.handles[step.src]
            where = VIEWS[step.how](source.positions, *step.args)
            offsets = VIEWS[step.how](_numbered(source.shape), *step.args)
            value = None if source.value is None else _take(source.value, offsets)
            view = Handle(value, where.shape, source.root or source, where, None)
            view.parent = source
            self.handles[step.dst] = view
        elif kind is Compute:
            a, b = self.handles[step.a].value, self.operand(step.b)
            missing = a is None or (isinstance(step.b, H) and b is None)
            value = None if missing else OPS[step.op](a, b)
            other = self.handles[step.b.number].shape if isinstance(step.b, H) else step.b
            shape = _shape_of(step.op, self.handles[step.a].shape, other)
            self._plain(step.dst, value, shape)
        elif kind is Copy:
            source = self.handles[step.src]
            self._plain(step.dst, source.value, source.shape)
        elif kind is Set:
            self._write(
                self.handles[step.handle],
                step.index,
                self.operand(step.value),
                isinstance(step.value, H),
            )
        elif kind is Aug:
            handle = self.handles[step.handle]
            b = self.operand(step.value)
            here = self._current(handle)
            missing = here is None or (isinstance(step.value, H) and b is None)
            value = None if missing else OPS[step.op](here, b)
            if value is not None and handle.root is None and handle.site is None:
                handle.value = here.astype(value.dtype)  # as MLX makes it
            self._write(handle, ..., value, True)
        elif kind is Replace:
            value, like = self.operand(step.value), self.plain[step.site]
            if not isinstance(step.value, H):
                value = mx.full(like.shape, value, dtype=like.dtype)
            elif value is not None:
                value = mx.broadcast_to(value, like.shape).astype(like.dtype)
            self.now[step.site] = value
        elif kind is Save:
            self.handles[step.dst] = copy(self.handles[step.src])
            self.kept.append(step.dst)

    def _current(self, handle: Handle) -> Any:
        """What the handle's place holds now, whoever wrote it."""
        root = handle.root or handle
        base = self.value(root.site) if root.site is not None else root.value
        return None if base is None else _take(base, handle.positions)

    def _plain(self, number: int, value: Any, shape: tuple) -> None:
        self.handles[number] = Handle(value, shape, None, _numbered(shape), None)

    def _write(self, handle: Handle, index: Any, value: Any, from_handle: bool) -> None:
        """Put `value` at the handle's positions of its root; views in between see it."""
        root = handle.root or handle
        base = self.value(root.site) if root.site is not None else root.value
        where = handle.positions[index]
        if base is None or (from_handle and value is None):
            new = None
        else:
            flat = np.array(base).reshape(-1)
            flat[where] = np.broadcast_to(np.array(value, dtype=flat.dtype), where.shape)
            new = mx.array(flat.reshape(root.shape))
        if root.site is not None:
            self.now[root.site] = new
        seen: Handle | None = handle
        while seen is not None:
            seen.value = None if new is None else _take(new, seen.positions)
            seen = seen.parent

    @property
    def saves(self) -> list[Any]:
        """What the saved handles hold now."""
        return [self.handles[number].value for number in self.kept]


def _take(value: mx.array, where: Any) -> mx.array:
    return mx.array(np.array(value).reshape(-1)[where])


@cache
def _numbered(shape: tuple) -> Any:
    """The flat positions of an array of this shape."""
    return np.arange(int(np.prod(shape))).reshape(shape)


@cache
def _shape_of(op: str, a: tuple, b: Any) -> tuple:
    """The shape of what an operation gives; `b` a shape, a number or None."""
    return OPS[op](mx.zeros(a), mx.zeros(b) if isinstance(b, tuple) else b).shape


def interpret(module: nn.Module, inputs: tuple, program: list[Any]) -> tuple[list[Any], Any]:
    """The program's saves and the model's output, by running the program at every site."""
    plain = sites_of(module, inputs)
    named = {step.site for step in program if isinstance(step, (Read, Replace))}
    raw: dict[Site, Any] = {}

    def visit(found: list[tuple[Site, mx.array]]) -> list[mx.array]:
        raw.update((site, mx.array(value)) for site, value in found)
        given: list[Any] = [value for _, value in found]
        if not named.isdisjoint(site for site, _ in found):
            store = Store(raw, plain).run(program)
            given = [store.value(site) for site, _ in found]
        assert all(value is not None for value in given), f"{found[0][0]} needs a later site"
        return [mx.array(value) for value in given]  # the model may change it in place

    output = hooked_forward(module, inputs, visit)
    return Store(raw, plain).run(program).saves, output
