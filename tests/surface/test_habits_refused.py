"""What people write by habit, and what is no input, mode or function: refused on their own line,
with what to write instead."""

from __future__ import annotations

import itertools
import traceback

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import (
    CompileError,
    InputError,
    InterventionError,
    InterventionFailedError,
    KeywordError,
    MLXGraphError,
    ModelLoadError,
    UnknownSiteError,
)


def traced(model, *inputs, **kwargs):
    with model.trace(*inputs, **kwargs):
        return model.output.save()


NO_INPUTS = {
    "a number": (5, r"trace\(\[5\]\)"),
    "numpy's number": (np.int64(5), r"trace\(\[5\]\)"),
    "an array without axes": (mx.array(5), r"trace\(\[5\]\)"),
    "texts in lists": ([["a"], ["b"]], "texts, token ids"),
    "a fraction": (2.5, "token ids"),
    "a flag": (True, "token ids"),
    "nothing": (None, "token ids"),
    "a set": ({1, 2}, "token ids"),
    "bytes": (b"text", "text"),
}


@pytest.mark.parametrize("name", NO_INPUTS)
def test_what_no_model_takes_is_refused(tiny, name):
    given, said = NO_INPUTS[name]
    for call in (
        lambda: traced(tiny, given),
        lambda: tiny.run(mg.Graph(), given),
        lambda: tiny.compile(mg.Graph())(given),
    ):
        with pytest.raises(InputError, match=said):
            call()


@pytest.mark.parametrize(
    "given", [(k for k in [1, 2]), iter([1, 2]), map(int, "12"), itertools.count()]
)
def test_what_can_be_read_once_only_is_refused(tiny, given):
    with pytest.raises(InputError, match=r"list\("):
        traced(tiny, given)


FAILING_INPUTS = {
    "an empty dict": ({}, "text"),
    "a dict": ({"a": 1}, "text"),
    "an object": (object(), "a object"),
    "a range": (range(5), "a range"),
    "a function": (lambda: 1, "the function"),
    "a slice": (slice(3), "a slice"),
    "numpy's, without axes": (np.array(5), r"trace\(\[5\]\)"),
    "fractions": (mx.array([1.5, 2.0]), r"\(2,\) float32"),
    "numpy's fractions": (np.array([[1.5, 2.0]]), "float"),
    "too many axes": (mx.zeros((1, 2, 3, 4)), r"\(1, 2, 3, 4\)"),
    "a flag in an array": (mx.array([True]), "bool"),
}


@pytest.mark.parametrize("name", FAILING_INPUTS)
def test_what_this_model_fails_on_is_a_mistake_in_what_it_was_given(tiny, name):
    given, said = FAILING_INPUTS[name]
    for call in (
        lambda: traced(tiny, given),
        lambda: tiny.run(mg.read("layers.1"), given),
        lambda: tiny(given),
        lambda: tiny.explain(mg.read("layers.1"), given),
        lambda: tiny.edit(mg.edit("layers.1", iv.zero_out))(given),
    ):
        with pytest.raises(InputError, match=said) as caught:
            call()
        last = traceback.extract_tb(caught.tb)[-1]
        assert last.filename == __file__


def test_no_input_at_all_and_a_text_by_its_name(tiny):
    for call in (
        lambda: tiny(),
        lambda: tiny.run(mg.read("layers.1")),
        lambda: tiny.explain(mg.read("layers.1")),
    ):
        with pytest.raises(InputError, match="no input"):
            call()
    for text in ("a text", ["a", "b"]):
        with pytest.raises(InputError, match=r"inputs= .*\n.*trace\(text\)"):
            traced(tiny, inputs=text)
    with pytest.raises(InputError, match=r"trace\(\[a, b\]\)"):
        tiny("a", "b")


class Taking(nn.Module):
    """A model that takes whatever it is given."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def __call__(self, given=None):
        if given == "fail":
            raise LookupError("mine")
        return self.inner(mx.ones((1, 2)))


def test_a_model_that_takes_them_is_given_them():
    model = mg.InterpretableModel(Taking())
    for given in (object(), range(3), {"a": 1}, slice(3)):
        with model.trace(given):
            out = model.inner.output.save()
        assert out.shape == (1, 2)
    assert model().shape == (1, 2)


def test_what_a_model_says_of_fitting_inputs_is_left_alone(tiny):
    class Failing(nn.Module):
        def __call__(self, x):
            raise LookupError("mine")

    model = mg.InterpretableModel(Failing())
    for given in (mx.ones((1, 2)), [1, 2]):
        with pytest.raises(LookupError, match="mine"):
            traced(model, given)


def test_several_texts_are_a_list(tiny):
    with pytest.raises(InputError, match=r"trace\(\[a, b\]\)"):
        tiny.trace("one text", "another text")


@pytest.mark.parametrize("given", [[("layers.1", iv.zero_out)], iv.zero_out, "layers.1"])
def test_interventions_that_are_no_dict(tiny, given):
    with pytest.raises(InterventionError, match="by name"):
        traced(tiny, [1, 2], interventions=given)


@pytest.mark.parametrize("mode", ["always", "never", "", None, 1.5, ["auto"]])
def test_a_way_to_compile_that_there_is_not(tiny, mode):
    for call in (
        lambda: tiny.trace([1, 2], compile=mode),
        lambda: tiny.trace(compile=mode),
        lambda: tiny.run(mg.Graph(), [1, 2], compile=mode),
        lambda: tiny.pass_(lambda m: m.output, compile=mode),
    ):
        with pytest.raises(CompileError, match="compile='auto'") as caught:
            call()
        assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("keyword", "said"),
    [
        ("scan", "h.shape"),
        ("validate", "h.shape"),
        ("remote", "Leave it out"),
        ("trace", r"model\(x\)"),
        ("attention_mask", "encoding"),
        ("fwd_hooks", "interventions="),
        ("chache", "Did you mean 'cache'"),
        ("zzz", "It takes: .*cache"),
    ],
)
def test_a_keyword_that_the_forward_does_not_take(tiny, keyword, said):
    for call in (
        lambda: tiny.trace([1, 2], **{keyword: False}),
        lambda: tiny.run(mg.Graph(), [1, 2], **{keyword: False}),
    ):
        with pytest.raises(KeywordError, match=said) as caught:
            call()
        assert f"{keyword}=" in str(caught.value)
        assert isinstance(caught.value, TypeError)


def test_a_misspelt_param_is_found_among_the_keywords(tiny):
    with tiny.trace([1, 2]) as t:
        tiny.layers[0].output *= mg.param("alpha")
    with pytest.raises(KeywordError, match="Did you mean 'alpha'"):
        tiny.run(t.graph, [1, 2], alhpa=2.0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lm_head", "model.output"),
        ("to_single_token", "model.single_token"),
        ("blocks", r"model.layers\[k\]"),
        ("to_tokens", "model.encode"),
        ("add_hook", "interventions="),
        ("W_E", r"model.weight\("),
    ],
)
def test_a_name_from_another_library_is_answered(tied, name, said):
    with pytest.raises(UnknownSiteError, match=said):
        getattr(tied, name)
    with pytest.raises(UnknownSiteError, match=said):
        tied[name]


def test_the_result_of_a_trace_is_its_output(tiny):
    with tiny.trace([1, 2]) as t:
        pass
    with pytest.raises(AttributeError, match="t.output"):
        t.result  # noqa: B018


@pytest.mark.parametrize("given", [5, None, "zero", mx.zeros((2,)), [iv.zero_out]])
def test_an_intervention_that_is_no_function(tiny, given):
    edits = {"layers.1": given, "layers.2": iv.zero_out}
    calls = [
        lambda: traced(tiny, [1, 2], interventions=edits),
        lambda: traced(tiny, [1, 2], edits),
        lambda: mg.edit("layers.1", given),
    ]
    for call in calls:
        with pytest.raises(InterventionError, match="function") as caught:
            call()
        assert isinstance(caught.value, (TypeError, ValueError))
    with pytest.raises(InterventionError, match="layers.1.output"):
        calls[0]()


MAKERS = {"scale": iv.scale, "add_vector": iv.add_vector, "replace_with": iv.replace_with,
          "clamp": iv.clamp, "noise": iv.noise, "compose": iv.compose}  # fmt: skip


def in_each_form(model, function):
    """An intervention in every form in which one is given."""

    def invoked():
        with model.trace() as t, t.invoke([1, 2], interventions={"layers.1": function}):
            model.output.save()

    return [
        lambda: traced(model, [1, 2], interventions={"layers.1": function}),
        lambda: model.run(mg.edit("layers.1", function), [1, 2]),
        lambda: model.edit(mg.edit("layers.*", function, positions=-1))([1, 2]),
        invoked,
    ]


@pytest.mark.parametrize("name", MAKERS)
def test_what_makes_interventions_is_to_be_called(tiny, name):
    for call in in_each_form(tiny, MAKERS[name]):
        with pytest.raises(InterventionError, match=rf"makes.*\n  Write iv.{name}\("):
            call()


def test_a_composition_is_to_be_built(tiny):
    for call in in_each_form(tiny, iv.compose().add(iv.scale(0.5))):
        with pytest.raises(InterventionError, match=r"\.build\(\)"):
            call()


def in_place(h):
    h[:] = 0


def in_place_by_value(h):
    np.array(h)
    h *= 2


def own_maker(factor):
    return lambda h: h * factor


@pytest.mark.parametrize("function", [in_place, in_place_by_value, lambda h: None])
def test_a_function_that_returns_nothing_is_told_to(tiny, function):
    for call in in_each_form(tiny, function):
        with pytest.raises(InterventionError, match="returned nothing.*\n.*return h"):
            call()


def test_a_function_of_the_users_that_makes_one_is_to_be_called(tiny):
    for call in in_each_form(tiny, own_maker):
        with pytest.raises(InterventionError, match=r"own_maker\(\.\.\.\)"):
            call()


def divide(x):
    return 1 / 0


def miss(x):
    return {}["gone"]


def misuse(x):
    return x.no_such_method()


def look_and_divide(x):
    return mx.array(np.array(x)) * (1 / 0)


def look_and_miss(x):
    return mx.array(np.array(x)) * {}["gone"]


FAILING = [divide, miss, misuse, look_and_divide, look_and_miss]


@pytest.mark.parametrize("function", FAILING)
@pytest.mark.parametrize("form", ["dict", "edit", "invoke", "positions"])
def test_an_intervention_that_fails_names_the_site_and_keeps_the_cause(tiny, function, form):
    def invoked():
        with tiny.trace() as t, t.invoke([1, 2], interventions={"layers.1.mlp": function}):
            tiny.output.save()

    calls = {
        "dict": lambda: traced(tiny, [1, 2], interventions={"layers.1.mlp": function}),
        "edit": lambda: tiny.run(mg.edit("layers.*.mlp", function), [1, 2]),
        "positions": lambda: tiny.run(mg.edit("layers.1.mlp", function, positions=-1), [1, 2]),
        "invoke": invoked,
    }
    with pytest.raises(InterventionFailedError, match=function.__name__) as caught:
        calls[form]()
    assert "mlp.output" in str(caught.value)
    kinds = {"miss": KeyError, "look_and_miss": KeyError, "misuse": AttributeError}
    kind = kinds.get(function.__name__, ZeroDivisionError)
    assert isinstance(caught.value.__cause__, kind)
    assert isinstance(caught.value, kind), "whoever catches the function's own error still does"
    assert traced(tiny, [1, 2]).shape == (1, 2, 1014), "and nothing is left behind"


class Custom(Exception):  # noqa: N818
    def __init__(self, code, reason):
        super().__init__(f"{code}: {reason}")


@pytest.mark.parametrize(
    "error", [Custom(5, "why"), OSError(2, "gone"), UnicodeDecodeError("utf8", b"", 0, 1, "bad")]
)
def test_whatever_an_intervention_raises_is_named(tiny, error):
    def fail(x):
        raise error

    with pytest.raises(InterventionFailedError, match="layers.1.output") as caught:
        traced(tiny, [1, 2], interventions={"layers.1": fail})
    assert caught.value.__cause__ is error and isinstance(caught.value, type(error))
    assert str(error) in str(caught.value)


def fails_on_values(x):
    """Fine on the zeros that it is tried on, and not in the run."""
    if np.abs(np.array(x)).max() > 0:
        raise LookupError("no such thing")
    return x


def test_a_function_that_fails_in_the_run_names_its_site(tiny):
    graph = mg.edit("layers.1", fails_on_values)
    with pytest.raises(LookupError, match="no such thing") as caught:
        mx.eval(tiny.run(graph, [1, 2]).output)
    assert "fails_on_values(model.layers.1.output)" in "".join(caught.value.__notes__)


def test_an_error_of_ours_in_an_intervention_stays_what_it_is(tiny):
    with pytest.raises(mg.errors.ShapeError, match="layers.1.output"):
        traced(tiny, [1, 2], interventions={"layers.1": iv.add_vector(mx.ones((7,)))})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/no/such/folder", "no such folder"),
        ("./here", "no such folder"),
        ("~/models/nothing", "no such folder"),
        ("a/b/c", "no such folder"),
        ("models/", "no such folder"),
        ("", "no such folder"),
        ("with space", "no such folder"),
    ],
)
def test_a_path_that_does_not_exist_says_so(name, said):
    with pytest.raises(ModelLoadError, match=said) as caught:
        mg.InterpretableModel(name)
    assert "repo" not in str(caught.value).lower()
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_folder_without_a_model_and_a_file_say_so(tmp_path):
    with pytest.raises(ModelLoadError, match="config.json"):
        mg.InterpretableModel(tmp_path)
    file = tmp_path / "weights.safetensors"
    file.touch()
    with pytest.raises(ModelLoadError, match="a file"):
        mg.InterpretableModel(file)


def test_all_of_these_are_errors_of_ours(tiny):
    for given in (5, None):
        with pytest.raises(MLXGraphError):
            tiny.trace(given)


@pytest.mark.parametrize(("given", "meant"), [("strat", "start"), ("compiled", "compile")])
def test_a_misspelt_option_of_a_trace_is_suggested(tiny, given, meant):
    with pytest.raises(KeywordError, match=f"Did you mean '{meant}'"):
        tiny.trace("a", **{given: True})
