"""Gradients at sites: `t.grad(loss, h)`, `loss.backward()` and `h.grad`, in one backward pass."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from einops import rearrange

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import GradientError, OrderError
from tests.composing.helpers import FRANCE, GERMANY, ROME, apart, exact
from tests.models import HEADS, WIDTH, Chain, Mixed


def forward(model, tokens, deltas, double=False):
    """The model's forward by hand, with something added after some blocks (and block 0 doubled)."""
    inner = model.module.model
    h = inner.embed_tokens(tokens)
    for k, layer in enumerate(inner.layers):
        h = layer(h, "causal", None)
        if double and k == 0:
            h = h * 2
        if k in deltas:
            h = h + deltas[k]
    h = inner.norm(h)
    if model.module.args.tie_word_embeddings:
        return inner.embed_tokens.as_linear(h)
    return model.module.lm_head(h)


def loss_of(logits):
    return logits[:, -1].square().mean()


@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_at_sites_are_those_of_the_forward_written_by_hand(llama, tokens, compiled):
    zeros = {k: mx.zeros((2, 6, WIDTH)) for k in range(3)}
    wanted = mx.grad(lambda d: loss_of(forward(llama, tokens, d)))(zeros)
    with llama.trace(tokens, compile=compiled) as t:
        sites = [layer.output for layer in llama.layers]
        loss = loss_of(llama.output).save()
        slopes = [g.save() for g in t.grad(loss, sites)]
        last = t.grad(loss, sites[2]).save()
    assert apart(loss, loss_of(llama.module(tokens))) < 1e-4 * float(loss)
    for k, slope in enumerate(slopes):
        scale = float(mx.abs(wanted[k]).max())
        assert slope.shape == wanted[k].shape and apart(slope, wanted[k]) < 1e-4 * scale
        assert scale > 1e-5
    assert exact(last, slopes[2])


def test_a_gradient_is_the_slope_of_finite_differences(tied, tokens):
    with tied.trace(tokens) as t:
        h = tied.layers[1].output
        slope = t.grad(loss_of(tied.output), h).save()
    direction = mx.random.normal(slope.shape, key=mx.random.key(3))

    def at(step):
        shift = mg.edit("layers.1", lambda h: h + step * direction)
        return loss_of(tied.run(shift, tokens).output)

    change = (at(1e-2) - at(-1e-2)) / 2e-2
    assert float((slope * direction).sum()) == pytest.approx(float(change), rel=2e-2)


def test_several_sites_take_one_backward_pass(tied, tokens, monkeypatch):
    from mlxgraph.mlx_facts import originals

    real, calls = mx.value_and_grad, []

    def counted(*args, **kwargs):
        calls.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(originals, "value_and_grad", counted)
    with tied.trace(tokens, compile=False) as t:
        places = [tied.layers[k].output for k in range(3)]
        places += [tied.layers[k].mlp.output for k in range(3)]
        loss = loss_of(tied.output)
        slopes = [g.save() for g in t.grad(loss, places)]
        more = [t.grad(loss, place).save() for place in places]
    mx.eval(slopes, more)
    assert len(calls) == 1
    with tied.trace(tokens, compile=False) as t:  # the control: two losses are two passes
        h = tied.layers[0].output
        a = t.grad(tied.output.sum(), h).save()
        b = t.grad(tied.output.square().sum(), h).save()
    mx.eval(a, b)
    assert len(calls) == 3 and apart(a, b) > 1e-3


def test_nnsights_form_means_the_same(tied, tokens):
    with tied.trace(tokens):
        h, m = tied.layers[0].output, tied.layers[1].mlp.output
        loss = loss_of(tied.output)
        loss.backward()
        by_h, by_m = h.grad.save(), m.grad.save()
    with tied.trace(tokens) as t:
        h, m = tied.layers[0].output, tied.layers[1].mlp.output
        want = [g.save() for g in t.grad(loss_of(tied.output), [h, m])]
    assert exact(by_h, want[0]) and exact(by_m, want[1])


def test_the_last_backward_counts(tied, tokens):
    with tied.trace(tokens):
        h = tied.layers[0].output
        tied.output.sum().backward()
        first = h.grad.save()
        (tied.output.sum() * 3).backward()
        second = h.grad.save()
    assert apart(first * 3, second) < 1e-4 * float(mx.abs(second).max())
    assert float(mx.abs(first).max()) > 1e-4


def test_a_gradient_without_a_loss_says_what_to_write(tied, tokens):
    with pytest.raises(GradientError, match="backward"):
        with tied.trace(tokens):
            tied.layers[0].output.grad.save()


def test_gradients_and_values_mix_in_one_save(tied, tokens):
    """Attribution patching: (clean - corrupted) * gradient (Nanda 2023)."""
    clean = [s for s in tied.run(mg.read("layers.*", name="h"), tokens + 1).saves.values()]
    with tied.trace(tokens) as t:
        sites = [layer.output for layer in tied.layers]
        slopes = t.grad(loss_of(tied.output), sites)
        effects = [
            ((c - h) * g).sum(-1).save() for c, h, g in zip(clean, sites, slopes, strict=True)
        ]
        whole = mx.stack([((c - h) * g).sum() for c, h, g in zip(clean, sites, slopes,
                                                                 strict=True)]).save()  # fmt: skip
        values = [h.save() for h in sites]
        separate = [g.save() for g in slopes]
    for c, value, slope, effect, total in zip(clean, values, separate, effects, whole, strict=True):
        assert apart(effect, ((c - value) * slope).sum(-1)) < 1e-5
        assert apart(effect.sum(), total) < 1e-4
    assert float(mx.abs(whole).max()) > 1e-3


def test_attribution_is_exact_where_the_rest_is_linear(tied, tokens):
    """Law 23: from the final norm's output to a logit difference everything is linear."""

    def difference(logits):
        return (logits[:, -1, 3] - logits[:, -1, 5]).sum()

    clean = tied.run(mg.read("model.norm", name="h"), tokens + 1)["h"]
    with tied.trace(tokens) as t:
        h = tied.model.norm.output
        base = difference(tied.output).save()
        effect = ((clean - h) * t.grad(difference(tied.output), h)).sum().save()
    patched = difference(tied.run(mg.edit("model.norm", iv.replace_with(clean)), tokens).output)
    assert float(effect) == pytest.approx(float(patched - base), abs=1e-4)
    assert abs(float(effect)) > 1e-3


@pytest.mark.parametrize("compiled", [False, True])
def test_the_gradient_is_that_of_the_edited_run(llama, tokens, compiled):
    zeros = {k: mx.zeros((2, 6, WIDTH)) for k in range(3)}
    wanted = mx.grad(lambda d: loss_of(forward(llama, tokens, d, double=True)))(zeros)
    plain = mx.grad(lambda d: loss_of(forward(llama, tokens, d)))(zeros)
    with llama.trace(tokens, compile=compiled) as t:
        llama.layers[0].output *= 2
        h0, h1 = llama.layers[0].output, llama.layers[1].output
        slopes = [g.save() for g in t.grad(loss_of(llama.output), [h0, h1])]
    for k in (0, 1):
        scale = float(mx.abs(wanted[k]).max())
        assert apart(slopes[k], wanted[k]) < 1e-4 * scale
        assert apart(slopes[k], plain[k]) > 1e-2 * scale


def test_before_and_after_a_write_are_two_values(tied, tokens):
    with tied.trace(tokens) as t:
        before = tied.layers[0].output
        tied.layers[0].output = before * 2
        after = tied.layers[0].output
        loss = loss_of(tied.output)
        by_before, by_after = (g.save() for g in t.grad(loss, [before, after]))
    scale = float(mx.abs(by_before).max())
    assert apart(by_before, by_after * 2) < 1e-5 * scale and scale > 1e-4


def test_an_overwritten_value_has_no_gradient(tied, tokens):
    with tied.trace(tokens) as t:
        lost = tied.layers[0].output
        kept = tied.layers[1].output
        tied.layers[1].output = mx.zeros_like(kept)
        by_lost = t.grad(loss_of(tied.output), lost).save()
    assert float(mx.abs(by_lost).max()) == 0.0


def test_the_gradient_at_a_view_is_that_part_of_the_gradient(tied, tokens):
    with tied.trace(tokens) as t:
        h = tied.layers[0].output
        q = tied.layers[1].self_attn.q_proj.output
        heads = rearrange(q, "b s (h d) -> b h s d", h=HEADS)
        loss = loss_of(tied.output)
        whole, part, last = (g.save() for g in t.grad(loss, [h, h[:, 1:3], h[:, -1]]))
        of_q, of_head = (g.save() for g in t.grad(loss, [q, heads[:, 2]]))
    assert exact(part, whole[:, 1:3]) and exact(last, whole[:, -1])
    assert exact(of_head, rearrange(of_q, "b s (h d) -> b h s d", h=HEADS)[:, 2])
    assert float(mx.abs(of_head).max()) > 1e-6


def test_the_gradient_at_a_computed_value(tied, tokens):
    with tied.trace(tokens) as t:
        h = tied.layers[0].output
        squared = h * h
        tied.layers[0].output = squared * 0.1
        by_h, by_squared = (g.save() for g in t.grad(loss_of(tied.output), [h, squared]))
        value = h.save()
    scale = float(mx.abs(by_h).max())
    assert apart(by_h, 2 * value * by_squared) < 1e-4 * scale and scale > 1e-5


def test_gradients_at_inputs_and_at_nested_values(x):
    mx.random.seed(4)
    module = Mixed()
    model = mg.InterpretableModel(module)
    with model.trace(x, x + 1) as t:
        pair = model.parts["left"].output
        named = model.parts["right"].output
        loss = model.output["main"].square().sum() + model.output["extras"][0].sum()
        by_first, by_second = (g.save() for g in t.grad(loss, [pair[0], pair[1]]))
        by_sum = t.grad(loss, named["sum"]).save()
        whole = t.grad(loss, pair)
        again = whole[1].save()
        at_input = t.grad(loss, model.parts["right"].input).save()

    def by_hand(deltas):
        a, b = module.parts["left"](x, other=x + 1)
        a, b = a + deltas["a"], b + deltas["b"]
        out = module.parts["right"](a + deltas["in"])
        out["sum"] = out["sum"] + deltas["sum"]
        for row in module.nested:
            for scale in row:
                b = scale(b)
        main = module.shared(module.shared(out["sum"])) + b
        return main.square().sum() + out["difference"].sum()

    wanted = mx.grad(by_hand)({k: mx.zeros(x.shape) for k in ("a", "b", "in", "sum")})
    for got, name in ((by_first, "a"), (by_second, "b"), (by_sum, "sum"), (at_input, "in")):
        assert apart(got, wanted[name]) < 1e-4 * float(mx.abs(wanted[name]).max()), name
    assert exact(again, by_second)


def test_gradients_by_the_inputs_of_a_float_model(x):
    mx.random.seed(5)
    module = Chain()
    model = mg.InterpretableModel(module)
    with model.trace(x) as t:
        got = t.grad(model.output.square().sum(), model.input).save()
    want = mx.grad(lambda x: module(x).square().sum())(x)
    assert apart(got, want) < 1e-5 * float(mx.abs(want).max())


def test_a_loss_by_a_module_or_a_loss_function(tied, tokens):
    target = mx.array([4, 9])
    with tied.trace(tokens) as t:
        h = tied.layers[1].output
        early = tied.layers[0].output
        loss = nn.losses.cross_entropy(tied.output[:, -1], target, reduction="mean")
        lens = mx.mean(tied.model.norm(early))
        slope, of_lens = t.grad(loss, h).save(), t.grad(lens, early).save()
    zero = mx.zeros((2, 6, WIDTH))
    want = mx.grad(
        lambda d: nn.losses.cross_entropy(forward(tied, tokens, {1: d})[:, -1], target).mean()
    )(zero)
    assert apart(slope, want) < 1e-4 * float(mx.abs(want).max())
    value = tied.run(mg.read("layers.0", name="h"), tokens)["h"]
    norm = tied.module.model.norm
    assert apart(of_lens, mx.grad(lambda h: norm(h).mean())(value)) < 1e-6


def test_a_loss_before_the_end_needs_no_more_than_its_part(counted, x):
    for _ in range(2):  # the first takes the census, which goes through every layer
        counted.module.reset()
        with counted.trace(x, compile=False) as t:
            h = counted.layers[0].output
            slope = t.grad(counted.layers[1].output.sum(), h).save()
        mx.eval(slope)
    ticks = counted.module.ticks()
    assert ticks[1] > 0 and ticks[2:] == [0, 0] and float(mx.abs(slope).max()) > 0


@pytest.mark.parametrize(
    "make", [lambda h: h.sum(), lambda h: h.sum(keepdims=True), lambda h: h.sum()[None]]
)
def test_one_number_of_any_rank_is_a_loss(tied, tokens, make):
    with tied.trace(tokens) as t:
        h = tied.layers[1].output
        slope = t.grad(make(h * h), h).save()
        value = h.save()
    assert apart(slope, 2 * value) < 1e-6


def test_a_loss_of_several_numbers_raises(tied, tokens):
    with pytest.raises(GradientError, match=r"\.sum\(\)") as caught:
        with tied.trace(tokens) as t:
            t.grad(tied.output[:, -1], tied.layers[0].output)
    assert "(2, 50)" in str(caught.value)
    with pytest.raises(GradientError):
        with tied.trace(tokens):
            tied.output.backward()
            tied.layers[0].output.grad.save()


def test_writing_with_a_gradient_says_that_it_is_not_known_yet(tied, tokens):
    with pytest.raises(OrderError, match="gradient") as caught:
        with tied.trace(tokens) as t:
            h = tied.layers[1].output
            tied.layers[1].output = h - 0.1 * t.grad(loss_of(tied.output), h)
    said = str(caught.value)
    assert "layers.1" in said and "later trace" in said and "test_gradients" in said
    assert "computes a gradient later" not in said and "Write at a gradient" not in said


def test_a_gradient_step_takes_two_traces(tied, tokens):
    with tied.trace(tokens) as t:
        h = tied.layers[1].output
        loss = loss_of(tied.output).save()
        slope = t.grad(loss, h).save()
    with tied.trace(tokens):
        tied.layers[1].output -= 0.5 * slope / slope.square().sum().sqrt()
        after = loss_of(tied.output).save()
    assert float(after) < float(loss)


def test_there_is_no_gradient_at_whole_numbers(tied, tokens):
    with pytest.raises(GradientError, match="whole numbers") as caught:
        with tied.trace(tokens) as t:
            t.grad(tied.output.sum(), tied.input).save()
    assert "test_gradients" in str(caught.value)


class Counted(nn.Module):
    """An array and a whole number out, as caches and routers give."""

    def __call__(self, x):
        return {"x": x * 2, "n": mx.array(x.shape[0])}


class Routed(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Counted()

    def __call__(self, x):
        found = self.inner(x)
        return found["x"] * found["n"]


def test_beside_whole_numbers_a_nested_value_has_its_gradient(x):
    model = mg.InterpretableModel(Routed())
    for compiled in (False, True):
        with model.trace(x, compile=compiled) as t:
            slope = t.grad(model.output.sum(), model.inner.output).save()
            alone = t.grad(model.output.sum(), model.inner.output["x"]).save()
        assert exact(slope["x"], mx.full(x.shape, 2.0)) and exact(alone, slope["x"])
        assert slope["n"].item() == 0


def test_random_draws_are_the_same_in_the_loss_and_its_gradient(tied, tokens):
    for _ in range(3):  # eager, then compiled
        with tied.trace(tokens) as t:
            h = tied.layers[1].output
            noise = mx.random.normal(h.shape)
            tied.layers[1].output = h + noise * h
            slope = t.grad((tied.layers[1].output * 3).sum(), h).save()
            drawn = noise.save()
        assert apart(slope, 3 * (1 + drawn)) < 1e-5
        assert float(mx.abs(drawn).max()) > 0.5


def test_draws_go_on_from_run_to_run(tied, tokens):
    def run():
        with tied.trace(tokens) as t:
            h = tied.layers[1].output
            tied.layers[1].output = h + mx.random.normal(h.shape)
            return t.grad(loss_of(tied.output), h).save()

    mx.random.seed(7)
    first = [run() for _ in range(3)]
    mx.random.seed(7)
    again = [run() for _ in range(3)]
    assert all(apart(a, b) < 1e-5 for a, b in zip(first, again, strict=True))
    assert apart(first[0], first[1]) > 1e-6


def test_two_losses_under_draws_are_refused(tied, tokens):
    with pytest.raises(GradientError, match="draws"):
        with tied.trace(tokens) as t:
            h = tied.layers[1].output
            tied.layers[1].output = h + mx.random.normal(h.shape)
            a = t.grad(tied.output.sum(), h)
            b = t.grad(tied.output.square().sum(), h)
            (a + b).save()


def test_in_a_padded_batch_each_row_has_its_own_gradient(tiny):
    def slopes(inputs):
        with tiny.trace(inputs) as t:
            h = tiny.layers[2].output
            return t.grad(tiny.output[:, -1, 40].sum(), h).save()

    texts = [FRANCE, ROME, GERMANY]
    batch = slopes(texts)
    for row, text in enumerate(texts):
        alone = slopes(text)[0]
        scale = float(mx.abs(alone).max())
        assert apart(batch[row, -alone.shape[0] :], alone) < 1e-4 * scale and scale > 1e-4


def test_gradients_are_params_and_graphs_like_all_else(tied, tokens):
    with tied.trace(tokens) as t:
        tied.layers[0].output *= mg.param("alpha")
        t.grad(loss_of(tied.output), tied.layers[1].output).save("slope")
        loss_of(tied.output).save("loss")
    fast = tied.compile(t.graph)
    for alpha in (1.0, 0.5):
        with tied.trace(tokens) as t:
            tied.layers[0].output *= alpha
            want = t.grad(loss_of(tied.output), tied.layers[1].output).save()
        got = fast(tokens, alpha=alpha)
        assert apart(got["slope"], want) < 1e-4 * float(mx.abs(want).max())
    halved = mg.edit("layers.0", iv.scale(0.5))
    chained = tied.run(halved >> t.graph.replace(writes=()), tokens)
    assert apart(chained["grad"], want) < 1e-4 * float(mx.abs(want).max())


def test_a_gradient_is_a_value_that_further_work_uses(tied, tokens):
    with tied.trace(tokens) as t:
        h = tied.layers[1].output
        slope = t.grad(loss_of(tied.output), h)
        norms = mx.linalg.norm(slope, axis=-1).save()
        first = slope[:, 0].save()
        assert slope.shape == h.shape and slope.dtype == h.dtype
        slope = slope.save()
    assert apart(norms, mx.linalg.norm(slope, axis=-1)) < 1e-6 and exact(first, slope[:, 0])


def test_a_gradient_of_a_gradient_is_refused_where_it_is_written(tied, tokens):
    with pytest.raises(GradientError, match="mx.grad") as caught:
        with tied.trace(tokens) as t:
            h = tied.layers[0].output
            slope = t.grad(loss_of(tied.output), h)
            t.grad(slope.sum(), h)
    assert "test_gradients" in str(caught.value)


def test_a_trace_with_gradients_works_inside_a_gradient(x):
    """The slope of a saliency by what was added to the input."""
    mx.random.seed(6)
    model = mg.InterpretableModel(Chain())

    def saliency(v):
        with model.trace(x + v) as t:
            h = model.layers[1].output
            s = t.grad(model.output.square().sum(), h).square().sum().save()
        return s

    v = mx.zeros(6)
    slope = mx.grad(saliency)(v)
    step = mx.array([1e-2, 0, 0, 0, 0, 0])
    change = (saliency(v + step) - saliency(v - step)) / 2e-2
    assert float(slope[0]) == pytest.approx(float(change), rel=5e-2)
