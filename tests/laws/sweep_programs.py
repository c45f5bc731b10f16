"""Random variants of a sweep: edits and reads at any site of a forward, as steps of a trace.

In: the sites that a model has, by what their axes are.  Out: strategies of programs; a program is
a list of `Step`s, and `graph_of` records it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph.errors import MLXGraphError

HEADS = ("queries", "keys", "values", "heads")
SQUARES = ("scores", "pattern")
STREAM, OF_HEADS, SQUARE = "stream", "of heads", "square"


class Place(NamedTuple):
    """A site: how to get at it in a block, and what its axes are.

    Attributes: kind: (rows, positions, width) of a stream; (rows, heads, positions, width);
        (rows, heads, positions, positions) of a square.
    """

    path: tuple[Any, ...]
    kind: str = STREAM
    port: str = "output"

    @property
    def is_block(self) -> bool:
        """Whether it is the output of a layer."""
        name = self.path[0] if len(self.path) == 1 else ""
        return name.startswith("layers.") and name.count(".") == 1 and self.port == "output"

    def read(self, model: Any) -> Any:
        """The proxy of the first array that is there."""
        found = self.module(model)
        found = found if isinstance(found, mx.array) else getattr(found, self.port)
        while not isinstance(found, mx.array):
            found = found[0]
        return found

    def module(self, model: Any) -> Any:
        """The handle of the module, attention's part or operation."""
        found = model
        for step in self.path:
            found = found[step] if isinstance(step, str) else step[0](found, *step[1:])
        return found


def part(handle: Any, name: str) -> Any:
    """`handle.name`, as a step of a path."""
    return getattr(handle, name)


def op(handle: Any, name: str) -> Any:
    """An operation inside a module, as a step of a path."""
    return handle.ops[name]


class Step(NamedTuple):
    """One statement of a block."""

    what: str  # "save", "write" or "skip"
    place: Place
    how: str = ""
    index: Any = None
    number: Any = 0.0
    other: Place | None = None


class Program(NamedTuple):
    """A variant: statements, and what its param is worth."""

    steps: tuple[Step, ...]
    alpha: float = 0.5
    v: float = 1.0

    @property
    def params(self) -> dict[str, Any]:
        """The values of params that the steps name."""
        hows = {step.how for step in self.steps}
        found: dict[str, Any] = {}
        if "alpha" in hows:
            found["alpha"] = self.alpha
        if "vector" in hows:
            found["v"] = mx.array([self.v, -self.v])
        return found


def unrecorded(value: Any) -> Any:
    """A function that looks at values, which no recording can follow."""
    flat = np.array(value.astype(mx.float32))
    return mx.array(np.where(flat > 0, flat * 0.5, flat - 0.25)).astype(value.dtype)


def play(model: Any, steps: tuple[Step, ...]) -> None:
    """The statements, in a block that is open."""
    for number, step in enumerate(steps):
        if step.what == "save":
            value = step.place.read(model)
            (value if step.index is None else value[step.index]).save(f"s{number}")
            continue
        if step.what == "skip":
            handle = step.place.module(model)
            handle.skip(handle.input * step.number)
            continue
        site = step.place.read(model)
        if step.index is None:
            site[:] = _changed(model, step, site, None)
        else:
            site[step.index] = _changed(model, step, site[step.index], step.index)


def _changed(model: Any, step: Step, value: Any, index: Any) -> Any:
    match step.how:
        case "scale":
            return value * step.number
        case "zero":
            return mx.zeros_like(value)
        case "add":
            return value + mx.linspace(-1.0, step.number, value.shape[-1])
        case "tanh":
            return mx.tanh(value) * step.number
        case "roll":
            return value[..., ::-1]
        case "normed":
            return value / (1e-3 + mx.abs(value).mean(axis=-1, keepdims=True))
        case "alpha":
            return value * mg.param("alpha")
        case "vector":
            v = mg.param("v", shape=(2,))
            return value * v[0] + v[1] * 0.1
        case "opaque":
            return mg.apply(unrecorded, value)
        case "from":
            other = step.other.read(model)
            return value + 0.5 * (other if index is None else other[index])
        case "by hand":
            return model["layers.0.mlp"](value)
    raise AssertionError(step.how)


HOWS = ("scale", "add", "tanh", "zero", "roll", "normed", "alpha", "vector", "opaque")


@st.composite
def indices(draw: Any, kind: str, length: int, heads: int, start: int = 0) -> Any:
    """An index into a site's value that keeps its last axis, of positions from `start` on."""
    one = st.integers(start, length - 1)
    positions = draw(
        st.one_of(
            one,
            one.map(lambda k: k - length),
            one.map(lambda k: slice(k, None)),
            st.tuples(one, one).map(lambda pair: slice(min(pair), max(pair) + 1)),
            st.lists(one, min_size=1, max_size=3, unique=True),
            st.just(slice(start, None) if start else slice(None)),
        )
    )
    if kind == STREAM:
        return (slice(None), positions)
    head = draw(st.one_of(st.integers(-heads, heads - 1), st.just(slice(None))))
    if isinstance(positions, list) and not isinstance(head, slice):
        head = slice(head % heads, head % heads + 1)
    return (slice(None), head, positions)


@st.composite
def programs(draw: Any, places: list[Place], length: int, heads: int) -> Program:
    """A variant: up to three writes, reads before and after them.

    Args: places: in forward order; heads: how many every site of heads has at least.
    """
    order = {place: k for k, place in enumerate(places)}
    start = draw(st.one_of(st.just(0), st.integers(1, length - 1)))
    steps: list[Step] = []

    def index_of(place: Place) -> Any:
        some = indices(place.kind, length, heads, start)
        return draw(some if start else st.one_of(st.none(), some))

    def read() -> None:
        place = draw(st.sampled_from(places))
        steps.append(Step("save", place, index=index_of(place)))

    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.sampled_from(places))
        if len(steps) < 2 and draw(st.booleans()):
            read()
        number = draw(st.sampled_from([-1.0, -0.5, 0.25, 2.0]))
        earlier = [p for p in places if p.kind == place.kind == STREAM and order[p] < order[place]]
        how = draw(st.sampled_from((*HOWS, *("from",) * 2 * bool(earlier))))
        if how in ("roll", "add", "opaque") and place.kind == SQUARE:
            how = "scale"
        if place.is_block and draw(st.integers(0, 5)) == 0:
            how = "by hand"
        other = draw(st.sampled_from(earlier)) if how == "from" else None
        steps.append(Step("write", place, how, index_of(place), number, other))
    blocks = [p for p in places if p.is_block]
    if blocks and not start and draw(st.integers(0, 5)) == 0:
        steps.append(Step("skip", draw(st.sampled_from(blocks)), number=0.5))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        read()
    if draw(st.integers(0, 3)):
        index = (slice(None), -1) if start or draw(st.booleans()) else None
        steps.append(Step("save", places[-1], index=index))
    alpha = draw(st.sampled_from([-1.0, 0.0, 0.5, 2.0]))
    return Program(tuple(steps), alpha, draw(st.sampled_from([0.5, 1.0])))


def places_of(model: Any, x: Any) -> list[Place]:
    """The sites that are tried, of those that the model has, in forward order."""
    found = [Place(("model.embed_tokens",))]
    for k in range(len(model.layers)):
        block = f"layers.{k}"
        attention = (block, (part, "attn"))
        found += [Place((block,), port="input"), Place(attention, port="input")]
        found.append(Place((f"{block}.self_attn.q_proj",)))
        found += [Place((*attention, (part, name)), OF_HEADS) for name in HEADS[:-1]]
        found += [Place((*attention, (part, name)), SQUARE) for name in SQUARES]
        found += [Place((*attention, (part, HEADS[-1])), OF_HEADS), Place(attention)]
        mlp = (block, (part, "mlp"))
        found += [Place(mlp, port="input"), Place((*mlp, (op, "swiglu"))), Place(mlp)]
        found.append(Place((block,)))
    found += [Place(("model.norm",), port="input"), Place(("model.norm",))]
    found += [Place(("lm_head",)), Place(())]
    return [place for place in found if _is_there(model, x, place)]


def _is_there(model: Any, x: Any, place: Place) -> bool:
    try:
        with model.trace(x, compile=False):
            value = place.read(model)
            value[:] = value * 0.5
            model.output.save("output")
    except MLXGraphError:
        return False
    return value.ndim == (3 if place.kind == STREAM else 4)


def graph_of(model: Any, x: Any, program: Program) -> Any:
    """What a block of these statements recorded."""
    with model.trace(x, compile=False) as t:
        play(model, program.steps)
    return t.graph
