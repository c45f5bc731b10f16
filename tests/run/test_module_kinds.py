"""Modules of MLX, modules called by hand, and models that do awkward things."""

from __future__ import annotations

import weakref

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.errors import CompileError, NeverCalledError
from tests import models
from tests.models import made

# -- modules of MLX -------------------------------------------------------------------------------


def test_multi_head_attention(x):
    model = made(nn.MultiHeadAttention(6, 2))
    mask = nn.MultiHeadAttention.create_additive_causal_mask(4)
    for compile in (False, True):
        with model.trace(x, x, x, mask=mask, compile=compile):
            model.value_proj.output[:, 0] = 0.0
            out = model.output.save()
            queries = model.query_proj.output.save()
        assert queries.shape == (2, 4, 6)
        assert models.same(out[:, 0], mx.zeros((2, 6)), 1e-6)
        assert not models.same(out, model.module(x, x, x, mask=mask), 1e-3)


def test_transformer_encoder(x):
    model = made(nn.TransformerEncoder(2, 6, 2, mlp_dims=12))
    mask = nn.MultiHeadAttention.create_additive_causal_mask(4)
    for compile in (False, True):
        with model.trace(x, mask, compile=compile):
            model.layers[0].attention.output[:, -1, :2] += 1.0
            middle = model.layers[0].output.save()
            linear = model.layers[1].linear1.output.save()
            out = model.output.save()
        plain = model.module(x, mask)
        assert linear.shape == (2, 4, 12) and middle.shape == (2, 4, 6)
        assert models.same(out[:, :-1], plain[:, :-1], 1e-5)
        assert not models.same(out[:, -1], plain[:, -1], 1e-3)


def test_sequential_and_layers_of_it(x):
    model = made(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    with model.trace(x):
        assert len(model.layers) == 3
        model.layers[1].output[..., 0] = 9.0
        hidden = model.layers[2].input.save()
        out = model.output.save()
    assert bool(mx.all(hidden[..., 0] == 9.0))
    assert models.same(out, model.module.layers[2](hidden), 1e-5)


def test_convolutions_embeddings_and_norms():
    class Picture(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.norm = nn.GroupNorm(2, 4)
            self.pool = nn.MaxPool2d(2)
            self.table = nn.Embedding(10, 4)

        def __call__(self, image, label):
            h = self.pool(nn.relu(self.norm(self.conv(image))))
            return h.mean((1, 2)) + self.table(label)

    model = made(Picture)
    image = mx.random.normal((2, 8, 8, 3))
    label = mx.array([3, 4])
    with model.trace(image, label):
        model.conv.output[..., 0] = 0.0
        model.table.output *= 0.0
        pooled = model.pool.output.save()
        out = model.output.save()
    assert pooled.shape == (2, 4, 4, 4)
    assert models.same(out, pooled.mean((1, 2)), 1e-5)


def test_recurrent_modules(x):
    model = made(nn.LSTM(6, 5))
    with model.trace(x):
        hidden, cell = model.output
        hidden[:, -1] = 0.0
        hidden, cell = hidden.save(), cell.save()
    plain = model.module(x)
    assert models.same(cell, plain[1], 1e-5) and bool(mx.all(hidden[:, -1] == 0))
    assert models.same(hidden[:, :-1], plain[0][:, :-1], 1e-5)


def test_quantised_models(tokens):
    module = models.make_llama(False)
    nn.quantize(module, group_size=32, bits=4)
    for part in (module.lm_head, module.model.layers[1].self_attn.q_proj):
        assert type(part) is nn.QuantizedLinear
    model = mg.InterpretableModel(module)
    plain = module(tokens)
    for compile in (False, True):
        with model.trace(tokens, compile=compile):
            model.layers[0].mlp.output = model.layers[0].mlp.output
            same = model.output.save()
        assert models.same(same, plain, 1e-4 if compile else 0.0)
        with model.trace(tokens, compile=compile):
            model.layers[1].attn.q_proj.output[:, -1] *= -1
            logits = model.lm_head(model["model.norm"](model.layers[-1].output)).save()
            out = model.output.save()
        assert models.same(logits, out, 1e-5)
        assert models.same(out[:, :-1], plain[:, :-1], 1e-4)
        assert not models.same(out[:, -1], plain[:, -1], 1e-3)


# -- calling modules ------------------------------------------------------------------------------


@pytest.mark.parametrize("compile", [False, True])
def test_calling_a_handle_bypasses_the_models_own_edits(chain, x, compile):
    with chain.trace(x, compile=compile):
        chain.layers[1].output = 0.0
        chain.layers[0].output += 1
        h = chain.layers[0].output.save()
        by_handle = chain.layers[1](h).save()
        by_call = chain.layers[1](chain.layers[1].input).save()
        given = chain.layers[1].input.save()
        own = chain.layers[1].output.save()
    assert models.same(by_handle, chain.module.layers[1](h), 1e-6)
    assert models.same(by_call, chain.module.layers[1](given), 1e-6)
    assert bool(mx.all(own == 0.0))


@pytest.mark.parametrize("compile", [False, True])
def test_a_module_called_by_hand_before_the_model_comes_to_it_is_not_edited(chain, x, compile):
    with chain.trace(x, compile=compile):
        h = chain.layers[0].output
        chain.layers[0].output = chain.layers[1](h)
        chain.layers[1].output *= 2
        written = chain.layers[0].output.save()
        given, doubled = chain.layers[1].input.save(), chain.layers[1].output.save()
    first, second = chain.module.layers[:2]
    assert models.same(written, second(first(x)), 1e-5)
    assert models.same(given, x + mx.tanh(written), 1e-5)
    assert models.same(doubled, second(given) * 2, 1e-5)


def test_calling_a_raw_module_of_the_model_or_a_foreign_one_on_a_proxy(chain, x):
    foreign = nn.Linear(6, 3)
    stack = nn.Sequential(nn.LayerNorm(6), nn.GELU(), foreign)
    with chain.trace(x):
        h = chain.layers[0].output.save()
        own = chain.module.layers[1](h).save()
        outside = foreign(h).save()
        several = stack(h).save()
    assert models.same(own, chain.module.layers[1](h), 1e-6)
    assert models.same(outside, foreign(h), 1e-6)
    assert models.same(several, stack(h), 1e-5)


def test_calling_the_whole_model_and_a_container_of_arrays(chain, mixed, x, y):
    with chain.trace(x):
        whole = chain(chain.input * 2).save()
    assert models.same(whole, chain.module(x * 2), 1e-6)
    with mixed.trace(x, y):
        pair = mixed.parts.left(mixed.inputs[0][0], other=mixed.inputs[0][1])
        first = pair[0].save()
    assert models.same(first, mixed.module.parts["left"].proj(x), 1e-6)


def test_calling_a_module_with_a_shape_it_does_not_take_raises_at_the_line(chain, x):
    with chain.trace(x), pytest.raises(ValueError) as caught:
        chain.layers[1](chain.layers[0].output[..., :3])
    assert "test_module_kinds.py" in str(caught.value)


def test_a_call_that_was_recorded_sees_weights_of_the_run(chain, x):
    for compile in (True, True):
        with chain.trace(x, compile=compile):
            out = chain.layers[2](chain.layers[0].output).save()
            h = chain.layers[0].output.save()
        assert models.same(out, chain.module.layers[2](h), 1e-5)
        chain.module.layers[2].weight = chain.module.layers[2].weight * 2 + 1


def test_handles_work_on_plain_arrays_outside_a_trace(chain, x):
    assert models.same(chain.layers[1](x), chain.module.layers[1](x))
    assert models.same(chain(x), chain.module(x))


# -- awkward models -------------------------------------------------------------------------------


def test_a_model_that_branches_on_values_stays_eager(x):
    model = made(models.Branching)
    for given, taken in ((x + 2, "up"), (x - 2, "down"), (x + 3, "up")):
        for _ in range(3):
            with model.trace(given):
                getattr(model, taken).output += 1.0
                out = model.output.save()
            expected = model.module.out(getattr(model.module, taken)(given) + 1.0)
            assert models.same(out, expected, 1e-6)
    assert model.compilations == 0


def test_forcing_a_model_that_branches_to_compile_says_what_to_write(x):
    model = made(models.Branching)
    with pytest.raises(CompileError) as caught, model.trace(x, compile=True):
        model.output.save()
    assert "compile=False" in str(caught.value) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize("compile", [False, True, "auto"])
def test_a_forward_that_stores_state_in_a_module_leaves_the_users_module_alone(x, compile):
    model = made(models.Remembering)
    module = model.module
    for _ in range(3):
        with model.trace(x, compile=compile):
            model.inner.output += 1.0
            out = model.output.save()
        assert models.same(out, module.inner(x) + 2.0, 1e-5)
    assert module.last is None and module.count.item() == 0 and module.history == []


def test_in_place_residual_streams_are_read_as_they_were(x):
    """`x += y` in the model changes the array object that a module gave out."""
    model = made(models.InPlace)
    for compile in (False, True):
        with model.trace(x, compile=compile):
            embedded = model.embed.output.save()
            given = [layer.input.save() for layer in model.layers]
            out = model.output.save()
        assert models.same(embedded, model.module.embed(x), 1e-6)
        stream = embedded
        for k, layer in enumerate(model.module.layers):
            assert models.same(given[k], stream, 1e-5)
            stream = stream + mx.tanh(layer(stream))
        assert models.same(out, stream, 1e-5)


@pytest.mark.parametrize("compile", [False, True])
def test_what_is_written_into_an_in_place_stream_is_kept_as_it_was(x, compile):
    model = made(models.InPlace)
    with model.trace(x, compile=compile):
        model.embed.output = model.embed.output * 2
        written = model.embed.output.save()
        out = model.output.save()
    assert models.same(written, model.module.embed(x) * 2, 1e-6)
    assert not models.same(out, written, 1e-2), "the model adds to what it was given"


def test_an_edit_does_not_change_the_users_arrays_in_place(x):
    model = made(models.InPlace)
    patch = mx.ones((2, 4, 6))
    given = mx.array(x)
    with model.trace(given, compile=False):
        model.embed.output = patch
        model.input += 1
        model.output.save()
    assert bool(mx.all(patch == 1.0)) and models.same(given, x)


def test_attributes_and_methods_of_modules_are_reached_through_handles(fresh):
    assert fresh.layers[0].attn.n_heads == 4
    assert fresh.layers[0].attn.q_proj.weight.shape == (32, 32)
    assert fresh.args.num_hidden_layers == 3
    assert fresh.sanitize({"a": 1}) == fresh.module.sanitize({"a": 1})
    assert not hasattr(fresh, "no_such_method") and not hasattr(fresh.layers[0], "no_such_method")


def test_a_module_with_a_submodule_named_like_a_port(x):
    class Ports(nn.Module):
        def __init__(self):
            super().__init__()
            self.output = nn.Linear(6, 6)
            self.input = nn.Linear(6, 6)

        def __call__(self, x):
            return self.output(mx.tanh(self.input(x)))

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Ports()

        def __call__(self, x):
            return self.inner(x)

    model = made(Wrapped)
    with model.trace(x):
        first = model["inner.input"].output.save()
        whole = model["inner"].output.save()
    assert models.same(first, model.module.inner["input"](x), 1e-6)
    assert models.same(whole, model.module(x), 1e-6)


def test_a_model_of_one_module(x):
    model = made(nn.Linear(6, 6))
    with model.trace(x):
        model.input += 1
        model.output *= 2
        out = model.output.save()
    assert models.same(out, model.module(x + 1) * 2, 1e-6)


def test_models_that_return_none_or_plain_values(x):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 6)

        def __call__(self, x):
            return self.inner(x), None, 3, "text"

    model = made(Odd)
    for compile in (False, True):
        with model.trace(x, compile=compile):
            out = model.output
            assert out[1] is None and out[2] == 3 and out[3] == "text"
            first = out[0].save()
            whole = out.save()
        assert models.same(first, model.module.inner(x), 1e-6)
        assert whole[1:] == (None, 3, "text") and models.same(whole[0], first, 1e-6)


def _closure(module):
    module.fn = lambda v: module.b(v)


def _method(module):
    module.fn = module.b.__call__


def _listed(module):
    module.fns = [module.b.__call__]
    module.fn = lambda v: module.fns[0](v)


def _in_a_dict(module):
    module.table = {"step": module.b.__call__}
    module.fn = lambda v: module.table["step"](v)


def _default(module):
    module.fn = lambda v, b=module.b: b(v)


class Holding(nn.Module):
    """Calls a child by way of something that holds on to it."""

    def __init__(self, hold):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        hold(self)

    def __call__(self, x):
        return self.fn(self.a(x))


@pytest.mark.parametrize("compile", [False, "auto"])
@pytest.mark.parametrize("hold", [_closure, _default])
def test_a_child_held_by_a_function_is_edited_and_its_weights_are_live(x, hold, compile):
    model = made(Holding(hold))
    module = model.module
    for _ in range(3):
        with model.trace(x, compile=compile):
            model.a.output += 1.0
            model.b.output *= 2.0
            out = model.output.save()
        assert models.same(out, module.b(module.a(x) + 1.0) * 2.0, 1e-5)
        module.b.weight = module.b.weight * 2
        mx.eval(module.b.weight)


@pytest.mark.parametrize("compile", [False, "auto"])
@pytest.mark.parametrize("hold", [_method, _listed, _in_a_dict])
def test_a_child_held_by_its_bound_call_is_refused_and_its_weights_are_live(x, hold, compile):
    """Python does not ask the class of a bound `__call__` again: no edit, and no wrong number."""
    model = made(Holding(hold))
    module = model.module
    for _ in range(3):
        with model.trace(x, compile=compile):
            model.a.output += 1.0
            with pytest.raises(NeverCalledError):
                model.b.output *= 2.0
            out = model.output.save()
        assert models.same(out, module.b(module.a(x) + 1.0), 1e-5)
        module.b.weight = module.b.weight * 2
        mx.eval(module.b.weight)


class ByProxy(nn.Module):
    """A child that is also reached through a weak proxy."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.again = weakref.proxy(self.lin)

    def __call__(self, x):
        return self.again(x)


@pytest.mark.parametrize("compile", [False, True, "auto"])
def test_a_child_behind_a_weak_proxy(compile):
    model = made(ByProxy)
    x = mx.ones((2, 4))
    for _ in range(2):
        with model.trace(x, compile=compile):
            model.lin.output *= 2
            out, again = model.output.save(), model.again.output.save()
        assert models.same(out, model.module(x) * 2, 1e-6) and models.same(again, out)
    model.module.lin.weight = model.module.lin.weight * 3
    with model.trace(x, compile=compile):
        out = model.output.save()
    assert models.same(out, model.module(x), 1e-6)
