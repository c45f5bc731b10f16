"""Models of other packages, small and random, where the packages can be imported.

Nothing is installed and nothing is loaded: each model is built from its entry in `configs.py`.
What is asked of each is the same: its sites and its output are read, written, saved whole, and
rebuilt as what they were.  `make packages` installs the packages, and there none may be missing.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph.errors import CompileError, NeverCalledError, UnknownSiteError
from tests import models
from tests.packages.by_hand import at, leaves, numbers, push, pushed, put, watched
from tests.packages.configs import CASES, Case

pytestmark = pytest.mark.slow
ALL_HERE = "MLXGRAPH_ALL_PACKAGES"  # set where a package that is missing is a failure


class Built:
    """One model, what it is called on, and what it gives without mlxgraph."""

    def __init__(self, case: Case):
        mx.random.seed(3)
        self.module = case.model.make()
        mx.eval(self.module.parameters())
        self.module.eval()
        self.inputs = case.inputs()
        self.truth, self.seen = watched(self.module, self.inputs)
        self.whole = leaves(self.truth)
        self.path = numbers(self.whole)[0]  # of the array that is written
        self.model = mg.InterpretableModel(self.module)
        self.case = case

    def is_true(self, value: Any) -> bool:
        """Whether an output is the model's own."""
        return type(value) is type(self.truth) and alike(leaves(value), self.whole)

    def sites(self) -> dict[str, Any]:
        """What a forward visits: `{path: module}`, the model itself left out."""
        with self.model.trace(*self.inputs) as t:
            pass
        paths = [name.removeprefix("model.") for name in list(t.activations)]
        return {path: self.model[path].module for path in paths if path != "__model_output__"}


def close(a: mx.array, b: mx.array) -> bool:
    return models.same(a, b, 1e-4 if a.dtype == mx.float32 else 3e-2)


def alike(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(close(a[path], b[path]) for path in b)


@pytest.fixture(scope="module", params=CASES)
def built(request: pytest.FixtureRequest) -> Built:
    try:
        return Built(CASES[request.param])
    except ImportError as error:
        if os.environ.get(ALL_HERE):
            raise
        pytest.skip(str(error))


@pytest.fixture
def case(request: pytest.FixtureRequest, built: Built) -> Built:
    """A model, with what is known to be wrong of it in this test."""
    if reason := built.case.wrong.get(request.function.__name__):
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    return built


def test_every_site_reads_as_a_forward_hooked_by_hand(case: Built):
    with case.model.trace(*case.inputs) as t:
        pass
    sites = case.sites()
    assert {id(part) for part in sites.values()} == case.seen.keys() - {id(case.module)}
    for path, part in sites.items():
        assert alike(leaves(t.activations[f"model.{path}"]), case.seen[id(part)]), path
    assert case.is_true(t.output)


def test_a_write_at_every_site_is_a_forward_pushed_by_hand(case: Built):
    model, changed = case.model, 0
    for path, part in case.sites().items():
        for leaf in numbers(case.seen[id(part)])[:1]:
            with model.trace(*case.inputs, compile=False) as t:
                if leaf:
                    h = at(model[path].output, leaf)
                    h[...] = push(h)
                else:
                    model[path].output = push(model[path].output)
            found = leaves(t.output)
            assert alike(found, leaves(pushed(case.module, case.inputs, part, leaf))), path
            changed += not alike(found, case.whole)
    assert changed


@pytest.mark.parametrize("compile", [False, True, "auto"])
def test_an_output_is_read_and_written_by_its_parts_and_saved_whole(case: Built, compile):
    model, inputs, path = case.model, case.inputs, case.path
    if compile is True and not case.case.compiles:
        with pytest.raises(CompileError), model.trace(*inputs, compile=True):
            model.output.save()
        return
    for _ in range(3):
        with model.trace(*inputs, compile=compile) as t:
            kept = {leaf: at(model.output, leaf).save() for leaf in case.whole}
            whole = model.output.save()
        assert alike(kept, case.whole)
        assert alike({leaf: at(whole, leaf) for leaf in case.whole}, case.whole)
        assert isinstance(whole.value, type(case.truth))
        assert alike(leaves(whole.value), case.whole)
        assert case.is_true(t.output)
    for _ in range(2):
        with model.trace(*inputs, compile=compile) as t:
            part = at(model.output, path)
            part[..., -1] = 0
            cut = at(model.output, path).save()
            if path and path[-1][0] == "attribute":
                put(model.output, path, at(model.output, path) + 1)
            else:
                part += 1
            more = at(model.output, path).save()
        assert not cut[..., -1].any()
        assert close(cut[..., :-1], case.whole[path][..., :-1])
        assert close(more, cut + 1)
        assert type(t.output) is type(case.truth)
        assert alike(leaves(t.output), case.whole | {path: more})


def test_an_edited_model_and_a_file_give_an_output_of_the_models_own_kind(case: Built, tmp_path):
    model, inputs, path = case.model, case.inputs, case.path
    with model.trace(*inputs) as t:
        h = at(model.output, path)
        h *= 2
    t.graph.save(tmp_path / "twice.mlxg")
    graph = mg.Graph.load(tmp_path / "twice.mlxg")
    edited, stored = model.edit(t.graph), model.edit(graph)
    for run in (edited, edited, stored, stored, lambda *given: model.run(graph, *given).output):
        found = run(*inputs)
        assert type(found) is type(case.truth)
        assert alike(leaves(found), case.whole | {path: case.whole[path] * 2})


def test_the_census_is_as_it_was_after_edits(case: Built):
    model, inputs, path = case.model, case.inputs, case.path

    def visited() -> dict:
        with model.trace(*inputs) as t:
            pass
        return {
            name: {leaf: (array.shape, array.dtype) for leaf, array in leaves(value).items()}
            for name, value in dict(t.activations).items()
        }

    before = visited()
    with model.trace(*inputs):
        new = mx.zeros_like(at(model.output, path))
        if path:
            put(model.output, path, new)
        else:
            model.output = new
        after = at(model.output, path).save()
    assert not after.any()
    assert visited() == before
    with model.trace(*inputs) as t:
        again = at(model.output, path).save()
    assert again.any()
    assert close(again, case.whole[path])
    assert case.is_true(t.output)
    assert case.is_true(case.module(*inputs))


def test_what_attentions_compute_is_seen_and_nothing_changes(case: Built):
    """Every attention of a model, of whatever package: its rows are shares, and mix the values."""
    names = ("pattern", "values", "heads")
    with case.model.trace(*case.inputs, optimize=False) as t:
        found = {}
        with contextlib.suppress(NeverCalledError, UnknownSiteError):  # there is none
            found = t.cache(*(f"**.{name}" for name in names))
        output = case.model.output.save()
    assert alike(leaves(output.value), case.whole)
    modules = [name.removesuffix(".pattern") for name in found if name.endswith(".pattern")]
    for module in modules:
        pattern, values, heads = (found[f"{module}.{name}"] for name in names)
        rows = pattern.astype(mx.float32).sum(axis=-1)
        assert mx.all((rows > 0) & (rows < 1.01)), module
        values = mx.repeat(values, heads.shape[1] // values.shape[1], axis=1)
        assert close((pattern @ values).astype(heads.dtype), heads), module
