"""Random programs for the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.drawing import one_of, order_of
from tests.laws.interpreter import (
    VIEWS,
    Aug,
    Compute,
    Copy,
    H,
    Read,
    Replace,
    Save,
    Set,
    Site,
    View,
)

NUMBERS = st.sampled_from([-1.5, -0.5, 0.0, 0.25, 1.0, 2.0])
UNARY = ("tanh", "softmax", "negative")
BINARY = ("add", "subtract", "multiply", "radd", "rsub", "maximum")


class Known:
    """What the writer of a program knows of a handle: its shape, since when, and where."""

    def __init__(self, shape: tuple, when: int, positions: Any, root: Any, parent: Any = None):
        self.shape = shape
        self.when = when
        self.positions = positions
        self.root = root  # a Site, or the Known whose value it is
        self.parent = parent


class Writer:
    """Draws one program, instruction by instruction, keeping to the rules of the house."""

    def __init__(self, draw: Any, order: dict[Site, int], shapes: dict[Site, tuple]):
        self.draw = draw
        self.order = order
        self.shapes = shapes
        self.program: list[Any] = []
        self.known: dict[int, Known] = {}
        self.epochs: dict[Site, int] = {}

    # -- knowledge --------------------------------------------------------------------------------

    def _add(self, known: Known) -> int:
        number = len(self.known)
        self.known[number] = known
        return number

    def _plain(self, shape: tuple, when: int) -> int:
        known = Known(tuple(shape), when, np.arange(int(np.prod(shape))).reshape(shape), None)
        known.root = known
        return self._add(known)

    def may_write(self, number: int, when: int) -> bool:
        known = self.known[number]
        return not isinstance(known.root, tuple) or when <= self.order[known.root]

    def _wrote(self, number: int, when: int) -> None:
        known = self.known[number]
        if not isinstance(known.root, tuple):
            known.root.when = max(known.root.when, when)
        seen: Known | None = known
        while seen is not None:
            seen.when = max(seen.when, when)
            seen = seen.parent

    # -- instructions -----------------------------------------------------------------------------

    def read(self, site: Site | None = None) -> int:
        site = site or one_of(self.draw, list(self.order))
        shape = self.shapes[site]
        where = np.arange(int(np.prod(shape))).reshape(shape)
        number = self._add(Known(shape, self.order[site], where, site))
        self.program.append(Read(number, site))
        return number

    def some(self) -> int:
        if not self.known or self.draw(st.integers(0, 3)) == 0:
            return self.read()
        return one_of(self.draw, sorted(self.known))

    def view(self, source: int | None = None, how: tuple | None = None) -> int:
        source = self.some() if source is None else source
        known = self.known[source]
        if how is None:
            views = self._views(known.shape)
            names = sorted({name for name, _ in views})
            if "squeeze" in names:  # few arrays have an axis to squeeze: it must not pass by
                names += ["squeeze"] * len(names)
            chosen = one_of(self.draw, names)
            how = one_of(self.draw, [view for view in views if view[0] == chosen])
        name, args = how
        if name == "index":
            args = (self.index(known.shape),)
        where = VIEWS[name](known.positions, *args)
        if not where.size:
            return source
        number = self._add(Known(where.shape, known.when, where, known.root, known))
        self.program.append(View(number, source, name, args))
        return number

    def _views(self, shape: tuple) -> list[tuple[str, tuple]]:
        n = len(shape)
        found: list[tuple[str, tuple]] = [("expand_dims", (k,)) for k in range(n + 1)]
        if not n:
            return found
        found += [("index", ()), ("flatten", ()), ("T", ())]
        found += [("transpose", (order_of(self.draw, n),))]
        found += [("swapaxes", (0, n - 1)), ("moveaxis", (0, n - 1)), ("moveaxis", (-1, 0))]
        found += [("squeeze", (k,)) for k in range(n) if shape[k] == 1]
        found += [("reshape", (shape[::-1],)), ("reshape", ((-1, shape[-1]),))]
        for axis, size in enumerate(shape):
            for parts in (2, 3):
                if size % parts == 0:
                    found += [("split", (parts, axis, k)) for k in range(parts)]
                    found += [("unflatten", (axis, (parts, size // parts)))]
        if n >= 2 and shape[-1] % 2 == 0:
            found += [("heads", (2,))]
        return found

    def index(self, shape: tuple) -> Any:
        """An index: whole numbers, slices, new axes, an ellipsis, or one list."""
        if self.draw(st.integers(0, 5)) == 0:
            rows = self.draw(st.sets(st.integers(0, shape[0] - 1), min_size=1))
            return list(rows)
        parts: list[Any] = []
        count = self.draw(st.integers(1, len(shape)))
        from_the_end = self.draw(st.booleans())
        for size in shape[len(shape) - count :] if from_the_end else shape[:count]:
            kind = self.draw(st.integers(0, 3))
            if kind == 0:
                parts.append(self.draw(st.integers(-size, size - 1)))
            elif kind == 1:
                parts.append(slice(None))
            else:
                start = self.draw(st.integers(0, size - 1))
                stop = one_of(self.draw, [None, size, min(size, start + 2)])
                parts.append(slice(start, stop, one_of(self.draw, [None, 1, 2])))
        if from_the_end:
            parts.insert(0, ...)
        elif self.draw(st.booleans()):
            parts.append(...)
        if self.draw(st.integers(0, 5)) == 0:
            parts.insert(0, None)
        return parts[0] if len(parts) == 1 else tuple(parts)

    def compute(self, a: int | None = None) -> int:
        a = self.some() if a is None else a
        known = self.known[a]
        op = one_of(self.draw, UNARY + BINARY + ("mean",))
        b: Any = None
        when = known.when
        shape = known.shape
        if op == "mean" or op == "softmax":
            if not shape:
                op = "tanh"
            elif op == "mean":
                shape = (*shape[:-1], 1)
        if op in BINARY:
            b = self.draw(NUMBERS)
            others = [k for k, o in self.known.items() if o.shape == known.shape]
            if others and self.draw(st.booleans()):
                other = one_of(self.draw, others)
                b = H(other)
                when = max(when, self.known[other].when)
        number = self._plain(shape, when)
        self.program.append(Compute(number, op, a, b))
        return number

    def copy(self) -> None:
        source = self.some()
        known = self.known[source]
        self.program.append(Copy(self._plain(known.shape, known.when), source))

    def value_for(self, shape: tuple, when: int) -> Any:
        """A number, or a handle that fits and is early enough (`when` None: at any time)."""
        fits = [
            k
            for k, known in self.known.items()
            if known.when <= when and (known.shape == shape or known.shape == shape[-1:])
        ]
        if fits and self.draw(st.integers(0, 2)):
            return H(one_of(self.draw, fits))
        return self.draw(NUMBERS)

    def _limit(self, number: int) -> int:
        root = self.known[number].root
        return self.order[root] if isinstance(root, tuple) else max(self.order.values())

    def set(self) -> None:
        number = self.some()
        known = self.known[number]
        if not known.shape or not self.writable(number):
            return
        index = self.index(known.shape)
        shape = known.positions[index].shape
        if 0 in shape:
            return
        value = self.value_for(shape, self._limit(number))
        when = self.known[value.number].when if isinstance(value, H) else -1
        self.program.append(Set(number, index, value))
        self._wrote(number, when)

    def augment(self) -> None:
        number = self.some()
        if not self.writable(number):
            return
        value = self.value_for(self.known[number].shape, self._limit(number))
        when = self.known[value.number].when if isinstance(value, H) else -1
        if not self.may_write(number, self.known[number].when):
            return
        op = one_of(self.draw, ["add", "subtract", "multiply"])
        self.program.append(Aug(number, op, value))
        self._wrote(number, when)

    def writable(self, number: int) -> bool:
        """Not a handle whose site was replaced since it was read."""
        known = self.known[number]
        if not isinstance(known.root, tuple):
            return True
        born = self.born.get(number, 0)
        return born == self.epochs.get(known.root, 0)

    @property
    def born(self) -> dict[int, int]:
        """The epoch of its site in which each handle was made."""
        epochs: dict[Site, int] = {}
        found: dict[int, int] = {}
        for step in self.program:
            if isinstance(step, Replace):
                epochs[step.site] = epochs.get(step.site, 0) + 1
            elif isinstance(step, Read):
                found[step.dst] = epochs.get(step.site, 0)
            elif isinstance(step, (View, Save)):
                found[step.dst] = found.get(step.src, 0)
        return found

    def replace(self) -> None:
        site = one_of(self.draw, list(self.order))
        value = self.value_for(self.shapes[site], self.order[site])
        self.program.append(Replace(site, value))
        self.epochs[site] = self.epochs.get(site, 0) + 1

    def save(self) -> None:
        source = self.some()
        known = self.known[source]
        number = self._add(
            Known(known.shape, known.when, known.positions, known.root, known.parent)
        )
        if known.root is known:  # a saved computed value is a handle of its own
            self.known[number].root = self.known[number]
        self.program.append(Save(number, source))


@st.composite
def programs(
    draw: Any, order: dict[Site, int], shapes: dict[Site, tuple], most: int = 14
) -> list[Any]:
    """Programs that every rule allows; they always save something."""
    writer = Writer(draw, order, shapes)
    verbs = [
        writer.read,
        *[writer.view] * 4,
        *[writer.compute] * 2,
        *[writer.set] * 3,
        *[writer.augment] * 2,
        writer.replace,
        writer.save,
        writer.copy,
    ]
    for _ in range(draw(st.integers(2, most))):
        draw(st.sampled_from(verbs))()
    writer.save()
    return writer.program
