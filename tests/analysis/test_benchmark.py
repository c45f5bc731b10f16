"""A benchmark's table: what is in it, and that its ways run the same.  Never how long they take."""

from __future__ import annotations

import gc
import json
import sys
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.analysis.benchmark import BLOCK, COMPILED, EAGER, PASS, case_of, ways_of
from mlxgraph.analysis.benchmark_table import Benchmark, First, measured
from mlxgraph.analysis.in_turns import Times, in_turns, once, peak_memory, spread
from mlxgraph.errors import (
    InputError,
    MissingDependencyError,
    MissingParamError,
    NotAGraphError,
    UnknownNameError,
)
from mlxgraph.model.compiled_pass import Result
from tests.models import same

TEXT = "The capital of France is"
WAYS = [EAGER, COMPILED, BLOCK, PASS]


@pytest.fixture(scope="module")
def graph(tiny: mg.InterpretableModel) -> mg.Graph:
    """An edit and two saves."""
    with tiny.trace(TEXT) as trace:
        tiny.layers[2].output[:, -1] *= 0.5
        tiny.layers[3].output.save("h")
        tiny.output[:, -1].save("logits")
    return trace.graph


@pytest.fixture(scope="module")
def table(tiny: mg.InterpretableModel, graph: mg.Graph) -> Benchmark:
    return mg.benchmark(tiny, graph, TEXT, repeat=6)


class OnValues(nn.Module):
    """What a forward does here depends on a value, so that it cannot be compiled."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(6, 6), nn.Linear(6, 6)]

    def __call__(self, x: mx.array) -> mx.array:
        x = self.layers[0](x)
        return self.layers[1](x) if x.sum().item() < 1e9 else x


# -- what is measured ----------------------------------------------------------------------------


GRAPHS = {
    "saves": lambda m: mg.edit("layers.1", lambda h: h * 0.5) >> mg.read("layers.2", name="h"),
    "no saves": lambda m: mg.edit("layers.1", lambda h: h * 0.5),
    "a param": lambda m: mg.edit("layers.1", lambda h: h * mg.param("a")),
}
INPUTS = {
    "a text": TEXT,
    "texts of several lengths": ["Paris is", TEXT],
    "ids": mx.array([[5, 7, 9], [1, 2, 3]]),
}


@pytest.mark.parametrize("given", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.thin(3)
def test_all_ways_of_running_agree(tiny, make, given) -> None:
    graph = make(tiny)
    params = {"a": 0.25} if make is GRAPHS["a param"] else {}
    ways = ways_of(tiny, case_of(tiny, graph, (given,), params, {}), [])
    assert list(ways) == WAYS
    found = {name: [_values(way()) for _ in range(3)] for name, way in ways.items()}
    expected = tiny.run(graph, given, **params)
    expected = _values(expected.saves or expected.output)
    for name in (BLOCK, PASS):  # the block runs eagerly, is compiled, is replayed
        for values in found[name]:
            assert len(values) == len(expected) > 0
            assert all(same(one, other, 1e-4) for one, other in zip(values, expected, strict=True))
    for values in found[COMPILED]:
        assert same(values[0], found[EAGER][0][0], 1e-4)
    assert not same(found[EAGER][0][0], tiny.run(graph, given, **params).output, 1e-4)


def _values(found) -> list[mx.array]:
    if isinstance(found, Result):
        found = found.saves or found.output
    return [found] if isinstance(found, mx.array) else list(found.values())


def test_the_bare_ways_are_the_model_itself(tiny, graph) -> None:
    ids = mx.array([tiny.encode(TEXT)])
    for model in (tiny, tiny.edit(mg.edit("layers.0", lambda h: h * 3.0))):
        ways = ways_of(model, case_of(model, graph, (TEXT,), None, {}), [])
        assert same(ways[EAGER](), tiny.module(ids))
    edited = ways[PASS]().saves["logits"]
    assert not same(edited, tiny.run(graph, TEXT)["logits"], 1e-3)


def test_arrays_and_keywords_of_a_custom_model_reach_every_way() -> None:
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def __call__(self, given, *, factor=1.0):
            return {"out": self.inner(given["x"]) * factor}

    model = mg.InterpretableModel(Scaled())
    graph = mg.edit("inner", lambda h: h + 1.0)
    x = mx.ones((2, 3))
    case = case_of(model, graph, ({"x": x},), None, {"factor": 2.0})
    bare, compiled, block, run = (way() for way in ways_of(model, case, []).values())
    assert same(bare["out"], model.module.inner(x) * 2.0, 1e-6)
    assert same(compiled["out"], bare["out"], 1e-6)
    for out in (block["out"], run.output["out"]):
        assert same(out, bare["out"] + 2.0, 1e-6)
    assert len(mg.benchmark(model, graph, {"x": x}, repeat=1, factor=2.0).rows) == 4


# -- what is in the table ------------------------------------------------------------------------


def test_the_rows_are_the_four_ways(table) -> None:
    assert [row.way for row in table.rows] == WAYS
    assert table.base == COMPILED and table.rounds == 6
    for row in table.rows:
        assert row.first > 0 and row.peak >= 0 and not row.note
        for found in (row.host, row.device, row.together):
            assert 0 < found.low <= found.median <= found.high
        assert row.host.low + row.device.low <= row.together.high
        assert (row.overhead is None) == (row.ratio is None) == (row.way == COMPILED)
    assert table[BLOCK] is table.rows[2]


def test_each_way_compiles_once_but_the_eager_one_and_nothing_in_the_rounds(table) -> None:
    assert [row.compilations for row in table.rows] == [0, 1, 1, 1]
    assert table.anew == 0


@pytest.mark.slow  # each call measures, and compiles anew
def test_what_is_left_out_is_what_the_plan_leaves_out(tiny) -> None:
    early = mg.benchmark(tiny, mg.read("layers.1", name="h"), TEXT, repeat=1)
    (line,) = early.left_out
    assert line.startswith("stop at model.layers.1") and "are not finished" in line
    sliced = mg.edit("layers.5", lambda h: h * 0.5) >> mg.read("layers.1", name="h")
    unseen = mg.benchmark(tiny, sliced, TEXT, repeat=1)
    assert any(line.startswith("leave out the write at") for line in unseen.left_out)
    whole = mg.benchmark(tiny, mg.edit("layers.1", lambda h: h * 0.5), TEXT, repeat=1)
    assert whole.left_out == () and "nothing is left out" in str(whole)


def test_a_sliced_output_names_the_rewrite(tiny) -> None:
    with tiny.trace(TEXT) as trace:
        tiny.output[:, -1].save()
    told = mg.benchmark(tiny, trace, TEXT, repeat=1)
    assert told.left_out == ("rewritten by pushdown, last_layer",)


def test_what_cannot_be_compiled_says_so_and_the_rest_is_measured() -> None:
    mx.random.seed(2)
    model = mg.InterpretableModel(OnValues())
    x = mx.ones((2, 6))
    before = model.run(mg.Graph(), x).output
    table = mg.benchmark(model, mg.edit("layers.0", lambda h: h * 2.0), x, repeat=2)
    assert [row.way for row in table.rows if row.host is None] == [COMPILED, PASS]
    assert table.base == EAGER and table[EAGER].ratio is None and table[BLOCK].ratio is not None
    assert table[COMPILED].note and table[PASS].note
    assert sum("cannot be run" in note for note in table.notes) == 2
    assert Benchmark.from_json(table.to_json()) == table
    assert table._repr_html_().count("<td>-</td>") > 8
    assert same(model.module(x), before), "a failed trace leaves the weights as they were"


@pytest.mark.slow  # each call measures, and compiles anew
def test_the_model_and_the_collector_are_left_as_they_were(tiny, graph) -> None:
    names = sorted(tiny.parameters())
    was_on = gc.isenabled()
    try:
        for on in (True, False):
            (gc.enable if on else gc.disable)()
            mg.benchmark(tiny, graph, TEXT, repeat=1)
            assert gc.isenabled() is on
            with pytest.raises(ZeroDivisionError):
                in_turns({"a": lambda: 1 / 0}, 1)
            assert gc.isenabled() is on
    finally:
        (gc.enable if was_on else gc.disable)()
    assert sorted(tiny.parameters()) == names


# -- what the noise hides ------------------------------------------------------------------------


def _table(host: list[float], base: list[float], device: list[float], anew: int = 0) -> Benchmark:
    of_base, of_way = Times(base, [1.0] * len(base)), Times(host, device)
    rows = (
        measured(COMPILED, First(1.0, 1), of_base, None, 0),
        measured(BLOCK, First(1.0, 1), of_way, of_base, 0),
    )
    about = dict.fromkeys(["graph", "model", "inputs", "device", "mlx", "python"], "a")
    return Benchmark(rows, COMPILED, len(host), anew, (), about)


BASE = [0.10, 0.11, 0.12, 0.13, 0.14, 0.15]


def test_a_difference_that_every_round_shows_is_told() -> None:
    table = _table([0.5 + one for one in BASE], BASE, [1.0] * 6)
    assert table.notes == ()
    assert table[BLOCK].overhead == pytest.approx((0.5, 0.5, 0.5))
    assert table[BLOCK].ratio.low > 1.4


def test_what_is_compared_is_compared_within_a_round() -> None:
    """A machine that slows down for everybody hides nothing."""
    drift = [1.0, 5.0, 2.0, 9.0, 3.0, 7.0]
    table = _table([0.5 + one for one in drift], drift, [1.0] * 6)
    assert table.notes == () and table[BLOCK].host.low < table[COMPILED].host.high


def test_a_difference_that_the_rounds_do_not_agree_on_is_not() -> None:
    other = [one + (-1) ** number * 0.05 for number, one in enumerate(BASE)]
    notes = _table(other, BASE, [1.0] * 6).notes
    assert len(notes) == 2
    assert all(note.startswith("too noisy to tell") and BLOCK in note for note in notes)
    assert "host time" in notes[0] and "whole time" in notes[1]


def test_host_times_may_differ_where_whole_times_do_not() -> None:
    device = [0.3, 1.9, 0.2, 0.4, 1.8, 1.7]
    (note,) = _table([0.05 + one for one in BASE], BASE, device).notes
    assert "whole time" in note and "host time" not in note


def test_a_few_rounds_tell_nothing_of_the_noise() -> None:
    (note,) = _table(BASE[:3], BASE[:3], [1.0] * 3).notes
    assert "too few" in note


def test_compilations_within_the_rounds_are_told() -> None:
    (note,) = _table([0.5 + one for one in BASE], BASE, [1.0] * 6, anew=2).notes
    assert note.startswith("2 compilations")


# -- the value -----------------------------------------------------------------------------------


def test_json_goes_round(table) -> None:
    found = json.loads(table.to_json())
    assert [row["way"] for row in found["rows"]] == WAYS
    assert found["rows"][2]["host"] == list(table[BLOCK].host)
    assert set(found["about"]) >= {"model", "graph", "inputs", "device", "mlx", "python"}
    assert Benchmark.from_json(table.to_json()) == table
    found["rows"][2]["peak"] += 1
    assert Benchmark.from_json(json.dumps(found)) != table


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": [{"way": 1}]}', "null", '{"rows": 3}'])
def test_what_is_no_benchmark_is_not_read(text: str) -> None:
    with pytest.raises(InputError, match="to_json"):
        Benchmark.from_json(text)


def test_it_prints_and_shows_every_way(table) -> None:
    for shown in (str(table), repr(table), table._repr_html_()):
        for way in WAYS:
            assert way in shown
        for what in ("first call", "host", "device", "together", "peak memory", "compilations"):
            assert what in shown
        assert "6 rounds" in shown
    page = table._repr_html_()
    assert "<Graph" not in page and "&lt;Graph" in page
    assert page.count("<tr>") == len(table._cells()) and page.count("<td>") == 4 * 9


def test_a_frame_has_a_row_for_each_way(table, monkeypatch) -> None:
    made = []

    class DataFrame(SimpleNamespace):
        def __init__(self, records):
            made.extend(records)

        def set_index(self, name):
            return name

    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=DataFrame))
    assert table.to_frame() == "way"
    assert [record["way"] for record in made] == WAYS
    assert made[2]["host"] == table[BLOCK].host.median
    assert made[2]["overhead.high"] == table[BLOCK].overhead.high
    assert made[1]["ratio"] is None and len({tuple(record) for record in made}) == 1


def test_a_frame_needs_pandas(table, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match="pip install pandas"):
        table.to_frame()


def test_a_row_that_is_not_there(table) -> None:
    with pytest.raises(UnknownNameError, match="traced block"):
        table["traced blok"]


# -- what is given -------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [None, "layers.1", 3, lambda h: h])
def test_what_is_no_graph(tiny, graph) -> None:
    with pytest.raises(NotAGraphError):
        mg.benchmark(tiny, graph, TEXT)


@pytest.mark.parametrize("repeat", [0, -1, True, False, 2.5, "3", [3]])
def test_what_is_no_number_of_rounds(tiny, graph, repeat) -> None:
    with pytest.raises(InputError, match="repeat="):
        mg.benchmark(tiny, graph, TEXT, repeat=repeat)


@pytest.mark.slow  # each call measures, and compiles anew
def test_params_without_values_and_values_without_params(tiny) -> None:
    scaled = mg.edit("layers.1", lambda h: h * mg.param("alpha"))
    with pytest.raises(MissingParamError, match="alpha"):
        mg.benchmark(tiny, scaled, TEXT, repeat=1)
    with pytest.raises(InputError, match="params="):
        mg.benchmark(tiny, scaled, TEXT, params=[0.5], repeat=1)
    with pytest.raises(UnknownNameError, match="beta"):
        mg.benchmark(tiny, scaled, TEXT, params={"alpha": 0.5, "beta": 1.0}, repeat=1)
    assert mg.benchmark(tiny, scaled, TEXT, params={"alpha": 0.5}, repeat=1).rounds == 1
    with tiny.trace(TEXT) as trace:
        tiny.layers[1].output *= mg.param("alpha")
    for given in ({"alpha": 0.5}, {"params": {"alpha": 0.5}}):
        assert mg.benchmark(tiny, trace.graph, TEXT, repeat=1, **given).rounds == 1


def test_a_param_inside_a_function_is_given_as_to_a_run(tiny) -> None:
    scaled = mg.edit("layers.1", lambda h: h * mg.param("alpha"))
    found = case_of(tiny, scaled, (TEXT,), None, {"alpha": 0.5})
    assert (found.params, found.own) == ({"alpha": 0.5}, {})
    with pytest.raises(UnknownNameError, match="beta"):
        case_of(tiny, scaled, (TEXT,), None, {"alpha": 0.5, "beta": 1.0})


def test_a_bare_module_is_to_be_wrapped(tiny, graph) -> None:
    with pytest.raises(InputError, match="InterpretableModel"):
        mg.benchmark(tiny.module, graph, TEXT)


def test_inputs_that_no_benchmark_can_take(tiny, graph) -> None:
    from mlx_lm.models.cache import make_prompt_cache

    ids = mx.array([[5, 7]])
    with pytest.raises(InputError, match="needs inputs"):
        mg.benchmark(tiny, graph)
    cache = make_prompt_cache(tiny.module)
    for given in ([ids, cache], [ids]):
        keywords = {} if len(given) == 2 else {"cache": cache}
        with pytest.raises(InputError, match="cache"):
            mg.benchmark(tiny, graph, *given, repeat=1, **keywords)
    assert cache[0].offset == 0, "nothing has run"


# -- the loop ------------------------------------------------------------------------------------


def test_ways_take_turns_and_the_first_rounds_do_not_count() -> None:
    called: list[str] = []
    ways = {name: lambda name=name: called.append(name) for name in "abc"}
    times = in_turns(ways, 2, warm=1)
    assert "".join(called) == "abcabcabc"
    assert all(len(one.host) == len(one.device) == 2 for one in times.values())


def test_what_is_given_is_computed_in_the_devices_time() -> None:
    looked: list[str] = []
    x = mx.ones((4, 4))

    def lazily():
        looked.append("host")
        return {"a": [x @ x, (x + 1,)], "b": 3, "c": None}

    host, device = once(lazily)
    assert looked == ["host"] and host > 0 and device > 0
    assert peak_memory(lambda: mx.zeros((1024, 1024)) + 1.0) >= 4 << 20


def test_quartiles() -> None:
    assert spread([3.0]) == (3.0, 3.0, 3.0)
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == (2.0, 3.0, 4.0)
