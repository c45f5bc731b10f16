"""`model.edit`: edits that stay, on a model that shares its weights; modules that are added."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import InputError, NameTakenError, NeverCalledError, OutsideTraceError
from tests.composing.helpers import FRANCE, GERMANY, ROME, apart, exact, plain
from tests.models import WIDTH, identity_of

HALF = mg.edit("layers.1", iv.scale(0.5))
QUIET = mg.edit("layers.*.mlp", iv.scale(0.1), positions=-1)
OUT = mg.read("__model_output__", name="out")


def test_the_original_stays_as_it_was_to_the_last_bit(fresh, tokens):
    """Law 25."""
    before = identity_of(fresh.module)
    clean = fresh.module(tokens)
    edited = fresh.edit(HALF)
    for _ in range(3):
        changed = edited(tokens)
    with edited.trace(tokens):
        edited.layers[2].output += 1
        edited.output.save()
    assert identity_of(fresh.module) == before
    assert exact(fresh.module(tokens), clean) and exact(fresh(tokens), clean)
    assert exact(fresh.run(OUT, tokens)["out"], clean)
    assert apart(changed, clean) > 1e-2
    assert edited.module is fresh.module and edited.edits == HALF and fresh.edits == mg.Graph()


def test_every_way_to_use_an_edited_model_has_the_edits(tied, tokens):
    edited = tied.edit(HALF)
    want = tied.run(HALF >> OUT, tokens)["out"]
    with edited.trace(tokens):
        traced = edited.output.save()
    assert exact(traced, want)
    assert exact(edited.run(OUT, tokens)["out"], want)
    for got in (
        edited(tokens),
        edited.compile(OUT)(tokens)["out"],
        edited.pass_(lambda m: m.output)(tokens),
        edited.run(mg.Graph(), tokens).output,
    ):
        assert apart(got, want) < 1e-4
    assert apart(want, plain(tied, tokens)) > 1e-2


def test_a_block_on_an_edited_model_goes_on_behind_the_edits(tied, tokens):
    edited = tied.edit(HALF)
    with edited.trace(tokens):
        seen = edited.layers[1].output.save()
        edited.layers[1].output += 1.0
        out = edited.output.save()
    with tied.trace(tokens):
        tied.layers[1].output *= 0.5
        want_seen = tied.layers[1].output.save()
        tied.layers[1].output += 1.0
        want = tied.output.save()
    assert exact(seen, want_seen) and exact(out, want)


def test_edits_stack_in_order(tied, tokens):
    plus, times = mg.edit("layers.1", lambda h: h + 1.0), mg.edit("layers.1", iv.scale(2.0))
    one = tied.edit(plus).edit(times)
    other = tied.edit(times).edit(plus)
    assert exact(one(tokens), tied.run(plus >> times, tokens).output)
    assert exact(other(tokens), tied.run(times >> plus, tokens).output)
    assert apart(one(tokens), other(tokens)) > 1e-3
    assert one.edits == plus >> times
    assert exact(one.without_edits()(tokens), plain(tied, tokens))
    middle = tied.edit(plus)
    middle.edit(times)
    assert exact(middle(tokens), tied.run(plus, tokens).output)


def test_edits_recorded_in_a_block_stay(tied, tokens):
    with tied.edit() as edited:
        h = tied.layers[1].output
        h[:, -1] *= 0.5
        edited.layers[2].mlp.output = edited.layers[2].mlp.output * 0.1
    assert len(edited.edits.writes) == 2
    with tied.trace(tokens):
        tied.layers[1].output[:, -1] *= 0.5
        tied.layers[2].mlp.output *= 0.1
        want = tied.output.save()
    assert exact(edited(tokens), want)
    assert exact(tied(tokens), plain(tied, tokens)) and apart(want, plain(tied, tokens)) > 1e-3


def test_a_block_of_edits_goes_on_behind_earlier_edits(tied, tokens):
    first = tied.edit(HALF)
    with first.edit() as second:
        second.layers[1].output += 1.0
    want = tied.run(HALF >> mg.edit("layers.1", lambda h: h + 1.0), tokens).output
    assert exact(second(tokens), want)
    assert exact(first(tokens), tied.run(HALF, tokens).output)


def test_a_block_of_edits_that_raises_edits_nothing(tied, tokens):
    with pytest.raises(ZeroDivisionError):
        with tied.edit() as edited:
            edited.layers[0].output = 0
            raise ZeroDivisionError
    assert exact(edited(tokens), plain(tied, tokens))
    assert exact(tied(tokens), plain(tied, tokens))


def test_recorded_edits_serve_inputs_of_any_length(tied):
    with tied.edit() as edited:
        h = edited.layers[1].output
        edited.layers[1].output = h - h.mean(axis=-1, keepdims=True)
        edited.layers[2].output[:, -1] *= 0.5
    for length in (2, 5, 11):
        x = mx.arange(length)[None] + 3
        with tied.trace(x):
            h = tied.layers[1].output
            tied.layers[1].output = h - h.mean(axis=-1, keepdims=True)
            tied.layers[2].output[:, -1] *= 0.5
            want = tied.output.save()
        assert apart(edited(x), want) < 1e-5 and apart(want, plain(tied, x)) > 1e-2


def test_edits_recorded_on_a_float_model_take_an_example(chain, x):
    with chain.edit(x) as edited:
        edited.layers[0].output[..., 0] = 0
    with chain.trace(x):
        chain.layers[0].output[..., 0] = 0
        want = chain.output.save()
    assert exact(edited(x), want) and apart(want, chain.module(x)) > 1e-3
    with chain.trace(2 * x[:1]):
        chain.layers[0].output[..., 0] = 0
        want = chain.output.save()
    assert apart(edited(2 * x[:1]), want) < 1e-6


def test_texts_of_any_kind(tiny):
    edited = tiny.edit(QUIET)
    texts = [FRANCE, ROME, GERMANY]
    batch = edited(texts)
    for row, text in enumerate(texts):
        alone = edited(text)[0]
        assert apart(batch[row, -alone.shape[0] :], alone) < 1e-4
        assert apart(alone, plain(tiny, text)[0]) > 1e-2
    assert exact(edited(tiny.encode(ROME)), edited(ROME))


def test_params_of_edits_that_stay_are_given_to_the_call(tied, tokens):
    edited = tied.edit(mg.edit("layers.1", iv.scale(mg.param("alpha"))))
    assert edited.edits.params == ("alpha",)
    for alpha in (0.5, 2.0):
        want = tied.run(mg.edit("layers.1", iv.scale(alpha)), tokens).output
        assert apart(edited(tokens, alpha=alpha), want) < 1e-4
        assert apart(edited.run(OUT, tokens, alpha=alpha)["out"], want) < 1e-4
        with edited.trace(tokens, params={"alpha": alpha}):
            out = edited.output.save()
        assert apart(out, want) < 1e-4


def test_training_is_seen_by_the_edited_model(fresh, tokens):
    edited = fresh.edit(HALF)
    before = edited(tokens)
    for _ in range(2):
        edited(tokens)  # compiled by now
    fresh.module.model.norm.weight = fresh.module.model.norm.weight * 2
    assert apart(edited(tokens), before * 2) < 1e-3 < apart(before, before * 2)


def test_names_and_tokenizer_are_the_models_own(tiny):
    edited = tiny.edit(HALF)
    assert edited.tokenizer is tiny.tokenizer and len(edited.layers) == 6
    assert [n for n, _ in edited.named_modules()] == [n for n, _ in tiny.named_modules()]
    assert edited.encode(ROME) == tiny.encode(ROME)


# -- added modules ----------------------------------------------------------------------------


class SAE(nn.Module):
    """A sparse autoencoder: features, and what they explain."""

    def __init__(self, width, features):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(width, features), nn.Linear(features, width)

    def __call__(self, h):
        return self.decoder(nn.relu(self.encoder(h)))


class LoRA(nn.Module):
    """What a low-rank adapter adds to a linear layer's output."""

    def __init__(self, width, out, rank=2):
        super().__init__()
        self.a = mx.random.normal((width, rank), key=mx.random.key(0)) * 0.1
        self.b = mx.zeros((rank, out))

    def __call__(self, x):
        return (x @ self.a) @ self.b


@pytest.fixture
def sae():
    mx.random.seed(11)
    module = SAE(WIDTH, 64)
    mx.eval(module.parameters())
    return module


def test_an_added_module_is_addressable_and_runs_in_the_block(fresh, tokens, sae):
    before = identity_of(fresh.module)
    fresh.sae = sae
    with fresh.trace(tokens):
        h = fresh.layers[1].output
        back = fresh.sae(h)
        assert back.shape == h.shape
        features = fresh.sae.encoder(h).save()
        same = fresh.sae.output.save()
        fresh.layers[1].output = back
        out = fresh.output.save()
    h = fresh.run(mg.read("layers.1", name="h"), tokens)["h"]
    assert exact(same, sae(h)) and exact(features, sae.encoder(h))
    want = fresh.run(mg.edit("layers.1", iv.replace_with(sae(h))), tokens).output
    assert apart(out, want) < 1e-5 and apart(out, fresh.module(tokens)) > 1e-2
    assert identity_of(fresh.module) == before and "sae" not in fresh.module
    assert "sae" in dict(fresh.named_modules()) and "sae.encoder" in dict(fresh.named_modules())
    assert fresh.sae.module is sae and "sae" in dir(fresh)


def test_outside_of_a_block_an_added_module_runs_at_once(fresh, sae):
    fresh.sae = sae
    x = mx.ones((1, WIDTH))
    assert exact(fresh.sae(x), sae(x))
    with pytest.raises(OutsideTraceError):
        fresh.sae.output  # noqa: B018


def test_what_an_added_module_gave_is_known_only_once_it_was_called(fresh, tokens, sae):
    fresh.sae = sae
    with pytest.raises(NeverCalledError, match="sae"):
        with fresh.trace(tokens):
            fresh.sae.output.save()


def test_what_an_added_module_gave_can_be_edited(fresh, tokens, sae):
    """Ablating one feature of an SAE that stands in the forward."""
    fresh.sae = sae
    with fresh.trace(tokens):
        f = nn.relu(fresh.sae.encoder(fresh.layers[1].output))
        f[..., 3] = 0
        fresh.layers[1].output = fresh.sae.decoder(f)
        out = fresh.output.save()

    def ablated(h):
        f = nn.relu(sae.encoder(h))
        f[..., 3] = 0
        return sae.decoder(f)

    h = fresh.run(mg.read("layers.1", name="h"), tokens)["h"]
    want = fresh.run(mg.edit("layers.1", iv.replace_with(ablated(h))), tokens).output
    assert apart(out, want) < 1e-5
    whole = fresh.run(mg.edit("layers.1", iv.replace_with(sae(h))), tokens).output
    assert apart(out, whole) > 1e-4


def test_a_name_that_the_model_uses_is_refused(fresh, sae):
    for name in ("layers", "model", "lm_head", "trace", "tokenizer"):
        with pytest.raises(NameTakenError, match=name) as caught:
            setattr(fresh, name, sae)
        assert isinstance(caught.value, AttributeError)
    fresh.sae = sae
    fresh.sae = SAE(WIDTH, 8)  # its own name may be given again
    assert fresh.sae.encoder.module.weight.shape == (8, WIDTH)


def test_an_added_module_may_be_exchanged(fresh, tokens, sae):
    other = SAE(WIDTH, 64)
    results = []
    for module in (sae, other):
        fresh.sae = module
        with fresh.trace(tokens):
            results.append(fresh.sae(fresh.layers[1].output).save())
    h = fresh.run(mg.read("layers.1", name="h"), tokens)["h"]
    assert exact(results[0], sae(h)) and exact(results[1], other(h))


def test_new_weights_of_an_added_module_are_seen_without_compiling_anew(fresh, tokens, sae):
    fresh.sae = sae

    @fresh.pass_(compile=True)
    def spliced(m):
        m.layers[1].output = m.sae(m.layers[1].output)
        return m.output

    first = spliced(tokens)
    compiled = fresh.compilations
    sae.decoder.weight = sae.decoder.weight * 3
    second = spliced(tokens)
    assert fresh.compilations == compiled
    assert apart(first, second) > 1e-2
    h = fresh.run(mg.read("layers.1", name="h"), tokens)["h"]
    want = fresh.run(mg.edit("layers.1", iv.replace_with(sae(h))), tokens).output
    assert apart(second, want) < 1e-4


def test_an_added_module_is_trained_through_the_model(fresh, tokens, sae):
    """Its loss is the model's own, with the module in the middle of the forward."""
    fresh.sae = sae
    frozen = [mx.array(p) for _, p in nn.utils.tree_flatten(fresh.module.parameters())]
    clean = mx.softmax(fresh.module(tokens), axis=-1)

    @fresh.pass_
    def spliced(m):
        m.layers[1].output = m.sae(m.layers[1].output)
        return m.output

    def loss(sae):
        return nn.losses.cross_entropy(spliced(tokens), clean).mean()

    step, optimizer, losses = nn.value_and_grad(sae, loss), optim.Adam(1e-2), []
    for _ in range(12):
        value, slopes = step(sae)
        optimizer.update(sae, slopes)
        mx.eval(sae.parameters())
        losses.append(float(value))
    assert losses[-1] < losses[0] - 0.05
    flat = dict(nn.utils.tree_flatten(slopes))
    assert set(flat) == {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"}
    assert all(float(mx.abs(slope).max()) > 0 for slope in flat.values())
    now = [p for _, p in nn.utils.tree_flatten(fresh.module.parameters())]
    assert all(exact(a, b) for a, b in zip(frozen, now, strict=True))


def test_gradients_of_an_added_module_are_those_of_the_forward_written_by_hand(fresh, tokens):
    lora = LoRA(WIDTH, WIDTH)
    lora.b = mx.random.normal(lora.b.shape, key=mx.random.key(9)) * 0.1
    fresh.lora = lora

    def loss(lora):
        with fresh.trace(tokens):
            q = fresh.layers[1].self_attn.q_proj
            q.output = q.output + fresh.lora(q.input)
            return fresh.output.square().mean().save()

    class Adapted(nn.Module):
        def __init__(self, inner, lora):
            super().__init__()
            self.inner, self.lora = inner, lora

        def __call__(self, x):
            return self.inner(x) + self.lora(x)

    value, slopes = nn.value_and_grad(lora, loss)(lora)
    attention = fresh.module.model.layers[1].self_attn
    attention.q_proj = Adapted(attention.q_proj, lora)
    want, wanted = nn.value_and_grad(lora, lambda _: fresh.module(tokens).square().mean())(lora)
    assert apart(value, want) < 1e-4 * float(want)
    for name in ("a", "b"):
        assert apart(slopes[name], wanted[name]) < 1e-4 * float(mx.abs(wanted[name]).max())


def test_an_adapter_that_does_nothing_yet_changes_nothing(fresh, tokens):
    fresh.lora = LoRA(WIDTH, WIDTH)  # its second factor is zero
    with fresh.edit() as adapted:
        for layer in adapted.layers:
            q = layer.self_attn.q_proj
            q.output = q.output + adapted.lora(q.input)
    assert apart(adapted(tokens), plain(fresh, tokens)) < 1e-5
    fresh.lora.module.b = mx.ones((2, WIDTH))
    assert apart(adapted(tokens), plain(fresh, tokens)) > 1e-2
    assert exact(fresh(tokens), fresh.module(tokens))


def test_edited_models_share_added_modules(fresh, tokens, sae):
    edited = fresh.edit(HALF)
    fresh.sae = sae
    with edited.trace(tokens):
        got = edited.sae(edited.layers[1].output).save()
    h = edited.run(mg.read("layers.1", name="h"), tokens)["h"]
    assert exact(got, sae(h))


def test_a_block_without_an_example_on_a_model_that_takes_no_tokens():
    model = mg.InterpretableModel(nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(InputError, match=r"Write model.edit\(x\)"), model.edit() as edited:
        edited.layers[0].output *= 2
    x = mx.ones((2, 4))
    with model.edit(x) as edited:
        edited.layers[0].output *= 2
    assert apart(edited(x), model(x) * 2) < 1e-6
