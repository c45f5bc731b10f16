"""What a block means: random programs against the naive interpreter of rules R3 to R6."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import event, given, note, settings
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph.errors import MLXGraphError, OrderError
from tests import models, object_models, outputs
from tests.laws.interpreter import (
    NAMES,
    OBJECTS,
    OPS,
    VIEWS,
    Aug,
    Compute,
    Copy,
    H,
    Read,
    Replace,
    Save,
    Set,
    View,
    interpret,
    positions_of,
    sites_of,
)
from tests.laws.play import perform, play, read
from tests.laws.programs import programs

X = mx.arange(48, dtype=mx.float32).reshape(2, 4, 6) / 24 - 1
TOKENS = mx.array([[1, 7, 3, 9], [5, 11, 0, 8]])


class Case:
    """A model, its inputs, and its float sites in forward order."""

    def __init__(self, module, inputs):
        mx.eval(module.parameters())
        self.module = module
        self.inputs = inputs
        self.model = mg.InterpretableModel(module)
        plain = sites_of(module, inputs)
        self.order = {
            site: when
            for site, when in positions_of(plain).items()
            if mx.issubdtype(plain[site].dtype, mx.floating) and plain[site].ndim
        }
        self.shapes = {site: plain[site].shape for site in plain}
        self.programs = programs(self.order, self.shapes)


def _chain():
    mx.random.seed(1)
    return Case(models.Chain(), (X,))


def _in_place():
    mx.random.seed(2)
    return Case(models.InPlace(), (X,))


def _llama():
    return Case(models.make_llama(False, layers=2), (TOKENS,))


def _mixed():
    mx.random.seed(3)
    return Case(models.Mixed(), (X, mx.tanh(X[::-1] * 2), mx.arange(6) / 3 + 0.5))


def _halves():
    """float16 and float32 side by side: what is written takes the dtype of its site."""
    mx.random.seed(4)
    module = models.Chain()
    module.layers[0].set_dtype(mx.float16)
    module.layers[2].set_dtype(mx.float16)
    return Case(module, (X.astype(mx.float16),))


def _objects():
    """A dataclass, a namespace, a named tuple and a plain object, from module to module."""
    mx.random.seed(5)
    kinds = [outputs.Output, outputs.namespace, outputs.Typed, outputs.Plain]
    return Case(object_models.Relay(kinds), (X,))


def _reached():
    mx.random.seed(6)
    return Case(models.Reached(), (X,))


CASES = {
    "reached": _reached(),
    "objects": _objects(),
    "mixed": _mixed(),
    "chain": _chain(),
    "in place": _in_place(),
    "llama": _llama(),
    "halves": _halves(),
}


def agree(case: Case, program: list, compile, tolerance: float = 2e-5) -> None:
    """The library's saves and output are the interpreter's."""
    note("\n".join(map(str, program)))
    expected, output = interpret(case.module, case.inputs, program)
    saves, given, _ = perform(case.model, program, case.inputs, compile)
    assert len(saves) == len(expected)
    pairs = zip([*saves, *arrays(given)], [*expected, *arrays(output)], strict=True)
    for number, (ours, theirs) in enumerate(pairs):
        assert models.same(ours, theirs, tolerance), f"save {number}:\n{ours}\nshould be\n{theirs}"


def arrays(value) -> list[mx.array]:
    """The arrays of a nested value, from left to right."""
    if isinstance(value, OBJECTS):
        value = [getattr(value, name) for name in NAMES]
    return [array for _, array in nn.utils.tree_flatten(value) if isinstance(array, mx.array)]


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=settings().max_examples * 3)
@given(data=st.data())
@pytest.mark.thin(2)
def test_a_block_means_what_the_naive_interpreter_says(name, data):
    case = CASES[name]
    agree(case, data.draw(case.programs), False)


@settings(max_examples=6)
@given(data=st.data())
def test_a_compiled_block_means_what_the_naive_interpreter_says(data):
    case = CASES["chain"]
    agree(case, data.draw(case.programs), True)


@pytest.fixture(scope="module")
def untransformed():
    """`mx.compile` gives functions back as they are: what is left is how a pass is called.

    That a model can be compiled is seen before: without `mx.compile` nothing shows it.
    """
    for case in CASES.values():
        perform(case.model, [], case.inputs)
    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
@pytest.mark.thin(2)
def test_a_pass_called_as_a_compiled_one_means_the_same(untransformed, name, data):
    """Numbers, arrays and weights as arguments, without the seconds that kernels take."""
    case = CASES[name]
    agree(case, data.draw(case.programs), True, 2e-2 if name == "halves" else 2e-5)


@settings(max_examples=settings().max_examples * 2)
@given(data=st.data())
def test_a_graph_that_meets_less_gives_what_recording_it_there_gives_or_raises(data):
    """Fewer positions, fewer rows."""
    case = CASES[data.draw(st.sampled_from(["chain", "in place", "llama"]))]
    program = data.draw(case.programs)
    note("\n".join(map(str, program)))
    _, _, trace = perform(case.model, program, case.inputs)
    fewer = data.draw(st.sampled_from([(slice(None), slice(3)), slice(1)]))
    inputs = tuple(given[fewer] for given in case.inputs)
    if not trace.graph.saves:
        return
    try:
        expected, _ = interpret(case.module, inputs, program)
        saves = case.model.run(trace.graph, *inputs, compile=False).saves
    except (MLXGraphError, ValueError, IndexError) as error:
        event(f"it does not fit: {type(error).__name__}")  # here, the whole program or its saves
        return
    for ours, theirs in zip(saves.values(), expected, strict=True):
        assert models.same(ours, theirs, 2e-5)


def test_the_programs_say_everything_that_can_be_said():
    """Else the law about them would say less than it seems to."""
    verbs, views, ops, written_through = set(), set(), set(), set()

    @settings(max_examples=300)
    @given(CASES["chain"].programs)
    def look(program):
        made_by = {step.dst: step for step in program if hasattr(step, "dst")}
        for step in program:
            verbs.add(type(step))
            if isinstance(step, View):
                views.add(step.how)
            elif isinstance(step, Compute):
                ops.add(step.op)
            elif isinstance(step, (Set, Aug)):
                written_through.add(type(made_by[step.handle]))
            elif isinstance(step, Replace):
                written_through.add(("replaced by", type(step.value)))

    look()
    assert verbs == {Read, View, Compute, Copy, Set, Aug, Replace, Save}
    assert views == set(VIEWS) and ops == set(OPS)
    assert written_through >= {Read, View, Compute, Copy, Save}
    assert written_through >= {("replaced by", H), ("replaced by", float)}


def test_the_interpreter_notices_a_wrong_answer():
    case = CASES["chain"]
    program = [Read(0, ("layers.0", "output", 0)), Aug(0, "add", 1.0), Save(1, 0)]
    wrong = [Read(0, ("layers.0", "output", 0)), Aug(0, "add", 1.5), Save(1, 0)]
    expected, output = interpret(case.module, case.inputs, program)
    saves, given_output, _ = perform(case.model, wrong, case.inputs)
    assert not models.same(saves[0], expected[0], 2e-5)
    assert not models.same(given_output, output, 2e-5)


@settings(max_examples=30)
@given(data=st.data())
def test_a_write_that_needs_a_later_site_is_refused_and_changes_nothing(data):
    case = CASES[data.draw(st.sampled_from(sorted(CASES)))]
    early, late = data.draw(
        st.tuples(st.sampled_from(list(case.order)), st.sampled_from(list(case.order))).filter(
            lambda pair: case.order[pair[0]] < case.order[pair[1]]
        )
    )
    with case.model.trace(*case.inputs, compile=False):
        before = mx.array(read(case.model, early)).save()
        value = read(case.model, late).sum() * 2
        with pytest.raises(OrderError) as caught:
            h = read(case.model, early)
            h += value
        with pytest.raises(OrderError):
            play(case.model, {0: value}, Replace(early, H(0)))
        play(case.model, {0: h.mean()}, Replace(late, H(0)))  # the other way round is allowed
        after, moved = read(case.model, early).save(), read(case.model, late).save()
    assert "test_programs.py" in str(caught.value)
    mean = after.mean().astype(moved.dtype)
    assert models.same(before, after) and models.same(moved, mx.full(moved.shape, mean))
