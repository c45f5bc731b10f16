"""What a plan says is what is done: forwards, work, memory; and bars, chunks and their pace."""

from __future__ import annotations

import sys
import types

import mlx.core as mx
import pytest
from mlx_lm.models import llama

import mlxgraph as mg
from mlxgraph.analysis.progress import Progress
from mlxgraph.sweep import batch, split
from mlxgraph.sweep.pace import Pace
from tests.models import VOCABULARY, make_llama
from tests.sweep.alike import furthest, loop, moved

LAYERS, LENGTH = 4, 16
X = mx.arange(LENGTH)[None] * 7 % VOCABULARY


class Counted(llama.TransformerBlock):
    """A block that notes how many rows and positions it is given."""

    def __call__(self, x, *args, **kwargs):
        self.seen.append(x.shape[:2])
        return super().__call__(x, *args, **kwargs)


@pytest.fixture(scope="module")
def counted():
    module = make_llama(False, layers=LAYERS)
    seen: list = []
    for layer in module.layers:
        layer.__class__ = Counted
        object.__setattr__(layer, "seen", seen)
    return mg.InterpretableModel(module), seen


def maps(model, positions=(2, 7, 11, 15)):
    """One variant for each layer and position."""
    return [
        moved(model, lambda m, k=k: m.layers[k].output, X, (slice(None), p))
        for k in range(LAYERS)
        for p in positions
    ]


SWEEPS = {
    "layers": lambda m: maps(m, (slice(None),)),
    "layers x positions": maps,
    "late positions": lambda m: maps(m, (13, 15)),
    "one layer": lambda m: maps(m)[4:8],
    "the first layer": lambda m: maps(m)[:4],
    "two": lambda m: maps(m)[:2],
    "one": lambda m: maps(m)[:1],
    "the last layer": lambda m: maps(m)[-3:],
    "duplicates": lambda m: maps(m)[5:6] * 6,
    "heads": lambda m: [
        moved(m, lambda m, k=k: m.layers[k].attn.heads, X, (slice(None), h))
        for k in range(LAYERS)
        for h in range(4)
    ],
    "nothing": lambda m: [mg.read(f"layers.{k}", name="h") for k in range(LAYERS)],
}


@pytest.mark.parametrize("metric", [None, "l2"])
@pytest.mark.parametrize("cost", [0, split.FORWARD], ids=["forwards are free", "as they are"])
@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.thin(6)
def test_what_is_done_is_what_was_planned_and_never_more_than_a_loop(
    counted, monkeypatch, name, cost, metric
):
    monkeypatch.setattr(batch, "OFTEN", 10**9)  # a compiled forward is compared once: two of them
    monkeypatch.setattr(split, "FORWARD", cost)
    model, seen = counted
    graphs = SWEEPS[name](model)
    model.sweep(X, graphs, metric=metric)  # what is certain of the model is known from here on
    plan = model.sweep_plan(X, graphs, metric=metric)
    planned = len(plan.forwards)
    assert plan.work <= plan.work_of_a_loop * (1 + 1e-9)
    seen.clear()
    result = plan.run(progress=False)
    done = sum(rows * positions for rows, positions in seen)
    runs = len(graphs) + (metric is not None)
    assert done <= runs * LAYERS * LENGTH
    assert done <= sum(one.work.layers for one in plan.forwards) * (1 + 1e-9)
    assert len(plan.forwards) == planned
    if metric is None:
        assert furthest(result, loop(model, X, graphs)) < 1


def test_a_map_is_a_part_of_the_loops_work(counted):
    """Else the law above would hold of a sweep that shares nothing."""
    model, seen = counted
    graphs = maps(model)
    model.sweep_plan(X, graphs)
    seen.clear()
    model.sweep(X, graphs)
    assert sum(rows * positions for rows, positions in seen) < 0.8 * 16 * LAYERS * LENGTH


def test_a_plan_runs_nothing_once_the_model_is_known(counted):
    model, seen = counted
    graphs = maps(model)
    model.sweep_plan(X, graphs)
    seen.clear()
    plan = model.sweep_plan(X, graphs)
    text = plan.explain()
    assert str(plan) == text
    assert not seen
    assert len(plan) == 16
    for words in (
        "16 variants",
        "16 positions",
        "4 layers",
        "layers x positions",
        "least possible",
    ):
        assert words in text
    assert str(model.explain(graphs, X)) == text


def test_a_plan_says_why_nothing_is_shared(counted):
    model, _ = counted
    with model.trace(X) as t:
        model.layers[1].output[:] += mx.random.normal((32,))
        model.output.save("l")
    plan = model.sweep_plan(X, [t.graph] * 3)
    assert [one.way for one in plan.forwards] == ["alone"] * 3
    assert "draw random numbers" in plan.explain()
    assert plan.work <= plan.work_of_a_loop


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 100])
@pytest.mark.thin(3)
def test_a_batch_has_as_many_variants_as_were_allowed(counted, size):
    model, seen = counted
    graphs = maps(model)
    plan = model.sweep_plan(X, graphs, batch_size=size)
    assert max(one.variants for one in plan.forwards) <= size
    seen.clear()
    result = plan.run()
    assert max(rows for rows, _ in seen) <= size + 1
    assert furthest(result, loop(model, X, graphs)) < 1


def test_memory_is_kept():
    model = mg.InterpretableModel(make_llama(False, layers=LAYERS))
    x = mx.arange(128)[None] * 7 % VOCABULARY
    with model.trace(x) as t:
        model.layers[1].output[:, -100:] *= mg.param("alpha")
        model.output[:, -1].save("l")
    over = {"alpha": [k / 64 for k in range(32)]}
    most = 3_000_000
    peaks, results = {}, []
    for limit in (1, most, None):
        plan = model.sweep_plan(x, t.graph, over=over, memory_limit=limit)
        if limit is not None:
            assert all(one.memory <= limit for one in plan.forwards if one.variants > 1)
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        results.append(plan.run(progress=False))
        peaks[limit] = mx.get_peak_memory() - before
    assert peaks[1] < peaks[most] < peaks[None]
    assert peaks[most] < 1.3 * most
    assert furthest(results[0], results[2]) < 1
    assert furthest(results[1], results[2]) < 1


# -- bars -----------------------------------------------------------------------------------------


class Bar:
    """What tqdm is asked."""

    made: list = []

    def __init__(self, **given):
        self.given, self.count = given, given["initial"]
        Bar.made.append(self)

    def update(self, count):
        self.count += count

    def close(self):
        self.closed = True


@pytest.fixture
def bars(monkeypatch):
    Bar.made = []
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=Bar))
    return Bar.made


def test_a_bar_is_shown_where_it_is_asked_for(counted, bars):
    model, _ = counted
    graphs = maps(model)
    model.sweep(X, graphs, progress=False)
    assert not bars
    model.sweep(X, graphs, progress=True, batch_size=3)
    assert [(bar.given["total"], bar.count, bar.closed) for bar in bars] == [(16, 16, True)]


SAYS = {"what": "sweep", "unit": "variant"}


def test_a_bar_appears_on_what_takes_long(bars, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    for wanted, took, shown in [(None, 0.01, 0), (None, 1.0, 1), (False, 1.0, 1), (True, 0.01, 2)]:
        with Progress(10, wanted, **SAYS) as progress:
            for _ in range(10):
                now[0] += took
                progress.advance(1)
        assert len(bars) == shown
    assert {bar.count for bar in bars} == {10}


@pytest.mark.parametrize("watched", [True, False])
def test_of_an_unknown_number_a_bar_appears_once_it_took_long(bars, monkeypatch, watched):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("sys.stderr.isatty", lambda: watched, raising=False)
    with Progress(None, None, **SAYS, terminal=True) as progress:
        for count in range(1, 6):
            now[0] += 1.0
            progress.advance(1)
            assert len(bars) == (watched and count > 3)


def test_a_bar_that_goes_on_says_how_many_were_done(bars):
    with Progress(10, True, 4, **SAYS) as progress:
        progress.advance(6)
    assert bars[0].given["initial"] == 4
    assert bars[0].count == 10


def test_a_bar_is_on_stderr_alone(counted, capfd):
    model, _ = counted
    model.sweep(X, maps(model), progress=True)
    out, err = capfd.readouterr()
    assert not out
    assert "16/16" in err
    model.sweep(X, maps(model))
    out, err = capfd.readouterr()
    assert not out
    assert not err


# -- pace -----------------------------------------------------------------------------------------


def run_with(pace, seconds, count=400, tokens=64):
    sizes = []
    while count > 0:
        size = min(pace.size(tokens), count)
        pace.took(size, size, seconds(size) * size)
        sizes.append(size)
        count -= size
    return sizes


def test_batches_grow_while_they_get_no_dearer():
    assert run_with(Pace(), lambda size: 1.0) == [32, 64, 128, 176]


def test_batches_go_back_where_they_get_dearer():
    sizes = run_with(Pace(), lambda size: 1.0 if size <= 64 else 2.0)
    assert sizes[:4] == [32, 64, 128, 64]
    assert set(sizes[4:]) <= {64, sizes[-1]}


def test_a_short_chunk_says_nothing():
    pace = Pace()
    assert pace.size(64) == 32
    pace.took(3, 3, 1e9)
    assert pace.size(64) == 32
    assert Pace().size(10**9) == 1
