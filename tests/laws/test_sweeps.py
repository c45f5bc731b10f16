"""A sweep is a loop: random variants at random sites of models of several families."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import event, given, note, settings
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import MLXGraphError
from mlxgraph.sweep import split
from tests import models
from tests.architectures import configs
from tests.laws.interpreter import interpret
from tests.laws.play import perform
from tests.laws.sweep_programs import graph_of, places_of, programs
from tests.laws.test_programs import CASES as PROGRAMMED
from tests.sweep.alike import furthest, loop, ways

LENGTH = 12
HEADS = 2  # that every site of heads has


class Case:
    """A model, an input, and the sites of its forward."""

    def __init__(self, module, rows=1, length=LENGTH):
        mx.eval(module.parameters())
        self.model = mg.InterpretableModel(module)
        self.x = mx.arange(rows * length).reshape(rows, length) * 7 % models.VOCABULARY
        self.places = places_of(self.model, self.x)
        self.variant = programs(self.places, length, HEADS)
        self.variants = st.lists(self.variant, min_size=2, max_size=6)

    def graphs(self, found):
        """What blocks of these statements recorded, of those that mean something."""
        graphs = [mg.read("layers.1", name="h")]
        for program in found:
            note(repr(program))
            try:
                graph = graph_of(self.model, self.x, program)
            except MLXGraphError as error:  # a value of another shape, a part that was skipped
                event(type(error).__name__)
                continue
            graphs.append(graph.bind(**program.params) if program.params else graph)
        return graphs

    def runs(self, graph):
        """Whether a run of it raises nothing."""
        try:
            self.model.run(graph, self.x, compile=False)
        except MLXGraphError as error:
            event(type(error).__name__)
            return False
        return True


def quantised():
    module = models.make_llama(False, layers=3)
    nn.quantize(module, group_size=32, bits=4)
    return module


def halved(dtype):
    module = models.make_llama(False, layers=3)
    module.set_dtype(dtype)
    return module


MAKERS = {
    "llama": lambda: Case(models.make_llama(False, layers=5)),
    "tied, two rows": lambda: Case(models.make_llama(True, layers=3), rows=2),
    "gpt2": lambda: Case(configs.build("gpt2")),
    "gemma2": lambda: Case(configs.build("gemma2")),
    "mixtral": lambda: Case(configs.build("mixtral")),
    "mamba": lambda: Case(configs.build("mamba")),
    "4-bit": lambda: Case(quantised()),
    "bfloat16": lambda: Case(halved(mx.bfloat16)),
}
KNOWN: dict[str, Case] = {}


def case_of(name):
    if name not in KNOWN:
        KNOWN[name] = MAKERS[name]()
    return KNOWN[name]


def equals_the_loop(case, graphs, batch_size=None):
    """Its answers are the loop's, or its error is."""
    try:
        want = loop(case.model, case.x, graphs)
    except MLXGraphError as error:
        with pytest.raises(type(error)):
            case.model.sweep(case.x, graphs)
        event("a run raises")
        return
    swept = case.model.sweep(case.x, graphs, batch_size=batch_size, progress=False)
    for way, start in ways(swept):
        event(f"{way}, later" if start else way)
    assert furthest(swept, want) < 1


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=settings().max_examples // 4)
@given(data=st.data())
@pytest.mark.thin(2)
def test_a_sweep_is_a_loop(name, data):
    case = case_of(name)
    found = data.draw(case.variants)
    equals_the_loop(case, case.graphs(found), data.draw(st.sampled_from([None, 1, 2, 3])))


@pytest.mark.parametrize("name", ["llama", "tied, two rows", "gpt2"])
@settings(max_examples=settings().max_examples // 4)
@given(data=st.data())
def test_a_sweep_whose_forwards_begin_where_they_can_is_a_loop(name, data):
    case = case_of(name)
    before, split.FORWARD = split.FORWARD, 0
    try:
        equals_the_loop(case, case.graphs(data.draw(case.variants)))
    finally:
        split.FORWARD = before


@pytest.mark.parametrize("name", ["llama", "mixtral"])
@settings(max_examples=settings().max_examples // 4)
@given(data=st.data())
def test_what_variants_do_alike_changes_nothing(name, data):
    """A part that most of them share, and some do not."""
    case = case_of(name)
    shared = [step for step in data.draw(case.variant).steps if step.what != "save"]
    found = []
    for program in data.draw(case.variants):
        has = data.draw(st.integers(0, 3)) > 0
        found.append(program._replace(steps=(*shared, *program.steps)) if has else program)
    equals_the_loop(case, case.graphs(found))


@settings(max_examples=settings().max_examples // 4)
@given(data=st.data())
def test_neither_order_nor_company_nor_chunks_matter(data):
    case = case_of("llama")
    graphs = [one for one in case.graphs(data.draw(case.variants)) if case.runs(one)]
    whole = [*case.model.sweep(case.x, graphs)]
    order = data.draw(st.permutations(range(len(graphs))))
    some = order[: data.draw(st.integers(1, len(order)))]
    size = data.draw(st.integers(1, len(order)))
    again = case.model.sweep(case.x, [graphs[k] for k in some], batch_size=size)
    assert furthest(again, [whole[k] for k in some]) < 1


# -- edits by pattern -----------------------------------------------------------------------------

SITES = ["layers.*", "layers.2", "layers.*.attn", "layers.1.mlp", "layers.[1-3].mlp", "model.norm"]
FUNCTIONS = [
    iv.zero_out,
    iv.scale(0.5),
    iv.add_vector(mx.linspace(-1, 1, models.WIDTH)),
    lambda h: mx.tanh(h) * 0.5,
]
POSITIONS = st.one_of(
    st.none(),
    st.integers(-LENGTH, LENGTH - 1),
    st.integers(1, LENGTH - 1).map(lambda k: slice(k, None)),
    st.lists(st.integers(0, LENGTH - 1), min_size=1, max_size=3, unique=True),
)
EDITS = st.one_of(
    st.builds(mg.edit, st.sampled_from(SITES), st.sampled_from(FUNCTIONS), positions=POSITIONS),
    st.builds(
        mg.edit,
        st.sampled_from(["layers.1.attn", "layers.3.attn"]),
        st.sampled_from(FUNCTIONS[:2]),
        heads=st.lists(st.integers(0, 3), min_size=1, max_size=2, unique=True),
    ),
)
READS = st.sampled_from(
    [mg.chain(), mg.read("layers.3", name="h"), mg.read("__model_output__", name="h")]
)


@settings(max_examples=settings().max_examples // 4)
@given(
    edits=st.lists(st.tuples(EDITS, READS), min_size=2, max_size=5),
    stays=st.one_of(st.none(), EDITS),
    rows=st.sampled_from([1, 2]),
)
def test_a_sweep_of_edits_by_pattern_is_a_loop(edits, stays, rows):
    case = case_of("llama")
    model = case.model if stays is None else case.model.edit(stays)
    x = mx.concatenate([case.x, case.x[:, ::-1]])[:rows]
    graphs = [edit >> read for edit, read in edits]
    assert furthest(model.sweep(x, graphs), loop(model, x, graphs)) < 1


@settings(max_examples=settings().max_examples // 4)
@given(
    edits=st.lists(EDITS, min_size=2, max_size=4),
    lengths=st.lists(st.integers(1, LENGTH), min_size=2, max_size=3),
)
def test_a_sweep_of_texts_of_several_lengths_is_a_loop(edits, lengths):
    case = case_of("llama")
    rows = [[(7 * k + n) % models.VOCABULARY for k in range(n)] for n in lengths]
    graphs = [edit >> mg.read("layers.4", name="h") for edit in edits]
    try:
        want = loop(case.model, rows, graphs)
    except MLXGraphError as error:  # a position that a short text does not have
        event(type(error).__name__)
        with pytest.raises(type(error)):
            case.model.sweep(rows, graphs)
        return
    assert furthest(case.model.sweep(rows, graphs), want) < 1


# -- the naive interpreter ------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROGRAMMED)
@settings(max_examples=settings().max_examples // 5)
@given(data=st.data())
@pytest.mark.thin(2)
def test_a_sweep_of_random_programs_means_what_the_naive_interpreter_says(name, data):
    """Modules of every kind: several inputs, dicts and objects out, no layers."""
    case = PROGRAMMED[name]
    found = data.draw(st.lists(case.programs, min_size=2, max_size=4))
    note("\n\n".join("\n".join(map(str, program)) for program in found))
    graphs = [perform(case.model, program, case.inputs, False)[2].graph for program in found]
    swept = case.model.sweep(case.inputs, graphs, progress=False)
    tolerance = 2e-2 if name == "halves" else 2e-5
    for result, program in zip(swept, found, strict=True):
        saves, _ = interpret(case.module, case.inputs, program)
        assert len(result.saves) == len(saves)
        for ours, theirs in zip(result.saves.values(), saves, strict=True):
            assert models.same(ours, theirs, tolerance)


# -- the laws can fail ----------------------------------------------------------------------------


def test_other_edits_give_other_answers():
    case = case_of("llama")
    graphs = [mg.edit("layers.2", iv.scale(by)) >> mg.read("lm_head", name="l") for by in (2, 3)]
    swept = case.model.sweep(case.x, graphs)
    assert furthest(swept, loop(case.model, case.x, graphs)) < 1
    assert furthest(swept, loop(case.model, case.x, graphs[::-1])) > 100


def test_the_variants_are_of_every_kind():
    """Else the laws would say less than they seem to."""
    case = case_of("llama")
    hows, places, whats, kinds = set(), set(), set(), set()

    @settings(max_examples=150)
    @given(case.variants)
    def look(found):
        for program in found:
            for step in program.steps:
                whats.add(step.what)
                hows.add(step.how)
                places.add(step.place)
                kinds.add(type(step.index[-1]) if step.index else None)

    look()
    assert whats == {"save", "write", "skip"}
    assert hows >= {"scale", "from", "alpha", "vector", "opaque", "by hand", "normed"}
    assert places == {*case.places}
    assert kinds == {None, int, slice, list}
    assert len(case.places) > 60
