"""`mg.edit` and `mg.read`: which modules a name or a pattern means, which port, which order."""

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import CountError, NeverCalledError, ShapeError, UnknownSiteError
from tests.composing.helpers import apart, exact, plain
from tests.models import Scale

FORMS = {
    "layers.1": [
        "layers.1", "model.layers.1", "model.model.layers.1", "layers.[1]", "layers.1.output",
        "model.layers.1.output", "model.model.layers.[1-1].output",
    ],
    "layers.1.mlp": [
        "layers.1.mlp", "model.layers.1.mlp", "model.model.layers.1.mlp", "layers.1.mlp.output",
        "layers.[1].mlp", "model.layers.[1].mlp.output", "**.1.mlp",
    ],
    "layers.2.self_attn": [
        "layers.2.self_attn", "layers.2.attn", "model.layers.2.attn", "model.model.layers.2.attn",
        "layers.[2].attn", "model.layers.[2].attn", "model.model.layers.[2].attn", "**.2.self_attn",
    ],
    "model.norm": ["model.norm", "model.model.norm", "*.norm", "**.norm", "model.norm.output"],
    "__model_output__": ["__model_output__", "__model_output__.output"],
}  # fmt: skip


@pytest.mark.parametrize("form", [f for forms in FORMS.values() for f in forms])
def test_every_form_of_a_name_means_the_same_module(tied, tokens, form):
    site = next(site for site, forms in FORMS.items() if form in forms)
    with tied.trace(tokens):
        target = tied if site == "__model_output__" else tied[site]
        target.output = 0.5 * target.output
        want = tied.output.save()
    got = tied.run(mg.edit(form, iv.scale(0.5)), tokens)
    assert exact(got.output, want)
    assert apart(want, plain(tied, tokens)) > 1e-2


def by_hand(model, tokens, places):
    """Half of what each of these modules gives."""
    with model.trace(tokens):
        for place in places:
            model[place].output = 0.5 * model[place].output
        return model.output.save()


@pytest.mark.parametrize(
    "pattern, places",
    [
        ("layers.*", [f"layers.{i}" for i in range(3)]),
        ("layers.*.mlp", [f"layers.{i}.mlp" for i in range(3)]),
        ("layers.[1-2].mlp", ["layers.1.mlp", "layers.2.mlp"]),
        ("layers.[0,2].attn", ["layers.0.attn", "layers.2.attn"]),
        ("**.q_proj", [f"layers.{i}.self_attn.q_proj" for i in range(3)]),
        ("layers.**.v_proj", [f"layers.{i}.self_attn.v_proj" for i in range(3)]),
        ("layers.?.mlp.down_*", [f"layers.{i}.mlp.down_proj" for i in range(3)]),
        ("layers.2.*_layernorm", ["layers.2.input_layernorm", "layers.2.post_attention_layernorm"]),
        ("model.layers.**.mlp", [f"layers.{i}.mlp" for i in range(3)]),
    ],
)
def test_a_pattern_means_each_module_that_it_matches_and_no_other(tied, tokens, pattern, places):
    want = by_hand(tied, tokens, places)
    got = tied.run(mg.edit(pattern, iv.scale(0.5), expect=len(places)), tokens).output
    assert exact(got, want)
    fewer = by_hand(tied, tokens, places[1:])
    assert apart(fewer, want) > 1e-4


def test_an_input_port_edits_the_modules_first_argument(tied, tokens):
    with tied.trace(tokens):
        tied.layers[1].mlp.input = 2.0 * tied.layers[1].mlp.input
        want = tied.output.save()
    got = tied.run(mg.edit("layers.1.mlp.input", iv.scale(2.0)), tokens).output
    assert exact(got, want)
    other = tied.run(mg.edit("layers.1.mlp", iv.scale(2.0)), tokens).output
    assert apart(got, other) > 1e-2


def test_an_input_port_by_pattern_with_positions(tied, tokens):
    with tied.trace(tokens):
        for layer in tied.layers:
            layer.mlp.input[:, -1] = 0
        want = tied.output.save()
    got = tied.run(mg.edit("layers.*.mlp.input", iv.zero_out, positions=-1, expect=3), tokens)
    assert exact(got.output, want)
    assert apart(want, plain(tied, tokens)) > 1e-2


def test_a_read_of_an_input_is_what_the_module_was_given(tied, tokens):
    saves = tied.run(mg.read("layers.1.input", name="x") >> mg.read("layers.0", name="y"), tokens)
    assert exact(saves["x"], saves["y"])
    assert not exact(saves["x"], tied.run(mg.read("layers.1", name="z"), tokens)["z"])


class Keyword(nn.Module):
    """Calls its module by keyword, and gets a tuple."""

    def __init__(self):
        super().__init__()
        self.inner = Doubling()

    def __call__(self, x):
        return self.inner(x=x)[0]


class Doubling(nn.Module):
    def __call__(self, x=None):
        return 2 * x, x


def test_an_input_given_by_keyword_and_an_output_that_is_a_tuple():
    model, x = mg.InterpretableModel(Keyword()), mx.ones((1, 3, 4))
    halved = model.run(mg.edit("inner.input", iv.scale(0.5)) >> mg.read("inner", "out"), x)
    assert exact(halved["out"][0], x) and exact(halved["out"][1], 0.5 * x)
    first = model.run(mg.edit("inner", iv.zero_out, positions=0), x).output
    assert first[0, :, 0].tolist() == [0, 2, 2]
    assert exact(model.run(mg.read("inner.input", "x"), x)["x"], x)
    args, kwargs = model.run(mg.read("inner.inputs", "all"), x)["all"]
    assert len(args) == 0 and exact(kwargs["x"], x)


def test_reads_by_pattern_are_named_by_their_modules(tied, tokens):
    saves = tied.run(mg.read("layers.*.mlp", name="m", expect=3), tokens).saves
    assert list(saves) == [f"m.model.layers.{i}.mlp" for i in range(3)]
    with tied.trace(tokens):
        want = [layer.mlp.output.save() for layer in tied.layers]
    assert all(exact(a, b) for a, b in zip(saves.values(), want, strict=True))
    alone = tied.run(mg.read("layers.1.mlp"), tokens).saves
    assert list(alone) == ["model.layers.1.mlp.output"]


@pytest.mark.parametrize("pattern", ["layers.*.mlp", "layers.1.mlp", "layers.[0-1].mlp"])
def test_another_count_than_expected_raises_on_use(tied, tokens, pattern):
    edit = mg.edit(pattern, iv.zero_out, expect=16)  # no model is known yet
    with pytest.raises(CountError, match="match 16 modules and matches [1-3]:") as caught:
        tied.run(edit, tokens)
    assert "test_edit_sites" in str(caught.value) and isinstance(caught.value, ValueError)
    with pytest.raises(CountError):
        tied.run(mg.read(pattern, expect=0), tokens)


def test_expecting_no_module_is_allowed_where_there_is_none(tied, tokens):
    got = tied.run(mg.edit("layers.*.moe", iv.zero_out, expect=0), tokens)
    assert exact(got.output, plain(tied, tokens))


@pytest.mark.parametrize(
    "wrong, near",
    [
        ("layers.1.mpl", "mlp"),
        ("layers.*.mlpp", "mlp"),
        ("layers.[1-2].self_atn", "self_attn"),
        ("layers.7", "layers"),
        ("**.qproj", "q_proj"),
        ("model.layers.1.mlp.gate", "gate_proj"),
    ],
)
def test_what_names_no_module_raises_with_close_matches(tied, tokens, wrong, near):
    for graph in (mg.edit(wrong, iv.zero_out), mg.read(wrong)):
        with pytest.raises(UnknownSiteError) as caught:
            tied.run(graph, tokens)
        hint = str(caught.value).split("Did you mean")[1]
        assert near in hint
        assert isinstance(caught.value, AttributeError)


@pytest.mark.parametrize("bad", ["layers.[4-2]", "layers.[x]", "layers.[1-", "layers.[]"])
def test_what_is_no_pattern_raises_where_it_is_written(bad):
    with pytest.raises(ValueError, match="range"):
        mg.edit(bad, iv.zero_out)
    with pytest.raises(ValueError, match="range"):
        mg.read(bad)


def test_what_is_no_function_raises_where_it_is_written():
    with pytest.raises(TypeError, match="replace_with"):
        mg.edit("layers.1", 0.5)


def test_a_module_that_is_never_called_raises(tied, tokens):
    for graph in (mg.edit("layers.0.self_attn.nothing", iv.zero_out),):
        with pytest.raises(UnknownSiteError):
            tied.run(graph, tokens)
    model = mg.InterpretableModel(_WithUnused())
    with pytest.raises(NeverCalledError, match="never calls"):
        model.run(mg.edit("unused", iv.zero_out), mx.ones((1, 2, 4)))
    assert model.run(mg.edit("used", iv.zero_out), mx.ones((1, 2, 4))).output.sum() == 0


class _WithUnused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = Scale(4, 2.0), Scale(4, 3.0)

    def __call__(self, x):
        return self.used(x)


def test_a_users_own_function_is_recorded(tied, tokens):
    def shifted(h):
        return h - h.mean(axis=-1, keepdims=True)

    with tied.trace(tokens):
        h = tied.layers[1].output
        tied.layers[1].output = h - h.mean(axis=-1, keepdims=True)
        want = tied.output.save()
    assert exact(tied.run(mg.edit("layers.1", shifted), tokens).output, want)
    assert apart(want, plain(tied, tokens)) > 1e-3


def test_a_function_of_another_shape_raises_on_use(tied, tokens):
    with pytest.raises(ShapeError, match="model.layers.1"):
        tied.run(mg.edit("layers.1", lambda h: h[:, :3]), tokens)


def test_order_matters_where_two_edits_meet(tied, tokens):
    double, one_more = mg.edit("layers.1", iv.scale(2.0)), mg.edit("layers.1", lambda h: h + 1.0)
    with tied.trace(tokens):
        tied.layers[1].output = tied.layers[1].output * 2.0 + 1.0
        first = tied.output.save()
    with tied.trace(tokens):
        tied.layers[1].output = (tied.layers[1].output + 1.0) * 2.0
        second = tied.output.save()
    assert exact(tied.run(double >> one_more, tokens).output, first)
    assert exact(tied.run(one_more >> double, tokens).output, second)
    assert apart(first, second) > 1e-3


def test_order_does_not_matter_at_different_places(tied, tokens):
    a, b = mg.edit("layers.0.mlp", iv.scale(0.3)), mg.edit("layers.2.attn", iv.zero_out)
    assert exact(tied.run(a >> b, tokens).output, tied.run(b >> a, tokens).output)
    assert apart(tied.run(a, tokens).output, tied.run(a >> b, tokens).output) > 1e-3


def test_a_read_sees_the_edits_before_it_and_none_behind(tied, tokens):
    whole = (
        mg.read("layers.1", name="before")
        >> mg.edit("layers.1", iv.scale(3.0))
        >> mg.read("layers.1", name="after")
    )
    saves = tied.run(whole, tokens).saves
    assert exact(saves["after"], saves["before"] * 3.0)
    assert apart(saves["after"], saves["before"]) > 0.1


def test_recorded_graphs_and_edits_mix_in_any_order(tied, tokens):
    with tied.trace(tokens) as t:
        tied.layers[1].output[:, 0] += 1.0
        tied.layers[1].output.save("middle")
    block = t.graph
    halve = mg.edit("layers.1", iv.scale(0.5))
    with tied.trace(tokens):
        h = tied.layers[1].output
        h *= 0.5
        h[:, 0] += 1.0
        want_middle, want = h.save(), tied.output.save()
    got = tied.run(halve >> block >> mg.read("__model_output__", name="out"), tokens)
    assert exact(got["middle"], want_middle) and exact(got["out"], want)
    with tied.trace(tokens):
        h = tied.layers[1].output
        h[:, 0] += 1.0
        want_middle = h.save()
        tied.layers[1].output = h * 0.5
        want = tied.output.save()
    got = tied.run(block >> halve >> mg.read("__model_output__", name="out"), tokens)
    assert exact(got["middle"], want_middle) and exact(got["out"], want)


def test_a_block_goes_on_where_its_graph_ends(tied, tokens):
    before = mg.edit("layers.*.mlp", iv.scale(0.5)) >> mg.read("layers.0.mlp", name="mlp")
    with tied.trace(tokens, graph=before) as t:
        seen = tied.layers[0].mlp.output.save()
        tied.layers[0].mlp.output += 1.0
        out = tied.output.save("out")
    with tied.trace(tokens) as alone:
        tied.layers[0].mlp.output.save("seen")
        tied.layers[0].mlp.output += 1.0
        tied.output.save("out")
    result = tied.run(before >> alone.graph, tokens)
    assert exact(result["out"], out) and exact(result["seen"], seen)
    assert exact(t.saved_values["mlp"], seen) and exact(result["mlp"], seen)
    assert apart(tied.run(alone.graph, tokens)["out"], out) > 1e-3
    again = tied.run(t.graph, tokens)  # what the block recorded holds the graph it began with
    assert exact(again["out"], out)


def test_a_graph_that_saves_nothing_gives_the_models_output(tied, tokens):
    empty = tied.run(mg.Graph(), tokens)
    assert empty.saves == {} and exact(empty.output, plain(tied, tokens))
    with tied.trace(tokens) as t:
        tied.layers[0].output = 0
    assert exact(tied.run(t.graph, tokens).output, tied.run(mg.edit("layers.0", iv.zero_out),
                                                            tokens).output)  # fmt: skip


def test_a_compiled_pass_equals_the_plain_run(llama, tokens):
    graph = mg.edit("layers.*.mlp", iv.scale(0.5)) >> mg.read("__model_output__", name="out")
    fast = llama.compile(graph)
    eager = llama.run(graph, tokens, compile=False)["out"]
    assert apart(fast(tokens).saves["out"], eager) < 1e-4
    assert apart(fast(tokens + 1).saves["out"], eager) > 1e-2
    assert apart(fast(tokens + 1)["out"], llama.run(graph, tokens + 1, compile=False)["out"]) < 1e-4


def test_one_graph_serves_inputs_of_any_length(tied):
    graph = mg.edit("layers.*", iv.scale(0.5), positions=-1) >> mg.read("__model_output__", "out")
    fast = tied.compile(graph)
    for length in (3, 5, 3, 9):
        x = mx.arange(length)[None] + 1
        with tied.trace(x):
            for layer in tied.layers:
                layer.output[:, -1] *= 0.5
            want = tied.output.save()
        assert apart(fast(x)["out"], want) < 1e-4
        assert apart(want, plain(tied, x)) > 1e-3
