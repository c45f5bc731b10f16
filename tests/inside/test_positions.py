"""Positions of what is inside a module: the axis is found, never guessed."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models.cache import make_prompt_cache

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import ShapeError
from tests.architectures import configs

KERNEL = "layers.1.attn.ops.fast.scaled_dot_product_attention"
HEADS = 4
model = mg.InterpretableModel(configs.build("llama"))
tiny = mg.tiny()


def tokens(length):
    return mx.array([[(7 * k + 3) % 90 for k in range(length)]])


def same(a, b):
    return a.shape == b.shape and bool(mx.array_equal(a, b))


@pytest.mark.parametrize("length", [HEADS, HEADS + 3])
@pytest.mark.parametrize("positions", [-1, [0, -1], slice(1, 3)])
@pytest.mark.parametrize("site", [KERNEL, "layers.1.attn.rope"])
@pytest.mark.thin(3)
def test_heads_as_many_as_tokens_are_not_taken_for_positions(length, positions, site):
    graph = mg.edit(site, iv.scale(-2.0), positions=positions) >> mg.read("__model_output__", "y")
    edited = model.run(graph, tokens(length)).saves["y"]
    chosen = [positions] if isinstance(positions, int) else positions
    with model.trace(tokens(length)):
        model[site].output[:, :, chosen] *= -2.0
        wanted = model.output.save()
    with model.trace(tokens(length)):
        model[site].output[:, -1] *= -2.0
        other = model.output.save()
    assert same(edited, wanted)
    assert not same(edited, other)


def test_in_a_padded_batch_positions_are_those_of_each_row():
    rows = [[5, 6, 7, 8], [1, 2, 3, 4, 5, 6]]
    graph = mg.edit(KERNEL, iv.zero_out, positions=1) >> mg.read(KERNEL, "h")
    both = model.run(graph, rows).saves["h"]
    assert not bool(mx.any(both[0, :, 3])) and not bool(mx.any(both[1, :, 1]))
    assert bool(mx.all(mx.any(both[0, :, 4:] != 0, axis=-1)))
    assert bool(mx.all(mx.any(both[1, :, 2:] != 0, axis=-1)))


class Heads(nn.Module):
    """Heads before positions, on arrays that are no tokens."""

    def __call__(self, h):
        return mx.tanh(h.reshape(1, -1, 2, 4).transpose(0, 2, 1, 3))


class Flat(nn.Module):
    """Experts chosen for tokens without an axis of rows."""

    def __init__(self):
        super().__init__()
        self.router = mx.random.normal((8, 5))

    def __call__(self, h):
        return mx.softmax(h.reshape(-1, 8) @ self.router, axis=-1)


def test_of_arrays_that_are_no_tokens_too():
    x = mx.random.normal((1, 5, 8), key=mx.random.key(1))
    own = mg.InterpretableModel(Heads())
    edited = own.run(mg.edit("ops.tanh", iv.zero_out, positions=-1), x).output
    wanted = mx.array(own(x))
    wanted[:, :, -1] = 0
    assert same(edited, wanted) and bool(mx.any(own(x)[:, :, -1] != 0))


def test_what_has_no_axis_of_positions_beside_that_of_rows_is_refused():
    own = mg.InterpretableModel(Flat())
    x = mx.random.normal((1, 5, 8), key=mx.random.key(1))
    with pytest.raises(ShapeError, match="axis of positions"):
        own.run(mg.edit("ops.softmax", iv.zero_out, positions=-1), x)
    whole = own.run(mg.edit("ops.softmax", iv.zero_out), x).output
    assert not bool(mx.any(whole))


@pytest.mark.parametrize("length", [8, 6])  # tiny has eight heads
def test_activations_are_taken_at_positions(length):
    site = "layers.2.attn.ops.fast.scaled_dot_product_attention"
    names = [site, "layers.2.attn.rope", "layers.2.attn.heads"]
    found = mg.get_activations(tiny, tokens(length), layers=names, positions=[0, -1])
    with tiny.trace(tokens(length)):
        wanted = {name: tiny[name].output.transpose(0, 2, 1, 3).save() for name in names}
    for name in names:
        assert same(found[name], wanted[name][:, [0, -1]]), name
    with pytest.raises(ShapeError):
        mg.get_activations(tiny, tokens(length), layers=["layers.2.attn.pattern"], positions=-1)


CLEAN, CORRUPTED = tokens(6), tokens(8) + 1  # the longer one has as many tokens as there are heads


@pytest.mark.parametrize("component", ["heads", "queries", "pattern", "rope"])
@pytest.mark.parametrize("align", ["start", "end"])
@pytest.mark.parametrize("texts", [(CLEAN, CORRUPTED), (CORRUPTED, CLEAN)])
@pytest.mark.thin(4)
def test_patching_aligned_texts_is_patching_by_hand(component, align, texts):
    clean, corrupted = texts
    found = tiny.activation_patching(
        clean, corrupted, component=f"attn.{component}", layers=[2], align=align
    )
    with tiny.trace(clean):
        value = tiny[f"layers.2.attn.{component}"].output.save()
        best = tiny.output[0, -1].save()
    with tiny.trace(corrupted):
        worst = tiny.output[0, -1].save()
    own = slice(0, 6) if align == "start" else slice(-6, None)
    short = slice(None)
    source, target = (short, own) if clean.shape[1] == 6 else (own, short)
    with tiny.trace(corrupted):
        site = tiny[f"layers.2.attn.{component}"].output
        if component == "pattern":
            keys = mx.zeros((1, 8, 6, corrupted.shape[1]))
            if clean.shape[1] == 6:
                keys[..., own] = value
            else:  # what they see of tokens that the shorter text does not have goes
                keys[...] = value[:, :, own, own]
            site[:, :, target] = keys
        else:
            site[:, :, target] = value[:, :, source]
        patched = tiny.output[0, -1].save()
    distance, base = (mx.linalg.norm(a - best).item() for a in (patched, worst))
    assert abs(found[2] - 100 * (base - distance) / base) < 1e-2
    assert abs(found[2]) > 1e-2


def test_keys_of_a_cache_that_keeps_the_last_ones_have_no_positions():
    gemma = mg.InterpretableModel(configs.build("gemma3_text"))
    text = tokens(10)[0].tolist()

    def filled():
        cache = make_prompt_cache(gemma.module)
        gemma.module(mx.array([text[:4]]), cache=cache)
        for token in text[4:-1]:
            gemma.module(mx.array([[token]]), cache=cache)
        return cache

    newest = mx.array([text[-1:]])
    for name in ("keys", "values"):
        with pytest.raises(ShapeError, match="6 keys, which are not those of all tokens"):
            graph = mg.edit(f"layers.0.attn.{name}", iv.zero_out, positions=-1)
            gemma.run(graph, newest, cache=filled())
    whole = mg.edit("layers.0.attn.keys", iv.zero_out) >> mg.read("layers.0.attn.keys", "k")
    assert not bool(mx.any(gemma.run(whole, newest, cache=filled()).saves["k"]))
    site = "layers.1.attn.keys"  # of all tokens
    graph = mg.edit(site, iv.zero_out, positions=-1) >> mg.read(site, "v")
    value = gemma.run(graph, newest, cache=filled()).saves["v"]
    assert value.shape[2] == 10
    assert not bool(mx.any(value[:, :, 9])) and bool(mx.any(value[:, :, 8]))
    site = "layers.0.attn.queries"
    graph = mg.edit(site, iv.zero_out, positions=-1) >> mg.read(site, "v")
    assert not bool(mx.any(gemma.run(graph, newest, cache=filled()).saves["v"]))
