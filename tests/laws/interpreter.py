"""A naive reference: what a program of reads, writes and saves means, rule by rule.

Independent of the library.  It hooks a model by hand (a subclass per module, put on and taken
off), and it runs the *whole program again* at every site of the forward, with the sites that
have not been reached yet holding nothing.  What a site holds when the program is over is what
the model gets back.  Slow, and plainly what rules R3 to R6 say:

    a program        a list of instructions over numbered handles
    a handle         a value, and where it lives: flat positions in a site's value, or nowhere
    a store          site -> value, in program order

A view is a list of flat positions in its root, found by doing the view to an array of positions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import copy
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

Site = tuple[str, str, int]  # module path, "output" or "input", call number


# -- hooks of our own ---------------------------------------------------------------------------


def hooked_forward(
    module: nn.Module, inputs: tuple, visit: Callable[[Site, mx.array], mx.array]
) -> Any:
    """The model's output when `visit` may replace each module's first input and its output."""
    paths = {id(m): path for path, m in _modules(module)}
    calls: Counter[str] = Counter()
    worn: list[tuple[nn.Module, type]] = []

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        path = paths[id(self)]
        number = calls[path]
        calls[path] += 1
        if args and isinstance(args[0], mx.array):
            args = (visit((path, "input", number), args[0]), *args[1:])
        result = type(self).__mro__[1].__call__(self, *args, **kwargs)
        return visit((path, "output", number), result) if isinstance(result, mx.array) else result

    try:
        for _, part in _modules(module):
            own = type(part)
            part.__class__ = type(own.__name__, (own,), {"__call__": call})
            worn.append((part, own))
        return module(*inputs)
    finally:
        for part, own in worn:
            part.__class__ = own


def _modules(module: nn.Module) -> list[tuple[str, nn.Module]]:
    found: dict[int, tuple[str, nn.Module]] = {}
    for path, part in module.named_modules():
        if id(part) not in found or len(path) < len(found[id(part)][0]):
            found[id(part)] = (path, part)
    return list(found.values())


def sites_of(module: nn.Module, inputs: tuple) -> dict[Site, mx.array]:
    """Every site of a forward with its plain value, in forward order."""
    seen: dict[Site, mx.array] = {}

    def visit(site: Site, value: mx.array) -> mx.array:
        seen[site] = mx.array(value)
        return value

    hooked_forward(module, inputs, visit)
    mx.eval(list(seen.values()))
    return seen


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

    def __init__(self, raw: dict[Site, Any], shapes: dict[Site, tuple]):
        self.raw = raw
        self.shapes = shapes
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
            shape = self.shapes[step.site]
            where = np.arange(int(np.prod(shape))).reshape(shape)
            self.handles[step.dst] = Handle(self.value(step.site), shape, None, where, step.site)
        elif kind is View:
            source = self.handles[step.src]
            where = VIEWS[step.how](source.positions, *step.args)
            offsets = VIEWS[step.how](
                np.arange(int(np.prod(source.shape))).reshape(source.shape), *step.args
            )
            value = None if source.value is None else _take(source.value, offsets)
            view = Handle(value, where.shape, source.root or source, where, None)
            view.parent = source
            self.handles[step.dst] = view
        elif kind is Compute:
            a, b = self.handles[step.a].value, self.operand(step.b)
            missing = a is None or (isinstance(step.b, H) and b is None)
            value = None if missing else OPS[step.op](a, b)
            shape = OPS[step.op](
                mx.zeros(self.handles[step.a].shape),
                mx.zeros(self.handles[step.b.number].shape) if isinstance(step.b, H) else step.b,
            ).shape
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
            self._write(handle, ..., value, True)
        elif kind is Replace:
            value = self.operand(step.value)
            if not isinstance(step.value, H):
                value = mx.full(self.shapes[step.site], value)
            elif value is not None:
                value = mx.broadcast_to(value, self.shapes[step.site])
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
        where = np.arange(int(np.prod(shape))).reshape(shape)
        self.handles[number] = Handle(value, tuple(shape), None, where, None)

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


def interpret(module: nn.Module, inputs: tuple, program: list[Any]) -> tuple[list[Any], Any]:
    """The program's saves and the model's output, by running the program at every site."""
    shapes = {site: value.shape for site, value in sites_of(module, inputs).items()}
    raw: dict[Site, Any] = {}

    def visit(site: Site, value: mx.array) -> mx.array:
        raw[site] = mx.array(value)
        given = Store(raw, shapes).run(program).value(site)
        assert given is not None, f"the program needs more than the forward has at {site}"
        return mx.array(given)  # the model may change it in place

    output = hooked_forward(module, inputs, visit)
    return Store(raw, shapes).run(program).saves, output
