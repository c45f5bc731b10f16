"""What has no meaning in a generation says so on the user's line, and what there is, is kept."""

from __future__ import annotations

import traceback
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import (
    BoundsError,
    InputError,
    LookError,
    MLXGraphError,
    NeverCalledError,
    NoStepError,
    NoTokenizerError,
    OperationError,
    OptionError,
    PartOfTextError,
    UnboundParamError,
    UnknownSiteError,
    VocabularyError,
)
from tests import models

PROMPT = [7, 21, 3, 18, 40, 5, 33]
LENGTH = len(PROMPT)
TEXT = "The capital of France is"


@pytest.fixture(scope="module")
def model() -> mg.InterpretableModel:
    return mg.InterpretableModel(models.make_llama())


@pytest.fixture(scope="module")
def tiny() -> mg.InterpretableModel:
    return mg.tiny()


def over_all(m: Any, t: Any) -> None:
    h = m.layers[1].output
    h -= h.mean(axis=1, keepdims=True)


def summed_up(m: Any, t: Any) -> None:
    m.layers[1].output = mx.cumsum(m.layers[1].output, axis=1)


def flipped(m: Any, t: Any) -> None:
    h = m.layers[1].output
    m.layers[1].output = h[:, ::-1]


def attention_by_hand(m: Any, t: Any) -> None:
    h = m.layers[1].output
    m.layers[1].output = m.layers[1].self_attn(h)


def from_later(m: Any, t: Any) -> None:
    m.layers[1].output[:, 2] = m.layers[0].output[:, LENGTH - 1]


def from_before(m: Any, t: Any) -> None:
    m.layers[1].output[:, -1] = m.layers[0].output[:, -2]


def a_gradient(m: Any, t: Any) -> None:
    t.grad(m.output.sum(), m.layers[0].output).save()


def a_function(m: Any, t: Any) -> None:
    h = m.layers[1].output
    m.layers[1].output = mg.apply(lambda x: x * 2.0, h)


def by_value(m: Any, t: Any) -> None:
    h = m.layers[1].output
    m.layers[1].output[:, mx.argmax(h[0, 2:3, 0])] = 0.0


MEANINGLESS = [over_all, summed_up, flipped, attention_by_hand, from_later, from_before,
               a_gradient, a_function, by_value]  # fmt: skip


@pytest.mark.parametrize("edit", MEANINGLESS, ids=lambda edit: edit.__name__)
def test_an_operation_without_a_meaning_names_the_users_line(model, edit):
    with pytest.raises(PartOfTextError) as raised:
        with model.generate(PROMPT, max_tokens=3) as t:
            edit(model, t)
    assert "test_refused.py" in str(raised.value)
    last = traceback.extract_tb(raised.value.__traceback__)[-1]
    assert last.filename == __file__
    assert t.tokens == []


def test_a_value_that_a_module_has_not_begins_with_its_path_as_it_is(model):
    with pytest.raises(UnknownSiteError, match=r"\n  model\.layers\.1\.mlp computes no attention"):
        with model.generate(PROMPT, max_tokens=3):
            model.layers[1].mlp.pattern[..., 0] = 0.0


def test_a_function_that_nobody_can_look_into_is_said_to_be_one(model):
    with pytest.raises(PartOfTextError, match="cannot look into"):
        with model.generate(PROMPT, max_tokens=3) as t:
            a_function(model, t)
    with model.generate(PROMPT, max_tokens=3) as t:
        h = model.layers[1].output
        h[:, -1] = mg.apply(lambda x: x * 2.0, h[:, -1])
    with model.generate(PROMPT, max_tokens=3) as other:
        model.layers[1].output[:, -1] *= 2.0
    assert t.tokens == other.tokens


def test_what_a_forward_finds_out_ends_at_the_users_line_too(model):
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model.module)
    model.module(mx.array([PROMPT[:4]]), cache=cache)
    with pytest.raises(PartOfTextError, match="prompt cache") as raised:
        with model.generate(PROMPT[4:], max_tokens=3, prompt_cache=cache):
            model.layers[1].output[:, -1] += model.layers[0].output[:, 2]
    assert traceback.extract_tb(raised.value.__traceback__)[-1].filename == __file__


def test_a_write_at_tokens_that_the_prompt_cache_holds_is_refused(model):
    """It would change nothing; a graph, which may have edited them when it was filled, runs."""
    from mlx_lm.models.cache import make_prompt_cache

    def tokens(write=None, **options):
        cache = make_prompt_cache(model.module)
        model.module(mx.array([PROMPT[:4]]), cache=cache)
        with model.generate(PROMPT[4:], max_tokens=3, prompt_cache=cache, **options) as t:
            if write is not None:
                write(model.layers[1])
        return t.tokens

    def put(index, value=lambda layer: layer.output):
        return lambda layer: value(layer).__setitem__(index, 0.0)

    every = slice(None)
    for write in (
        put((every, 1)),
        put((every, [0, 5])),
        put((every, slice(1, 4))),
        put((every, 1), lambda layer: layer.resid_mid),
        put((every, every, 3), lambda layer: layer.attn.heads),
    ):
        with pytest.raises(PartOfTextError, match="holds the first 4 tokens") as raised:
            tokens(write)
        assert traceback.extract_tb(raised.value.__traceback__)[-1].filename == __file__
    before = mg.edit("layers.1", lambda h: 0 * h, positions=1)
    assert tokens() == tokens(graph=before)
    for write in (  # positive controls: tokens to come, and keys, which the forward is given again
        put((every, 4)),
        put((every, slice(2, None))),
        put((every, every, 1), lambda layer: layer.attn.values),
        put((every, 5), lambda layer: layer.resid_mid),
    ):
        assert len(tokens(write, graph=before)) == 3


@pytest.mark.parametrize("steps", [9, slice(9, None), (1, 9)], ids=str)
def test_a_step_that_cannot_come_is_refused_where_it_is_written(model, steps):
    with pytest.raises(NoStepError, match="never comes"):
        with model.generate(PROMPT, max_tokens=4) as t:
            with t.step[steps]:
                model.layers[1].output *= 0.0


@pytest.mark.parametrize("steps", [-1, slice(-2, None), "last", 1.5, slice(0, 3, -1)], ids=str)
def test_what_is_no_step_is_refused(model, steps):
    with pytest.raises((NoStepError, InputError)):
        with model.generate(PROMPT, max_tokens=4) as t:
            with t.step[steps]:
                pass


def test_steps_are_no_loop(model):
    with pytest.raises(InputError, match="with t.iter") as raised:
        with model.generate(PROMPT, max_tokens=4) as t:
            for _ in t.iter[:]:
                model.layers[1].output *= 0.0
    assert traceback.extract_tb(raised.value.__traceback__)[-1].filename == __file__


def test_a_step_that_did_not_come_is_said_and_what_was_generated_is_kept(tiny):
    with pytest.raises(NoStepError, match="never came"):
        with tiny.generate(TEXT, max_tokens=30) as t:
            h = tiny.layers[1].output.save()
            with t.step[20]:
                tiny.layers[1].output *= 0.0
    assert t.tokens == tiny.generate(TEXT, max_tokens=30).tokens
    assert len(h) == len(t.tokens) < 20
    with tiny.generate(TEXT, max_tokens=30) as t:
        with t.step[20:]:
            tiny.layers[1].output *= 0.0
    assert len(t.tokens) < 20


def test_a_value_of_a_step_that_has_none_is_refused(model):
    with model.generate(PROMPT, max_tokens=3) as t:
        with t.step[1:]:
            h = model.layers[1].output.save()
    with pytest.raises(NoStepError, match="steps 1 to 2"):
        h[0]
    with pytest.raises(IndexError):
        h[3]
    for use in (lambda: h + 1, lambda: h.shape, lambda: h.mean(), lambda: h[:, -1], lambda: 2 * h):
        with pytest.raises(OperationError, match="value a step"):
            use()


def test_an_edited_value_is_not_used_beside_its_steps(model):
    with pytest.raises(InputError, match="outside of it"):
        with model.generate(PROMPT, max_tokens=3) as t:
            h = model.layers[1].output
            with t.step[1:]:
                h *= 0.0
            model.layers[2].output += h


@pytest.mark.parametrize("position", [LENGTH + 3, -LENGTH - 4])
def test_a_position_that_the_text_never_has_is_out_of_bounds(model, position):
    with pytest.raises(BoundsError):
        with model.generate(PROMPT, max_tokens=3):
            model.layers[1].output[:, position] = 0.0


@pytest.mark.parametrize(
    "option, said",
    [("max_new_tokens", "max_tokens="), ("temp", "make_sampler"),
     ("prefil_step_size", "prefill_step"),
     ("draft_model", "Leave it out"), ("verbose", "t.stream()"), ("nonsense", "It takes")],
)  # fmt: skip
def test_an_option_that_mlx_lm_does_not_know_is_refused(model, option, said):
    with pytest.raises(OptionError, match=option) as raised:
        model.generate(PROMPT, **{option: 3})
    assert said in str(raised.value)
    assert isinstance(raised.value, TypeError)


def test_what_is_wrong_with_a_graph_is_said_where_the_tokens_are_asked_for(model):
    t = model.generate(PROMPT, max_tokens=2, graph=mg.edit("layers.1.mpl", iv.zero_out))
    with pytest.raises(UnknownSiteError, match="mpl"):
        list(t.tokens)
    with pytest.raises(UnknownSiteError, match="mpl"):
        list(model.generate(PROMPT, interventions={"layers.1.mpl": iv.zero_out}).stream())


def test_what_was_not_saved_is_not_there(model):
    with model.generate(PROMPT, max_tokens=2) as t:
        h = model.layers[1].output.save()
        t.log("tokens", h)
    assert t.lengths == [LENGTH]
    for look in (lambda: t.output, lambda: t.get("layers.2"), lambda: t.activations["layers.2"]):
        with pytest.raises(LookError, match="Save it"):
            look()
    with pytest.raises(InputError, match="has run"):
        t.__enter__()


@pytest.mark.parametrize("most", [0, -2, 2.5, True, "3"])
def test_what_is_no_number_of_tokens_is_refused(model, most):
    with pytest.raises(InputError, match="max_tokens"):
        model.generate(PROMPT, max_tokens=most)


def test_prompts_that_are_none_are_refused(model):
    with pytest.raises(NoTokenizerError):
        model.generate(TEXT)
    with pytest.raises(NoTokenizerError):
        print(model.generate(PROMPT, max_tokens=2).text)
    with pytest.raises(VocabularyError):
        list(model.generate([7, 5000], max_tokens=2).stream())
    with pytest.raises(InputError):
        model.generate([], max_tokens=2)
    with pytest.raises(InputError):
        model.generate(mx.zeros((2, 3, 4)), max_tokens=2)
    with pytest.raises(InputError, match="stop"):
        model.generate(PROMPT, stop=[3])


def test_looks_and_holes_are_refused(model):
    with pytest.raises(LookError):
        with model.generate(PROMPT, max_tokens=2):
            float(model.layers[1].output.max())
    with pytest.raises(UnboundParamError):
        with model.generate(PROMPT, max_tokens=2):
            model.layers[1].output *= mg.param("alpha")
    with pytest.raises(MLXGraphError):
        with model.generate(PROMPT, max_tokens=2) as t:
            list(t.stream())
            model.layers[1].output *= 2.0


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_was_generated_until_an_error_is_kept(model, error):
    def fail(tokens: mx.array, logits: mx.array) -> mx.array:
        if tokens.shape[0] > LENGTH + 2:
            raise error
        return logits

    whole = model.generate(PROMPT, max_tokens=8).tokens
    with pytest.raises(error):
        with model.generate(PROMPT, max_tokens=8, logits_processors=[fail]) as t:
            h = model.layers[1].output.save()
    assert 1 < len(t.tokens) < 8 and t.tokens == whole[: len(t.tokens)]
    assert len(h) == len(t.tokens)
    assert model.generate(PROMPT, max_tokens=8).tokens == whole


def test_an_error_while_tokens_stream_keeps_what_came(model):
    with pytest.raises(ZeroDivisionError):
        with model.generate(PROMPT, max_tokens=8) as t:
            h = model.layers[1].output.save()
            for token in t.stream():
                if len(t.tokens) == 3:
                    token / 0  # noqa: B018
    assert len(h) == len(t.tokens) == 3


def test_an_error_in_the_block_runs_nothing(model):
    with pytest.raises(ZeroDivisionError):
        with model.generate(PROMPT, max_tokens=8) as t:
            1 / 0  # noqa: B018
    assert t.tokens == []


class Forked(nn.Module):
    """A model that goes another way for one token at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(50, 8)
        self.many, self.one = nn.Linear(8, 8), nn.Linear(8, 8)
        self.layers: list[nn.Module] = []

    def __call__(self, x: mx.array, cache: Any = None) -> mx.array:
        h = self.embed_tokens(x)
        h = self.one(h) if x.shape[1] == 1 else self.many(h)
        return self.embed_tokens.as_linear(h)


def test_a_module_that_a_later_forward_does_not_call_is_named():
    module = Forked()
    mx.eval(module.parameters())
    model = mg.InterpretableModel(module)
    assert len(model.generate(PROMPT, max_tokens=3).tokens) == 3
    with pytest.raises(NeverCalledError, match="another way"):
        with model.generate(PROMPT, max_tokens=3):
            model.many.output *= 0.0
