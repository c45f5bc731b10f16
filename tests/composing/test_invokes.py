"""`t.invoke`: several prompts in one forward, each as if it ran alone."""

from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import (
    InputError,
    LookError,
    NeverCalledError,
    OrderError,
    OutsideTraceError,
    ShapeError,
    UnknownSiteError,
)
from tests import models
from tests.composing.helpers import FRANCE, GERMANY, ROME, apart, exact, plain
from tests.models import Mixed

TEXTS = [FRANCE, ROME, GERMANY]
tokens_1, tokens_2 = mx.array([[1, 7, 3, 9]]), mx.array([[5, 11, 2, 8]])


@pytest.mark.parametrize("compiled", [False, True, "auto"])
def test_each_invoke_equals_its_own_run(tied, compiled):
    inputs = [tokens_1, tokens_2, tokens_1 + 2]
    kept = []
    with tied.trace(compile=compiled) as t:
        for x in inputs:
            with t.invoke(x):
                kept.append((tied.layers[1].output.save(), tied.output.save()))
    for x, (h, out) in zip(inputs, kept, strict=True):
        with tied.trace(x, compile=compiled):
            own_h, own = tied.layers[1].output.save(), tied.output.save()
        tolerance = 0 if compiled is not True else 1e-5
        assert apart(h, own_h) <= tolerance and apart(out, own) <= tolerance
    assert apart(kept[0][1], kept[1][1]) > 1e-2


def test_a_patch_across_equals_two_passes(tied):
    """Law 15, exactly."""
    with tied.trace(compile=False) as t:
        with t.invoke(tokens_1):
            clean = tied.layers[1].output
        with t.invoke(tokens_2):
            tied.layers[1].output[:, -1] = clean[:, -1]
            out = tied.output.save()
    with tied.trace(tokens_1, compile=False):
        stored = tied.layers[1].output.save()
    with tied.trace(tokens_2, compile=False):
        tied.layers[1].output[:, -1] = stored[:, -1]
        want = tied.output.save()
    assert exact(out, want)
    assert apart(want, plain(tied, tokens_2)) > 1e-3


def test_a_patch_across_texts_of_different_lengths(tiny):
    with tiny.trace() as t:
        with t.invoke("The capital of Italy is"):
            clean = tiny.layers[3].output
            before = tiny.output[:, -1].save()
        with t.invoke("What is the city ? The capital of France is"):
            length = tiny.layers[3].output.shape[1]
            tiny.layers[3].output[:, -1] = clean[:, -1]
            after = tiny.output[:, -1].save()
    assert length == len(tiny.encode("What is the city ? The capital of France is"))
    italy = tiny.run(mg.read("layers.3", name="h"), "The capital of Italy is")["h"]
    with tiny.trace("What is the city ? The capital of France is"):
        tiny.layers[3].output[:, -1] = italy[:, -1]
        want = tiny.output[:, -1].save()
    assert apart(after, want) < 1e-4 and apart(before, after) > 1e-3
    assert t.lengths == [6, length] and t.tokens.shape == (2, length)


@pytest.mark.parametrize("compiled", [False, True])
def test_saves_have_the_shapes_of_their_own_prompt(tiny, compiled):
    with tiny.trace(compile=compiled) as t:
        for k, text in enumerate(TEXTS):
            with t.invoke(text):
                tiny.layers[2].output.save(f"h{k}")
                tiny.layers[2].self_attn.output[:, 0].save(f"first{k}")
                tiny.output.save(f"out{k}")
    for k, text in enumerate(TEXTS):
        with tiny.trace(text):
            h = tiny.layers[2].output.save()
            first = tiny.layers[2].self_attn.output[:, 0].save()
            out = tiny.output.save()
        assert apart(t.saved_values[f"h{k}"], h) < 1e-5
        assert apart(t.saved_values[f"first{k}"], first) < 1e-5
        assert apart(t.saved_values[f"out{k}"], out) < 1e-4


def test_several_texts_in_one_invoke_are_several_rows(tiny):
    with tiny.trace() as t:
        with t.invoke([FRANCE, GERMANY]):
            two = tiny.output.save()
        with t.invoke(ROME):
            tiny.layers[0].output = 0
            one = tiny.output.save()
        with t.invoke([FRANCE, FRANCE]):
            tiny.layers[4].output[1] = 0
            last = tiny.output[:, -1].save()
    assert two.shape[:2] == (2, len(tiny.encode(GERMANY)))
    assert apart(two[0, -6:], plain(tiny, FRANCE)[0]) < 1e-4
    assert apart(two[1], plain(tiny, GERMANY)[0]) < 1e-4
    assert apart(one, tiny.run(mg.edit("layers.0", iv.zero_out), ROME).output) < 1e-4
    assert apart(last[0], plain(tiny, FRANCE)[0, -1]) < 1e-4
    assert apart(last[1], last[0]) > 1e-2
    assert t.lengths == [6, 9, 3, 6, 6]


def test_edits_stay_in_their_rows(tiny):
    with tiny.trace() as t:
        with t.invoke(FRANCE):
            untouched = tiny.output.save()
        with t.invoke(ROME):
            tiny.layers[1].output = 0
            tiny.layers[2].mlp.input[:] = 1.0
            edited = tiny.output.save()
        with t.invoke(GERMANY):
            last = tiny.output.save()
    assert apart(untouched, plain(tiny, FRANCE)) < 1e-4
    assert apart(last, plain(tiny, GERMANY)) < 1e-4
    assert apart(edited, plain(tiny, ROME)) > 1e-1


def test_values_flow_both_ways_in_any_order_that_the_forward_allows(tied):
    with tied.trace(compile=False) as t:
        with t.invoke(tokens_1):
            early = tied.layers[0].output
            late = tied.layers[2].mlp.output
        with t.invoke(tokens_2):
            tied.layers[1].output[:] = early
            mine = tied.layers[0].output
            tied.layers[2].output += late
            second = tied.output.save()
        with t.invoke(tokens_1 + 1):
            tied.layers[1].mlp.output = mine
            third = tied.output.save()
    first = tied.run(mg.read("layers.0", "a") >> mg.read("layers.2.mlp", "b"), tokens_1)
    with tied.trace(tokens_2, compile=False):
        own = tied.layers[0].output.save()
        tied.layers[1].output = first["a"]
        tied.layers[2].output += first["b"]
        want = tied.output.save()
    assert apart(second, want) < 1e-5
    replaced = mg.edit("layers.1.mlp", iv.replace_with(own))
    assert apart(third, tied.run(replaced, tokens_1 + 1).output) < 1e-5


def test_an_earlier_prompt_may_use_a_later_prompts_value_once_it_is_named(tied):
    """A handle of the first prompt may be written inside the second's block."""
    with tied.trace(compile=False) as t:
        with t.invoke(tokens_1):
            target = tied.layers[2].output
            out = tied.output.save()
        with t.invoke(tokens_2):
            early = tied.layers[1].output
            target[:, 0] = early[:, 0]
        with t.invoke(tokens_1):
            same = tied.output.save()
    stored = tied.run(mg.read("layers.1", "h"), tokens_2)["h"]
    with tied.trace(tokens_1, compile=False):
        tied.layers[2].output[:, 0] = stored[:, 0]
        want = tied.output.save()
    assert apart(out, want) < 1e-5 and apart(want, plain(tied, tokens_1)) > 1e-2
    assert apart(same, plain(tied, tokens_1)) < 1e-5


@pytest.mark.parametrize("port", ["output", "input"])
def test_what_the_forward_computes_later_cannot_be_written_earlier(tied, port):
    with pytest.raises(OrderError) as caught:
        with tied.trace() as t:
            with t.invoke(tokens_1):
                late = tied.layers[2].output
            with t.invoke(tokens_2):
                setattr(tied.layers[1], port, late)
    said = str(caught.value)
    assert "layers.1" in said and "in invoke 1" in said and "layers.2.output in invoke 0" in said
    assert "test_invokes" in said


@settings(max_examples=15)
@given(
    st.lists(st.sampled_from(["Rome is", FRANCE, GERMANY, "Paris is"]), min_size=1, max_size=4),
    st.integers(0, 5),
    st.sampled_from([-1, 0, -2]),
    st.integers(0, 3),
)
def test_any_mixture_of_prompts_equals_its_separate_runs(tiny, texts, layer, position, who):
    who %= len(texts)
    outs = []
    with tiny.trace(compile=False) as t:
        for k, text in enumerate(texts):
            with t.invoke(text):
                if k == who:
                    tiny.layers[layer].output[:, position] *= -1.0
                outs.append(tiny.output.save())
    for k, text in enumerate(texts):
        want = plain(tiny, text)
        if k == who:
            graph = mg.edit(f"layers.{layer}", iv.scale(-1.0), positions=position)
            want = tiny.run(graph, text).output
            assert apart(want, plain(tiny, text)) > 1e-3
        assert apart(outs[k], want) < 1e-4


def test_interventions_of_one_invoke(tied):
    with tied.trace() as t:
        with t.invoke(tokens_1, interventions={"layers.1.mlp": iv.zero_out}):
            first = tied.output.save()
            tied.layers[1].mlp.output.save("mlp")
        with t.invoke(tokens_2):
            second = tied.output.save()
    want = tied.run(mg.edit("layers.1.mlp", iv.zero_out), tokens_1).output
    assert apart(first, want) < 1e-5 and apart(second, plain(tied, tokens_2)) < 1e-5
    assert float(mx.abs(t.saved_values["mlp"]).max()) == 0
    with pytest.raises(UnknownSiteError):
        with tied.trace() as t:
            with t.invoke(tokens_1, interventions={"layers.1.mpl": iv.zero_out}):
                pass


def test_edits_that_stay_act_on_every_invoke(tiny):
    edited = tiny.edit(mg.edit("layers.2", iv.scale(0.5), positions=-1))
    with edited.trace() as t:
        with t.invoke(FRANCE):
            a = edited.output.save()
        with t.invoke(ROME):
            b = edited.output.save()
    assert apart(a, edited.run(mg.Graph(), FRANCE).output) < 1e-4
    assert apart(b, edited.run(mg.Graph(), ROME).output) < 1e-4
    assert apart(b, plain(tiny, ROME)) > 1e-2


def test_params_in_invokes(tied):
    with tied.trace(params={"alpha": 0.5}) as t:
        with t.invoke(tokens_1):
            tied.layers[1].output *= mg.param("alpha")
            a = tied.output.save()
        with t.invoke(tokens_2):
            b = tied.output.save()
    assert apart(a, tied.run(mg.edit("layers.1", iv.scale(0.5)), tokens_1).output) < 1e-5
    assert apart(b, plain(tied, tokens_2)) < 1e-5


def test_the_graph_of_a_batch_runs_again_on_a_batch(tied):
    with tied.trace() as t:
        with t.invoke(tokens_1):
            clean = tied.layers[1].output
        with t.invoke(tokens_2):
            tied.layers[1].output = clean
            out = tied.output.save("out")
    both = mx.concatenate([tokens_1, tokens_2])
    assert exact(t.tokens, both)
    assert apart(tied.run(t.graph, both)["out"], out) < 1e-5
    other = tied.run(t.graph, both + 1)["out"]
    assert apart(other, out) > 1e-2


def test_gradients_across_invokes(tied):
    with tied.trace() as t:
        with t.invoke(tokens_1):
            h = tied.layers[1].output
        with t.invoke(tokens_2):
            tied.layers[1].output = tied.layers[1].output + h
            loss = tied.output[:, -1].square().mean()
            loss.backward()
            slope = h.grad.save()
    other = tied.run(mg.read("layers.1", "h"), tokens_1)["h"]
    with tied.trace(tokens_2) as t:
        tied.layers[1].output = tied.layers[1].output + other
        want = t.grad(tied.output[:, -1].square().mean(), tied.layers[1].output).save()
    assert apart(slope, want) < 1e-4 * float(mx.abs(want).max())


def test_prompts_of_a_float_model_join_along_the_first_axis(chain, x):
    with chain.trace() as t:
        with t.invoke(x):
            h = chain.layers[0].output
            first = chain.output.save()
        with t.invoke(2 * x[:1]):
            chain.layers[0].output = h[:1]
            second = chain.output.save()
    assert apart(first, chain.module(x)) < 1e-6 and second.shape == (1, 4, 6)
    kept = chain.run(mg.read("layers.0", "h"), x)["h"]
    want = chain.run(mg.edit("layers.0", iv.replace_with(kept[:1])), 2 * x[:1]).output
    assert apart(second, want) < 1e-6
    assert t.tokens is None and t.lengths is None


def test_inputs_that_cannot_share_a_batch_raise(chain, x):
    with pytest.raises(InputError, match="share a batch"):
        with chain.trace() as t:
            with t.invoke(x):
                chain.output.save()
            with t.invoke(x[:, :2]):
                chain.output.save()


def test_nested_values_and_several_inputs(x):
    mx.random.seed(8)
    module = Mixed()
    model = mg.InterpretableModel(module)
    with model.trace() as t:
        with t.invoke(x, x + 1):
            pair = model.parts["left"].output
            first = model.output.save()
            keyword = model.parts["left"].inputs[1]["other"].save()
        with t.invoke(x * 2, x - 1):
            model.parts["left"].output[1] = pair[1]
            model.parts["right"].output["sum"] *= 2
            second = model.output.save()
    want = module(x, x + 1)
    assert apart(first["main"], want["main"]) < 1e-6
    assert apart(first["extras"][1][0], want["extras"][1][0]) < 1e-6
    assert exact(keyword, x + 1)
    stored = module.parts["left"](x, other=x + 1)[1]
    with model.trace(x * 2, x - 1):
        model.parts["left"].output[1] = stored
        model.parts["right"].output["sum"] *= 2
        alone = model.output.save()
    assert apart(second["main"], alone["main"]) < 1e-5
    assert apart(alone["main"], module(x * 2, x - 1)["main"]) > 1e-2


def test_whole_inputs_of_a_module_in_an_invoke(tiny):
    with tiny.trace() as t:
        with t.invoke(FRANCE):
            args, kwargs = tiny.layers[1].mlp.inputs
            given = args[0].save()
        with t.invoke(ROME):
            tiny.layers[1].mlp.input = tiny.layers[1].mlp.input * 0
            out = tiny.output.save()
    want = tiny.run(mg.read("layers.1.mlp.input", "x"), FRANCE)["x"]
    assert apart(given, want) < 1e-5
    assert apart(out, tiny.run(mg.edit("layers.1.mlp.input", iv.zero_out), ROME).output) < 1e-4


def test_skipping_in_an_invoke_skips_for_its_rows(tied):
    with tied.trace() as t:
        with t.invoke(tokens_1):
            tied.layers[1].skip(tied.layers[1].input)
            skipped = tied.output.save()
        with t.invoke(tokens_2):
            plainly = tied.output.save()
    with tied.trace(tokens_1):
        tied.layers[1].skip(tied.layers[1].input)
        want = tied.output.save()
    assert apart(skipped, want) < 1e-5 and apart(plainly, plain(tied, tokens_2)) < 1e-5
    assert apart(want, plain(tied, tokens_1)) > 1e-2


def test_recorded_edits_that_stay_act_on_every_invoke(tied):
    with tied.trace(tokens_1) as t:
        h = tied.layers[0].output
        h *= 0.5
        tied.layers[1].output = tied.layers[1].output + h
        tied.layers[2].mlp.skip(tied.layers[2].mlp.input)
    edited = tied.edit(t.graph)
    with edited.trace() as t:
        with t.invoke(tokens_1):
            seen = edited.layers[0].output.save()
            edited.layers[0].output += 1.0
            a = edited.output.save()
        with t.invoke(tokens_2):
            b = edited.output.save()
    assert apart(b, edited(tokens_2)) < 1e-5
    with edited.trace(tokens_1):
        own = edited.layers[0].output.save()
        edited.layers[0].output += 1.0
        want = edited.output.save()
    assert apart(seen, own) < 1e-5 and apart(a, want) < 1e-5
    assert apart(b, plain(tied, tokens_2)) > 1e-2


def test_a_module_that_is_never_called_raises_in_its_invoke(x):
    model = mg.InterpretableModel(Mixed())
    with pytest.raises(NeverCalledError, match="unused"):
        with model.trace() as t:
            with t.invoke(x, x):
                model.unused.output.save()


def test_what_no_invoke_holds_raises(tied):
    with pytest.raises(OutsideTraceError, match="invoke"):
        with tied.trace():
            tied.layers[0].output.save()
    with pytest.raises(OutsideTraceError, match="invoke"):
        with tied.trace() as t:
            with t.invoke(tokens_1):
                pass
            tied.layers[0].output.save()
    with pytest.raises(OutsideTraceError, match="invoke"):
        with tied.trace() as t:
            with t.invoke(tokens_1):
                with t.invoke(tokens_2):
                    pass
    with tied.trace() as t:
        with t.invoke(tokens_1):
            pass
    with pytest.raises(OutsideTraceError, match="invoke"):
        with t.invoke(tokens_1):
            pass


def test_values_may_be_worked_on_between_invokes(tied):
    with tied.trace(compile=False) as t:
        with t.invoke(tokens_1):
            a = tied.layers[1].output
        with t.invoke(tokens_2):
            b = tied.layers[1].output
        difference = (a - b).abs().max().save()
        mean = (a + b) / 2
        with t.invoke(tokens_1):
            tied.layers[1].output = mean
            out = tied.output.save()
    one, two = (tied.run(mg.read("layers.1", "h"), x)["h"] for x in (tokens_1, tokens_2))
    assert apart(difference, mx.abs(one - two).max()) < 1e-6
    want = tied.run(mg.edit("layers.1", iv.replace_with((one + two) / 2)), tokens_1).output
    assert apart(out, want) < 1e-5


@pytest.mark.parametrize("inputs", [(), ("",), ([],)])
def test_an_invoke_needs_inputs(tiny, inputs):
    if inputs == ("",):
        with tiny.trace() as t, t.invoke(""):  # the tokenizer's own first token is something
            assert tiny.output.shape[1] == 1
        return
    with pytest.raises(InputError):
        with tiny.trace() as t:
            with t.invoke(*inputs):
                pass


def test_an_invoke_takes_no_keywords_of_the_model(tied):
    with pytest.raises(InputError, match="mask"):
        with tied.trace() as t:
            with t.invoke(tokens_1, mask=None):
                pass


def test_a_trace_of_several_prompts_takes_no_edits_of_its_own(tied):
    for edits in ({"graph": mg.edit("layers.0", iv.zero_out)},
                  {"interventions": {"layers.0": iv.zero_out}}):  # fmt: skip
        with pytest.raises(InputError, match="t.invoke"):
            tied.trace(**edits)


def test_a_look_is_refused_while_not_all_prompts_are_known(tied):
    with pytest.raises(LookError):
        with tied.trace() as t:
            with t.invoke(tokens_1):
                bool(tied.layers[0].output.max() > 0)


def test_no_prompts_and_no_saves_are_fine(tied):
    with tied.trace() as t:
        pass
    assert t.saved_values == {}
    with tied.trace() as t:
        with t.invoke(tokens_1):
            pass
    assert t.saved_values == {} and len(t.graph.saves) == 0


def test_an_exception_in_an_invoke_reaches_the_user_and_leaves_nothing(tied):
    with pytest.raises(ZeroDivisionError):
        with tied.trace() as t:
            with t.invoke(tokens_1):
                tied.layers[0].output = 0
                raise ZeroDivisionError
    assert exact(tied.run(mg.Graph(), tokens_1).output, plain(tied, tokens_1))
    with tied.trace() as t:
        with t.invoke(tokens_1):
            out = tied.output.save()
    assert exact(out, plain(tied, tokens_1))


def test_saves_of_one_name_are_numbered(tied):
    with tied.trace() as t:
        for x in (tokens_1, tokens_2):
            with t.invoke(x):
                tied.output.save("out")
    assert list(t.saved_values) == ["out", "out#2"]


def test_unnamed_saves_go_by_their_sites(tied):
    with tied.trace() as t:
        with t.invoke(tokens_1):
            tied.layers[0].output.save()
        with t.invoke(tokens_2):
            tied.layers[0].output.save()
    assert list(t.saved_values) == ["model.layers.0.output", "model.layers.0.output#2"]


def test_calls_and_modules_called_by_hand_in_an_invoke(tied):
    with tied.trace() as t:
        with t.invoke(tokens_1):
            rope = tied.layers[1].self_attn.rope
            assert len(rope.calls) == 2
            keys = rope.calls[1].output.save()
        with t.invoke(tokens_2):
            lens = tied.model.norm(tied.layers[0].output).save()
            norm = tied.model.norm.output.save()  # the forward's own call, not the one above
    with tied.trace(tokens_1):
        want_keys = tied.layers[1].self_attn.rope.calls[1].output.save()
    with tied.trace(tokens_2):
        want = tied.model.norm.output.save()
        want_lens = tied.model.norm(tied.layers[0].output).save()
    assert apart(keys, want_keys) < 1e-5 and apart(norm, want) < 1e-5
    assert apart(lens, want_lens) < 1e-5 and apart(lens, norm) > 1e-2


def test_a_barrier_is_nothing(tied):
    with tied.trace() as t:
        barrier = t.barrier
        with t.invoke(tokens_1):
            h = tied.layers[0].output
            barrier()
        with t.invoke(tokens_2):
            t.barrier(2)
            tied.layers[0].output = h
            out = tied.output.save()
    assert apart(out, plain(tied, tokens_1)) < 1e-5


class Flat(nn.Module):
    """Merges rows and positions, so that no row can be told apart inside."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def __call__(self, x):
        return self.inner(x.reshape(-1, 6)).reshape(x.shape)


def test_a_site_whose_rows_cannot_be_told_apart_raises(x):
    model = mg.InterpretableModel(Flat())
    with pytest.raises(ShapeError, match="rows") as caught:
        with model.trace() as t:
            with t.invoke(x):
                model.inner.output.save()
            with t.invoke(x):
                pass
    assert "inner.output" in str(caught.value)


def test_numbers_in_an_object_are_those_of_the_prompt():
    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(4, 4)

        def __call__(self, x):
            return SimpleNamespace(
                y=self.lin(x), n=x.shape[0], total=float(x.size), odd=x.size > 20
            )

    model = mg.InterpretableModel(Counted())
    x = mx.arange(36, dtype=mx.float32).reshape(3, 3, 4)
    for compile in (False, True):
        with model.trace(compile=compile) as t:
            with t.invoke(x[:1]):
                one, n = model.output.save(), model.output.n
            with t.invoke(x[1:]):
                model.output.y *= 2
                two = model.output.save()
        assert (n, one.n, one.total, one.odd) == (1, 1, 12.0, False)
        assert (two.n, two.total, two.odd) == (2, 24.0, True)
        assert models.same(two.y, model.module(x[1:]).y * 2, 1e-5)
        assert models.same(one.y, model.module(x[:1]).y, 1e-5)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("activations", "output.save()"),
        ("output", "model.output.save()"),
        ("get", "t.invoke"),
        ("cache", "t.invoke"),
        ("layers", "model.layers"),
        ("apply", "mg.apply"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_what_a_trace_of_one_prompt_has_says_what_to_write(tied, name, write, inside):
    with tied.trace() as t, t.invoke([1, 2, 3]):
        out = tied.layers[0].output.save()
        if inside:
            with pytest.raises(UnknownSiteError) as caught:
                getattr(t, name)
            assert write in str(caught.value)
    with pytest.raises(UnknownSiteError) as caught:
        getattr(t, name)
    assert write in str(caught.value) and "no modules" not in str(caught.value)
    assert out.shape[:2] == (1, 3)
