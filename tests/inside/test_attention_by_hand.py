"""Attention that a model writes out by hand: seen where that is certain, and else refused."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import HeadsError, NeverCalledError, UnknownSiteError

HEADS, WIDTH, LENGTH = 4, 32, 8
x = mx.random.normal((2, LENGTH, WIDTH), key=mx.random.key(0))
NAMES = ("queries", "keys", "values", "scores", "pattern", "heads")


class Attention(nn.Module):
    """`inner` is what a subclass does between projections."""

    def __init__(self, groups: int = HEADS):
        super().__init__()
        self.n_heads, self.groups, self.width = HEADS, groups, WIDTH // HEADS
        self.q_proj = nn.Linear(WIDTH, WIDTH)
        self.k_proj = nn.Linear(WIDTH, groups * self.width)
        self.v_proj = nn.Linear(WIDTH, groups * self.width)
        self.o_proj = nn.Linear(WIDTH, WIDTH)

    def split(self, y, heads):
        return y.reshape(*y.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    def __call__(self, h):
        q = self.split(self.q_proj(h), HEADS) / self.width**0.5
        k, v = (self.split(p(h), self.groups) for p in (self.k_proj, self.v_proj))
        out = self.inner(q, k, v)
        return self.o_proj(out.reshape(q.shape).transpose(0, 2, 1, 3).reshape(h.shape))


class ByOperators(Attention):
    def inner(self, q, k, v):
        return mx.softmax(q @ k.swapaxes(-1, -2), axis=-1) @ v


class ByFunctions(Attention):
    def inner(self, q, k, v):
        return mx.matmul(mx.softmax(mx.matmul(q, k.transpose(0, 1, 3, 2)), -1), v)


class InFloat32(Attention):
    """As OLMo: the pattern is cast on its way."""

    def inner(self, q, k, v):
        scores = q @ k.swapaxes(-1, -2)
        scores += mx.triu(mx.full((LENGTH, LENGTH), -1e9), 1)
        pattern = mx.softmax(scores.astype(mx.float32), axis=-1).astype(scores.dtype)
        return pattern @ v


class Grouped(Attention):
    """As Gemma 2: an axis for the queries that share a key."""

    def __init__(self):
        super().__init__(groups=2)

    def inner(self, q, k, v):
        q = q.reshape(q.shape[0], 2, 2, *q.shape[2:])
        scores = mx.tanh(q @ k[:, :, None].swapaxes(-1, -2) / 3) * 3
        return mx.softmax(scores, axis=-1, precise=True) @ v[:, :, None]


class ByActivation(Attention):
    """Its softmax is that of `nn`, of scores that are masked in place."""

    def inner(self, q, k, v):
        scores = mx.minimum(q @ k.swapaxes(-1, -2), 30.0)
        scores[..., -1] = -1e9
        return nn.softmax(scores) @ v


class Windowed(Attention):
    """As Swin: its scores are masked in another shape."""

    def inner(self, q, k, v):
        scores = mx.reshape(q @ k.swapaxes(-1, -2), (1, 2, HEADS, LENGTH, LENGTH))
        mask = mx.where(mx.arange(LENGTH) < 6, 0.0, -1e9)
        scores = (scores + mask).reshape(2, HEADS, LENGTH, LENGTH)
        return mx.softmax(scores, axis=-1) @ v


class Interleaved(Attention):
    """Two attentions side by side, step by step."""

    def inner(self, q, k, v):
        first, second = q @ k.swapaxes(-1, -2), k @ q.swapaxes(-1, -2)
        one, other = mx.softmax(first, axis=-1), mx.softmax(second, axis=-1)
        return one @ v - other @ v


class Twice(ByOperators):
    """Two attentions in one forward, the second on the first's heads."""

    def inner(self, q, k, v):
        return super().inner(super().inner(q, k, v), k, v)


KINDS = [ByOperators, ByFunctions, InFloat32, Grouped, ByActivation, Windowed]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compile", [False, True])
def test_its_values_obey_the_laws(kind, compile):
    mx.random.seed(2)
    module = kind()
    model = mg.InterpretableModel(module)
    plain = module(x)
    with model.trace(x, compile=compile, optimize=False):
        found = {name: model[name].output.save() for name in NAMES}
        output = model.output.save()
    if not compile:
        assert bool(mx.array_equal(output, plain))
    shape = (2, HEADS, LENGTH, LENGTH)
    assert found["pattern"].shape == found["scores"].shape == shape
    assert found["keys"].shape == (2, module.groups, LENGTH, WIDTH // HEADS)
    values = mx.repeat(found["values"], HEADS // module.groups, axis=1)
    keys = mx.repeat(found["keys"], HEADS // module.groups, axis=1)
    assert mx.allclose(found["pattern"] @ values, found["heads"], atol=1e-5)
    assert mx.allclose(mx.softmax(found["scores"], axis=-1), found["pattern"], atol=1e-6)
    products = found["queries"] @ keys.swapaxes(-1, -2)
    if kind in (ByOperators, ByFunctions):
        assert mx.allclose(products, found["scores"], atol=1e-5)
    flat = found["heads"].transpose(0, 2, 1, 3).reshape(x.shape)
    assert mx.allclose(module.o_proj(flat), output, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.thin(6)
def test_a_write_to_a_head_changes_that_head_alone(kind, name):
    model = mg.InterpretableModel(kind())
    with model.trace(x):
        heads = model["heads"].output.save()
    with model.trace(x):
        value = model[name].output
        count = value.shape[1]
        value[:, 0] = mx.abs(value[:, 0]) * 1.5
        edited = model["heads"].output.save()
        written = model[name].output.save()
    each = HEADS // count
    assert mx.array_equal(edited[:, each:], heads[:, each:])
    assert not mx.allclose(edited[:, :each], heads[:, :each], atol=1e-4)
    assert bool(mx.all(written[:, 0] >= 0))


def test_heads_are_edited_by_number_as_the_attention_gives_them():
    module = Grouped()
    model = mg.InterpretableModel(module)
    module.n_heads = None  # nothing tells how many there are, but the attention itself
    edited = model.run(mg.edit("__model_output__", iv.zero_out, heads=[1, -1]), x).output
    with model.trace(x):
        model["heads"].output[:, mx.array([1, 3])] = 0
        wanted = model.output.save()
    assert mx.array_equal(edited, wanted)


def test_several_attentions_in_one_forward_are_numbered():
    model = mg.InterpretableModel(Twice())
    with model.trace(x):
        first, second = model["pattern"].output.save(), model["pattern.calls[1]"].output.save()
        heads, queries = model["heads"].output.save(), model["queries.calls[1]"].output.save()
        assert len(list(model.ops)) == 6
    assert not mx.allclose(first, second, atol=1e-3)
    assert mx.array_equal(heads, queries)
    with pytest.raises(HeadsError, match="several attentions"):
        model.run(mg.edit("__model_output__", iv.zero_out, heads=1), x)
    with model.trace(x), pytest.raises(NeverCalledError, match="attentions 0–1"):
        model["pattern.calls[2]"].output.save()


def test_two_attentions_side_by_side_are_told_apart():
    model = mg.InterpretableModel(Interleaved())
    with model.trace(x):
        found = [
            {name: model[f"{name}.calls[{k}]"].output.save() for name in NAMES} for k in (0, 1)
        ]
    for one in found:
        products = one["queries"] @ one["keys"].swapaxes(-1, -2)
        assert mx.allclose(products, one["scores"], atol=1e-5)
        assert mx.allclose(one["pattern"] @ one["values"], one["heads"], atol=1e-5)
    assert mx.array_equal(found[0]["queries"], found[1]["keys"])


class Mixed(Attention):
    """Its pattern is mixed over the heads before it is used."""

    def inner(self, q, k, v):
        pattern = mx.softmax(q @ k.swapaxes(-1, -2), axis=-1)
        return (pattern * 0.5 + pattern[:, ::-1] * 0.5) @ v


class TwoProducts(Attention):
    """Its scores are the sum of two products."""

    def inner(self, q, k, v):
        scores = q @ k.swapaxes(-1, -2) + k @ q.swapaxes(-1, -2)
        return mx.softmax(scores, axis=-1) @ v


class TwoUses(Attention):
    """Its pattern is used twice."""

    def inner(self, q, k, v):
        pattern = mx.softmax(q @ k.swapaxes(-1, -2), axis=-1)
        return pattern @ v + pattern @ k


class ScaledInPlace(Attention):
    """Its pattern is changed in place before it is used."""

    def inner(self, q, k, v):
        pattern = mx.softmax(q @ k.swapaxes(-1, -2), axis=-1)
        pattern *= 0.5
        return pattern @ v


class CutInPlace(Attention):
    """A part of its pattern is written over."""

    def inner(self, q, k, v):
        pattern = mx.softmax(q @ k.swapaxes(-1, -2), axis=-1)
        pattern[..., 0] = 0
        return pattern @ v


class TalkingHeads(Attention):
    """Its scores are mixed over the heads."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(HEADS, HEADS)

    def inner(self, q, k, v):
        scores = (q @ k.swapaxes(-1, -2)).transpose(0, 2, 3, 1)
        return mx.softmax(self.mix(scores).transpose(0, 3, 1, 2), axis=-1) @ v


class Turned(Attention):
    """Its softmax is over the queries."""

    def inner(self, q, k, v):
        return mx.softmax((q @ k.swapaxes(-1, -2)).swapaxes(-1, -2), axis=-1) @ v


class Unfolded(Attention):
    """Its softmax is over keys of all heads."""

    def inner(self, q, k, v):
        scores = (q @ k.swapaxes(-1, -2)).reshape(2, 1, LENGTH, -1)
        return (mx.softmax(scores, axis=-1) @ mx.concatenate([v] * HEADS, axis=2)[:, :1]) + 0 * v


class Linear(Attention):
    """Linear attention, which has no scores, on as many tokens as a head is wide."""

    def inner(self, q, k, v):
        return mx.softmax(q, axis=-1) @ (mx.softmax(k, axis=-2).swapaxes(-1, -2) @ v)


class Relative(Attention):
    """A product with positions stands beside the one of queries and keys, which is no `a @ b`."""

    def __init__(self):
        super().__init__()
        self.positions = mx.random.normal((1, HEADS, WIDTH // HEADS, LENGTH))

    def inner(self, q, k, v):
        scores = mx.einsum("bhqd,bhkd->bhqk", q, k) + q @ self.positions
        return mx.softmax(scores, axis=-1) @ v


class ByEinsum(Attention):
    def inner(self, q, k, v):
        pattern = mx.softmax(mx.einsum("bhqd,bhkd->bhqk", q, k), axis=-1)
        return mx.einsum("bhqk,bhkd->bhqd", pattern, v)


class PutTogether(Attention):
    """Its scores are two products, put into one array."""

    def inner(self, q, k, v):
        scores = q @ k.swapaxes(-1, -2)
        scores[:, :2] = (k @ q.swapaxes(-1, -2))[:, :2]
        return mx.softmax(scores, axis=-1) @ v


class WithoutHeads(Attention):
    """It has no axis of heads."""

    def inner(self, q, k, v):
        q, k, v = (a.reshape(-1, *a.shape[2:]) for a in (q, k, v))
        return mx.softmax(q @ k.swapaxes(-1, -2), axis=-1) @ v


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Mixed, "is changed before"),
        (ScaledInPlace, "is changed before"),
        (CutInPlace, "is changed before"),
        (TalkingHeads, "does not follow entry by entry"),
        (Unfolded, "does not follow entry by entry"),
        (Turned, "does not follow entry by entry"),
        (Linear, "does not follow entry by entry"),
        (PutTogether, "does not follow entry by entry"),
        (Relative, "may come from einsum"),
        (ByEinsum, "may come from einsum"),
        (TwoProducts, "2 matrix products make up its scores"),
        (TwoUses, "2 matrix products take the softmax's result"),
        (WithoutHeads, "no axis of their own"),
    ],
)
def test_what_is_not_certain_says_why_and_shows_the_operations(kind, says):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Identity()]
            self.attn = kind()

        def __call__(self, h):
            return self.attn(h)

    model = mg.InterpretableModel(Block())
    with model.trace(x):
        with pytest.raises(NeverCalledError, match=says) as refused:
            model["attn.pattern"].output.save()
        assert "softmax" in str(refused.value)
        with pytest.raises(UnknownSiteError, match=says):
            model.attn.heads.save()
        by_hand = model.attn.ops["softmax"].output.save()
    assert mx.allclose(by_hand.sum(axis=-1), mx.ones(by_hand.shape[:-1]), atol=1e-5)
