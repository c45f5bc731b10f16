"""Outputs that are objects: read by attribute, written, saved whole, and rebuilt as they were."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models.cache import make_prompt_cache

import mlxgraph as mg
from mlxgraph.errors import CompileError, OperationError, ShapeError, UnknownEntryError
from tests import models, object_models, outputs

X = mx.arange(48, dtype=mx.float32).reshape(2, 4, 6) / 24 - 1
COMPILE = [False, True, "auto"]
each_kind = pytest.mark.parametrize("kind", outputs.KINDS.values(), ids=outputs.KINDS)


def both(kind):
    """The model of some kind of object, wrapped and bare."""
    model = models.made(object_models.Objects(kind))
    return model, model.module


def close(a, b) -> bool:
    return models.same(a, b, 1e-5)


@each_kind
@pytest.mark.parametrize("compile", COMPILE)
def test_read_by_attribute_and_saved_whole(kind, compile):
    model, bare = both(kind)
    truth = bare(X)
    for _ in range(3):
        with model.trace(X, compile=compile) as t:
            logits = model.output.logits.save()
            hidden = model.output.hidden[1].save()
            whole = model.output.save()
            assert isinstance(model.output, type(truth)) and model.output.loss is None
            assert model.output.logits.shape == truth.logits.shape
        assert close(logits, truth.logits) and close(hidden, truth.hidden[1])
        assert type(whole.value) is type(truth) and isinstance(whole, type(truth))
        assert close(whole.logits, truth.logits) and close(whole.hidden[0], X)
        assert type(t.output) is type(truth) and close(t.output.logits, truth.logits)
        assert type(t.saved_values["__model_output__"]) is type(truth)


@each_kind
@pytest.mark.parametrize("compile", COMPILE)
@pytest.mark.thin(6)
def test_written_by_attribute(kind, compile):
    model, bare = both(kind)
    y = bare.inner.proj(X)
    for _ in range(3):
        with model.trace(X, compile=compile) as t:
            model.inner.output.logits[:, -1] = 0
            model.inner.output.hidden[1] *= 2
            before = model.output.logits.save()
            model.output.logits = model.output.logits + 1
            model.output.logits *= 3
            after = model.output.logits.save()
        cut = mx.array(y)
        cut[:, -1] = 0
        truth = bare.through.head(cut) + 2 * mx.tanh(y)
        assert close(before, truth) and close(after, (truth + 1) * 3)
        assert close(t.output.logits, (truth + 1) * 3)
        assert close(t.activations["inner"].logits, cut)


@each_kind
def test_a_write_is_forgotten_with_its_block(kind):
    model, bare = both(kind)
    truth = bare(X)
    for _ in range(2):
        with model.trace(X):
            model.output.logits = X * 0
            model.output.loss  # noqa: B018 - a value that is no array comes as it is
        with model.trace(X):
            again = model.output.logits.save()
        assert close(again, truth.logits) and close(bare(X).logits, truth.logits)


@each_kind
def test_replaced_as_a_whole(kind):
    model, bare = both(kind)
    truth = bare(X)
    with model.trace(X) as t:
        old = model.output
        model.output = kind(None, old.logits * 3, list(old.hidden))
        model.output.hidden = [X, 0]
    assert type(t.output) is type(truth) and close(t.output.logits, truth.logits * 3)
    assert close(t.output.hidden[0], X) and not t.output.hidden[1].any()
    with model.trace(X):
        with pytest.raises(ShapeError, match="Write to its entries"):
            model.output = kind(None, model.output.logits, [X])
        with pytest.raises(ShapeError, match="(2, 4, 6)"):
            model.output.logits = mx.zeros((3, 3))


@each_kind
def test_passed_to_a_module_and_to_a_function_by_hand(kind):
    model, bare = both(kind)
    truth = bare(X)
    with model.trace(X):
        given = model.inner.output
        by_hand = model.through(given).save()
        built = model.through(kind(None, given.logits * 2, list(given.hidden))).logits.save()
        applied = mg.apply(lambda value: value.logits * 2, given).save()
        made = mg.apply(lambda value: kind(None, value.logits, [value.hidden[1]] * 2), given)
        part = made.hidden[0].save()
    y = bare.inner.proj(X)
    assert type(by_hand.value) is type(truth) and close(by_hand.logits, truth.logits)
    assert close(built, bare.through.head(y * 2) + mx.tanh(y)) and close(applied, y * 2)
    assert close(part, mx.tanh(y))


@each_kind
def test_through_a_file_a_pass_and_an_edited_model(kind, tmp_path):
    model, bare = both(kind)
    with model.trace(X) as t:
        model.inner.output.logits *= 0
        model.inner.output.hidden[1][:, 0] = 1
        model.output.logits += 1
        whole = model.output.save("whole")
    t.graph.save(tmp_path / "objects.mlxg")
    graph = mg.Graph.load(tmp_path / "objects.mlxg")
    assert graph == t.graph
    fast = model.compile(graph)
    for run in (fast, fast, lambda x: model.run(graph, x)):
        found = run(X).saves["whole"]
        assert type(found) is type(whole.value) and close(found.logits, whole.logits)
    edited = model.edit(graph.replace(saves=()))
    for _ in range(3):
        found = edited(X)
        assert type(found) is type(whole.value) and close(found.logits, whole.logits)
    with edited.trace(X):
        nested = edited.output.logits.save()
    assert close(nested, whole.logits) and not close(bare(X).logits, whole.logits)


@each_kind
def test_prompts_in_one_batch(kind):
    model, bare = both(kind)
    with model.trace() as t:
        with t.invoke(X[:1]):
            clean = model.inner.output.logits
            first = model.output.save()
        with t.invoke(X[1:]):
            model.inner.output.logits = clean * 2
            second = model.output.save()
    y = bare.inner.proj(X)
    assert close(first.logits, bare(X[:1]).logits)
    assert close(second.logits, bare.through.head(y[:1] * 2) + mx.tanh(y[1:]))


@each_kind
def test_gradients_and_interventions(kind):
    model, bare = both(kind)
    with model.trace(X) as t:
        loss = model.output.logits.sum()
        part = t.grad(loss, model.inner.output.logits).save()
        whole = t.grad(loss, model.inner.output).save()
    expected = mx.grad(lambda y: bare.through.head(y).sum())(bare.inner.proj(X))
    assert close(part, expected) and close(whole.logits, expected)
    with model.trace(X, interventions={"inner": lambda h: h * 0}):
        out = model.output.logits.save()
    truth = bare.through.head(mx.zeros_like(X)) + mx.tanh(bare.inner.proj(X))
    assert close(out, truth)
    assert close(model.edit(mg.edit("inner", lambda h: h * 0))(X).logits, truth)
    read = model.run(mg.read("inner", name="h"), X).saves["h"]
    assert close(read.logits, bare.inner.proj(X))


@each_kind
def test_as_an_input(kind):
    model = models.made(object_models.Through(kind, 6))
    value = kind(None, X, [X * 2, X + 1])
    truth = model.module(value)
    for _ in range(3):
        with model.trace(value):
            given = model.input.logits.save()
            model.input.logits[:, 0] = 0
            out = model.output.logits.save()
        cut = mx.array(X)
        cut[:, 0] = 0
        assert close(given, X) and close(value.logits, X)
        assert close(out, model.module.head(cut) + X + 1)
        assert close(model(value).logits, truth.logits)


def test_what_the_class_has_beside_its_entries_works_on_handles():
    model, bare = both(outputs.Output)
    with model.trace(X):
        last = model.output.last.save()
        logits, hidden = model.output.to_tuple()
        logits[:, -1] = 0
        cut = model.output.last.save()
    with model.trace(X):
        model.inner.output.last[:] = 0
        written = model.inner.output.logits.save()
    assert close(last, bare(X).logits[:, -1]) and not cut.any() and not written[:, -1].any()
    model, bare = both(outputs.Plain)
    assert close(bare(X).last, bare(X).logits[:, -1])
    with model.trace(X):
        model.output.logits *= 2
        whole = model.output.save()
    assert close(whole.last, 2 * bare(X).logits[:, -1])


def test_entries_that_are_called_like_methods_of_handles():
    model = models.made(Keyed())
    with model.trace(X):
        model.output.keys[:, 0] = 0
        keys, values, value = model.output.keys.save(), model.output.values, model.output.value
        values, value = values.save(), value.save()
        whole = model.output.save()
    assert not keys[:, 0].any() and close(values, X + 1) and close(value, X + 2)
    assert not whole.keys[:, 0].any() and close(whole.value, X + 2)


class Keyed(nn.Module):
    def __call__(self, x):
        return SimpleNamespace(keys=x, values=x + 1, value=x + 2, items=x + 3)


def test_a_misspelt_attribute_says_what_there_is():
    model, _ = both(outputs.Output)
    with model.trace(X):
        with pytest.raises(UnknownEntryError, match="'logit'") as caught:
            model.output.logit  # noqa: B018
        assert "test_objects.py" in str(caught.value)
        assert "Did you mean 'logits'" in str(caught.value)
        with pytest.raises(AttributeError, match="loss, logits, hidden"):
            model.output.nothing = 1
        for use in (lambda o: o[0], len, list):
            with pytest.raises(TypeError, match="cannot be"):
                use(model.output)
        assert "logits=(2, 4, 6)" in repr(model.output) and "logits" in dir(model.output)
    model = models.made(models.Pair(6))
    with model.trace(X, X):
        with pytest.raises(AttributeError, match=r"`\[0\].shape`"):
            model.output.shape  # noqa: B018
        assert isinstance(model.output, tuple)


def test_copies_and_pickles_are_the_objects_own():
    model, bare = both(outputs.Output)
    with model.trace(X):
        whole = model.output.save()
        other = copy.copy(model.output)
        other.logits[:] = 0
        untouched = model.output.logits.save()
        with pytest.raises(RuntimeError):
            pickle.dumps(model.output)
    assert close(untouched, bare(X).logits)
    assert type(copy.deepcopy(whole)) is outputs.Output
    back = pickle.loads(pickle.dumps(whole))
    assert type(back) is outputs.Output and close(back.logits, bare(X).logits)


def test_a_dict_is_written_by_key_and_not_by_order():
    model = models.made(models.Named(6))
    with model.trace(X):
        before = model.output
        model.output = {"difference": before["sum"], "sum": before["difference"]}
        total = model.output["sum"].save()
    assert close(total, model.module(X)["difference"])


def test_what_keeps_state_stays_what_it_is():
    llama = models.make_llama()
    model = mg.InterpretableModel(object_models.Assistant(llama))
    tokens = mx.array([[1, 2, 3, 4]])
    alone = llama(tokens)
    cache = make_prompt_cache(llama)
    with model.trace(tokens, cache=cache):
        model.language_model.inputs[0][0][:, 0] = 1
        logits = model.output.logits.save()
    mx.eval(logits)
    assert close(logits, alone) and [one.offset for one in cache] == [4] * len(cache)


def test_another_argument_is_not_copied_where_one_is_written():
    model = models.made(Noting())
    with model.trace(X):
        model.step.inputs[0][0][:] = 0
        out = model.output.save()
    assert close(out, X * 0 + X * 0 + 1)


class Noting(nn.Module):
    """A module that leaves something in what it is given."""

    def __init__(self):
        super().__init__()
        self.step = NotingStep()

    def __call__(self, x):
        notes = SimpleNamespace(seen=x)
        y = self.step(x, notes)
        return y + notes.seen


class NotingStep(nn.Module):
    def __call__(self, x, notes):
        notes.seen = x + 1
        return x


def test_a_language_model_that_returns_an_object():
    llama = models.make_llama()
    plain, model = (
        mg.InterpretableModel(llama),
        mg.InterpretableModel(object_models.Assistant(llama)),
    )
    clean, corrupted = mx.array([[1, 2, 3, 4]]), mx.array([[1, 2, 5, 4]])
    ours, theirs = (m.activation_patching(clean, corrupted, layers=[0, 2]) for m in (model, plain))
    assert ours == pytest.approx(theirs, rel=1e-4)
    ours, theirs = model.logit_lens(clean), plain.logit_lens(clean)
    assert str(ours) == str(theirs)
    kept = mg.collect_activations(model, clean)
    assert close(kept["__model_output__"].logits, llama(clean))
    row = mg.get_activations(model, clean, layers=[1])["layer_1"]
    assert close(row, mg.get_activations(plain, clean, layers=[1])["layer_1"])
    with model.trace([[1, 2, 3], [4, 5, 6, 7]]):  # padded, masked
        short = model.output.logits[0, -1].save()
    assert close(short, llama(mx.array([[1, 2, 3]]))[0, -1])


def test_dataclasses_know_a_recorded_one():
    model, bare = both(outputs.Output)
    with model.trace(X):
        h = model.inner.output
        assert dataclasses.is_dataclass(h) and len(dataclasses.fields(h)) == 3
        model.inner.output = dataclasses.replace(h, logits=h.logits * 0)
        out = model.output.save()
    silent = bare.inner(X)
    silent.logits = mx.zeros_like(silent.logits)
    assert close(out.logits, bare.through(silent).logits)
    assert not close(out.logits, bare(X).logits)


def test_a_tuple_of_a_class_of_its_own_keeps_what_it_carries():
    class Tagged(tuple):
        pass

    class Gives(nn.Module):
        def __call__(self, x):
            pair = Tagged((x, x + 1))
            pair.tag = "sum"
            return pair

    class Takes(nn.Module):
        def __call__(self, pair):
            return pair[0] + pair[1] if pair.tag == "sum" else None

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.gives, self.takes = Gives(), Takes()

        def __call__(self, x):
            return self.takes(self.gives(x))

    model = mg.InterpretableModel(Model())
    for compile in COMPILE:
        with model.trace(X, compile=compile):
            model.gives.output[0][:] = 0
            pair, out = model.gives.output.save(), model.output.save()
        assert pair.value.tag == "sum" and type(pair.value) is Tagged
        assert close(out, X + 1)


def test_a_dict_whose_entries_are_looked_up_as_attributes():
    class Attributes(dict):
        __getattr__ = dict.__getitem__

    class Model(nn.Module):
        def __call__(self, x):
            return Attributes(logits=x, more=x * 2)

    model = mg.InterpretableModel(Model())
    for compile in COMPILE:
        with model.trace(X, compile=compile):
            model.output.logits[:, 0] = 0
            logits, more = model.output.logits.save(), model.output["more"].save()
            whole = model.output.save()
        assert not logits[:, 0].any() and logits[:, 1].any() and close(more, X * 2)
        assert type(whole.value) is Attributes and close(whole.value.logits, logits)


class Cachelike:
    """State, not a value: a method of it changes it."""

    def __init__(self, logits):
        self.logits, self.steps = logits, 0

    def update(self, logits):
        self.logits = logits
        self.steps += 1


class Circle:
    def __init__(self, logits):
        self.logits, self.me = logits, self


class WithMore(list):
    def __init__(self, items, extra):
        super().__init__(items)
        self.extra = extra


class Gives(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.inner = nn.Linear(6, 6)
        object.__setattr__(self, "kind", kind)

    def __call__(self, x):
        return self.kind(self.inner(x))


@pytest.mark.parametrize("kind", [Cachelike, Circle])
def test_what_cannot_be_taken_apart_is_refused_where_it_is_read(kind):
    model = models.made(Gives(kind))
    uses = [
        lambda: model.output.logits,
        lambda: model.output.save(),
        lambda: setattr(model.output, "logits", X),
    ]
    for use in uses:
        with pytest.raises(
            OperationError, match=rf"__model_output__, a {kind.__name__}.*\n.*\n.*py"
        ):
            with model.trace(X):
                use()
    with model.trace(X):
        model.inner.output *= 2
        inner = model.inner.output.save()
    assert close(inner, model.module.inner(X) * 2)


def test_arrays_that_a_compiled_run_cannot_reach_keep_a_run_eager():
    double = mg.edit("inner", lambda h: h * 2)
    model = models.made(Gives(Cachelike))
    edited = model.edit(double)
    for _ in range(3):
        found = edited(X)
        assert type(found) is Cachelike and close(found.logits, model.module.inner(X) * 2)
    with pytest.raises(CompileError, match="a Cachelike"):
        model.run(double, X, compile=True)
    model = models.made(Gives(lambda x: WithMore([x], x * 2)))
    for compile in (False, "auto", "auto", "auto"):
        with model.trace(X, compile=compile):
            whole = model.output.save()
        assert close(whole.value.extra, model.module.inner(X) * 2)
