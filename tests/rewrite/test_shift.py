"""A graph on the text from some position on does what it does on the whole text."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph.graph.graph import Graph
from mlxgraph.rewrite.shift import Shift, shiftable
from mlxgraph.run.text_axes import numbers_in, text_axes
from mlxgraph.trace.forwards import text_call
from tests import models

TOKENS = mx.array([[1, 7, 3, 9, 4, 2, 5, 11]])
LENGTH = 8
NEAR = 1e-4
VECTOR = mx.arange(models.WIDTH) / 8 - 2


@pytest.fixture(scope="module")
def model() -> mg.InterpretableModel:
    return mg.InterpretableModel(models.make_llama(True))


def shift_of(model: Any, graph: Graph, **params: int) -> Shift | None:
    runner, call = model._engine.runner, text_call(LENGTH)
    census = runner.census(call)
    census.look_inside()
    axes, numbers = text_axes(runner, call), numbers_in(graph, params)
    return shiftable(graph, axes, census.values, LENGTH, numbers)


def on_the_rest(model: Any, shift: Shift, start: int, graph: Graph | None = None, **params: Any):
    """A run on the tokens from `start` on, with mlx-lm's own cache of those before."""
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model._engine.root)
    model._engine.root(TOKENS[:, :start], cache=cache)
    graph = shift.at(start) if graph is None else graph
    mine = {name: value for name, value in params.items() if name in graph.params}
    return model.run(graph, TOKENS[:, start:], cache=cache, **mine).saves


def off(one: Any, other: Any) -> float:
    assert one.keys() == other.keys()
    assert all(one[name].shape == other[name].shape for name in one)
    return max(mx.abs(one[name] - other[name]).max().item() for name in one)


def recorded(model: Any, block: Any) -> Graph:
    with model.trace(TOKENS) as t:
        block(model)
        model.output[:, -1].save("last")
    return t.graph


def attn(m: Any) -> Any:
    return m.layers[1].self_attn


def twice(m: Any) -> None:
    (m.layers[1].output * 2)[:, 4].save("twice")
    m.layers[1].output[..., 3][:, 5] = 0


def by_head(m: Any) -> None:
    q = attn(m).q_proj.output
    q.reshape(1, LENGTH, 4, 8).transpose(0, 2, 1, 3)[:, 2, 6] = 0


def by_put(m: Any) -> None:
    q = attn(m).q_proj.output
    q.reshape(1, -1, 4, 8)[:, :, [1, 2]][:, 5] *= 3


def halves(m: Any) -> None:
    mx.split(m.layers[1].output, 2, axis=-1)[1][:, 3] = 0


def moved_on(m: Any) -> None:
    m.layers[1].output[:, 5] = VECTOR - m.layers[0].output[:, 2]


FOLLOWED = {  # what a block does, and the first position that it is concerned with
    "one position": (lambda m: m.layers[1].output[:, 4].__iadd__(VECTOR), 4),
    "the last three": (lambda m: m.layers[1].output[:, -3:].__imul__(2), 5),
    "every second": (lambda m: m.layers[1].output[:, 3::2].__imul__(2), 3),
    "backwards": (lambda m: m.layers[1].output[:, 6:2:-1].__iadd__(VECTOR), 3),
    "a list": (lambda m: m.layers[1].mlp.input[:, [3, -2]].__iadd__(VECTOR), 3),
    "an array": (lambda m: m.layers[1].output[:, mx.array([6, 2])].__iadd__(VECTOR), 2),
    "a head": (lambda m: attn(m).heads[:, 2, 5].__imul__(0), 5),
    "a number of the pattern": (lambda m: attn(m).pattern[:, 1, 6, 2].__iadd__(0.5), 6),
    "a row of scores": (lambda m: attn(m).scores[:, :, 5:, 1].__iadd__(0.5), 5),
    "a key": (lambda m: attn(m).keys[:, 1, 3].__iadd__(0.5), 3),
    "a value's head": (lambda m: attn(m).values[:, 0][:, 5].__imul__(3), 5),
    "queries the other way round": (
        lambda m: attn(m).queries.swapaxes(1, 2)[:, 4::2].__imul__(0), 4,
    ),
    "a view by heads": (by_head, 6),
    "a view that is put back": (by_put, 5),
    "a half": (halves, 3),
    "from earlier": (moved_on, 2),
    "what is read alone": (lambda m: m.layers[1].output[:, 3, :5].save("read"), 3),
    "what is computed of all": (twice, 4),
    "keys as a whole": (lambda m: attn(m).keys.save("keys"), 7),
    "a token": (lambda m: m.model.input.__setitem__((slice(None), 3), 5), 3),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLLOWED)
@pytest.mark.thin(4)
def test_what_is_of_named_positions_is_followed(model, name):
    block, first = FOLLOWED[name]
    graph = recorded(model, block)
    shift = shift_of(model, graph)
    assert shift is not None and shift.first == first
    whole = model.run(graph, TOKENS).saves
    for start in range(1, first + 1):
        assert off(on_the_rest(model, shift, start), whole) < NEAR
    bare = model.run(graph.replace(writes=()), TOKENS).saves
    if graph.writes:
        assert off(bare, whole) > 100 * NEAR, "the edit does nothing"


def test_positions_that_are_not_moved_are_others(model):
    """Positive control: the graph as it stands does something else on the rest of the text."""
    graph = recorded(model, lambda m: m.layers[1].output[:, 4].__iadd__(VECTOR))
    shift = shift_of(model, graph)
    assert shift is not None and shift.at(0) is graph
    whole = model.run(graph, TOKENS).saves
    assert off(on_the_rest(model, shift, 3, graph), whole) > 100 * NEAR


REFUSED = {
    "all positions": lambda m: m.layers[1].output.__imul__(2),
    "all positions of a head": lambda m: attn(m).heads[:, 2].__imul__(0),
    "another site's value": lambda m: setattr(m.layers[2], "output", m.layers[0].output),
    "its own, permuted": lambda m: setattr(
        attn(m).q_proj, "output",
        attn(m).q_proj.output.reshape(1, LENGTH, 4, 8).swapaxes(2, 3).reshape(1, LENGTH, 32),
    ),
    "a mean over positions": lambda m: m.layers[1].output.mean(axis=1).save("mean"),
    "a whole save": lambda m: m.layers[1].output.save("whole"),
    "a mask": lambda m: m.layers[1].output.__setitem__(m.layers[1].output > 1, 0.0),
    "a matrix product": lambda m: (m.layers[1].output @ mx.eye(32))[:, 5].save("product"),
    "a softmax over all": lambda m: mx.softmax(m.layers[1].output, axis=1)[:, 5].save("soft"),
    "a skipped module": lambda m: m.layers[1].mlp.skip(m.layers[0].output),
    "every query's weight": lambda m: attn(m).pattern[:, :, :, 2].__imul__(0),
    "a gradient": lambda m: m.layers[1].output.grad(m.output[:, -1].sum())[:, 5].save("grad"),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in REFUSED if name != "a gradient"])
def test_what_is_not_is_refused(model, name):
    assert shift_of(model, recorded(model, REFUSED[name])) is None


def test_a_gradient_is_refused(model):
    with model.trace(TOKENS) as t:
        h = model.layers[1].output
        t.grad(model.output[:, -1].sum(), h)[:, 5].save("grad")
    assert shift_of(model, t.graph) is None


def test_positions_by_params(model):
    with model.trace(TOKENS) as t:
        model.layers[1].output[:, mg.param("p", shape=(), dtype="int32")] += (
            mg.param("alpha") * VECTOR
        )
        model.output[:, -1].save("last")
    assert shift_of(model, t.graph) is None
    for p in (2, 5, -3):
        params = {"p": p, "alpha": 3.0}
        shift = shift_of(model, t.graph, p=p)
        assert shift is not None and shift.first == p % LENGTH
        there = on_the_rest(model, shift, shift.first, **params)
        assert off(there, model.run(t.graph, TOKENS, **params).saves) < NEAR
    starts = [shift_of(model, t.graph, p=p) for p in (2, 5)]
    one, other = (shift.at(shift.first) for shift in starts if shift is not None)
    assert one.writes == other.writes  # at the first position of each: the same structure


def test_nothing_edited_and_nothing_read(model):
    shift = shift_of(model, Graph())
    assert shift is not None and shift.first == LENGTH


@pytest.mark.parametrize("port", ["output", "heads", "keys"])
@pytest.mark.parametrize("heads", [None, [1]])
def test_deferred_edits_once_they_are_resolved(model, port, heads):
    site = "layers.1.self_attn" if port == "output" else f"layers.1.self_attn.{port}"
    if heads and port == "output" or not heads:
        edit = mg.edit(site, lambda h: h * 3, positions=[4, -1], heads=heads)
        with model.trace(TOKENS, graph=edit) as t:
            model.output[:, -1].save("last")
        assert shift_of(model, edit) is None
        shift = shift_of(model, t.graph)
        assert shift is not None and shift.first == 4
        whole = model.run(t.graph, TOKENS).saves
        assert off(on_the_rest(model, shift, 4), whole) < NEAR


# -- random graphs --------------------------------------------------------------------------------

SITES = ("embed", "resid", "mlp", "q", "heads", "queries", "keys", "values", "pattern", "scores")
ORDER = st.tuples(st.integers(0, 2), st.sampled_from(SITES))


def positions() -> Any:
    number = st.integers(-LENGTH, LENGTH - 1)
    bounds = st.one_of(st.none(), number)
    slices = st.builds(slice, bounds, bounds, st.sampled_from([None, 1, 2, -1]))
    several = slices.filter(lambda s: len(range(LENGTH)[s]))
    return st.one_of(number, several, st.lists(number, min_size=1, max_size=3, unique_by=abs))


def handle(m: Any, layer: int, kind: str) -> Any:
    """A handle whose positions are axis 1."""
    block = m.layers[layer]
    inside = block.self_attn
    found = {
        "embed": lambda: m.model.embed_tokens.output,
        "resid": lambda: block.output,
        "mlp": lambda: block.mlp.input,
        "scores": lambda: inside.scores[:, 1, :, :1],  # of a key that no query comes before
        "q": lambda: inside.q_proj.output.reshape(1, LENGTH, 4, -1)[:, :, 1],
    }
    if kind in found:
        return found[kind]()
    return getattr(inside, kind)[:, 1]


class Edit:
    def __init__(self, place: Any, at: Any, what: str):
        self.place, self.at, self.what = place, at, what

    def __call__(self, m: Any) -> None:
        value = handle(m, *self.place)
        part = value[:, self.at]
        if self.what == "scale":
            part *= -1.5
        elif self.what == "zero":
            value[:, self.at] = 0
        else:
            value[:, self.at] = mx.tanh(part) + 0.5

    def __repr__(self) -> str:
        return f"{self.place}[{self.at}] {self.what}"


EDITS = st.builds(Edit, ORDER, positions(), st.sampled_from(["scale", "zero", "tanh"]))


def first_of(edits: list[Edit]) -> int:
    found = [LENGTH - 1]
    for edit in edits:
        at = edit.at
        if isinstance(at, slice):
            found += range(LENGTH)[at]
        else:
            found += [p % LENGTH for p in ([at] if isinstance(at, int) else at)]
    return min(found)


@given(st.lists(EDITS, min_size=1, max_size=4), st.integers(1, LENGTH - 1))
def test_the_rest_of_a_text_is_as_in_the_whole(model, edits, start):
    graph = recorded(model, lambda m: [edit(m) for edit in edits])
    shift = shift_of(model, graph)
    first = first_of(edits)
    if not first:
        assert getattr(shift, "first", 0) == 0
        return
    assert shift is not None and shift.first == first
    start = min(start, first)
    whole = model.run(graph, TOKENS).saves
    assert off(on_the_rest(model, shift, start), whole) < NEAR * max(
        1.0, mx.abs(whole["last"]).max().item()
    )
