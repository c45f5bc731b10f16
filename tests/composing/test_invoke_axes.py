"""Whose an axis is: an invoke's rows are those of the batch's axis, and of no other."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import gpt2

import mlxgraph as mg
from mlxgraph.errors import ShapeError
from tests.composing.helpers import exact
from tests.models import made


class Positions(nn.Module):
    """Values without the batch's axis beside values that have it."""

    def __init__(self):
        super().__init__()
        self.embed, self.positions = nn.Embedding(20, 6), nn.Embedding(20, 6)
        self.mix, self.pair = nn.Linear(6, 6), Pair()

    def __call__(self, tokens):
        h = self.embed(tokens) + self.positions(mx.arange(tokens.shape[1]))
        return self.pair(self.mix(h), mask=mx.tri(tokens.shape[1]))


class Pair(nn.Module):
    def __call__(self, x, mask):
        return mask @ x


@pytest.fixture(scope="module")
def gpt():
    args = gpt2.ModelArgs("gpt2", 32, 16, 2, 2, 32, 1e-5, 50)
    return made(gpt2.Model(args))


def invokes(model, texts, block):
    with model.trace() as t:
        for text in texts:
            with t.invoke(text):
                block()
                model.output.save()


def of_length(*lengths):
    return [[list(range(1, 1 + n))] for n in lengths]


@pytest.mark.parametrize("texts", [of_length(2, 2), of_length(3, 3, 3), of_length(1, 2),
                                   of_length(3, 4), [[[1, 2, 3]] * 2, [[4, 5, 6]]]])  # fmt: skip
@pytest.mark.parametrize("write", [False, True])
def test_what_has_no_rows_raises_in_an_invoke(gpt, texts, write):
    def block():
        h = gpt.model.wpe.output
        if write:
            h[:] = 0
        h.save()

    with pytest.raises(ShapeError, match=r"(?s)wpe\.output.*test_invoke_axes"):
        invokes(gpt, texts, block)


def test_a_square_mask_is_nobodys_rows():
    model = made(Positions())

    def read():
        model.pair.inputs[1]["mask"].save()

    for texts in (of_length(2, 2), of_length(3, 3, 3), of_length(4)):
        if len(texts) == 1:
            invokes(model, texts, read)  # one prompt is the whole batch
            continue
        with pytest.raises(ShapeError, match="rows cannot"):
            invokes(model, texts, read)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("edit", [False, True])
def test_what_lies_beside_it_is_read_and_written(count, edit):
    model = made(Positions())
    texts = [[[k, k + 1, k + 2]] for k in range(count)]
    kept = []

    def block():
        if edit:
            model.pair.input[:, 0] = 2
            model.mix.input = model.mix.input * 2
        kept.append([model.pair.input.save(), model.output.save()])

    with model.trace() as t:
        for text in texts:
            with t.invoke(text):
                block()
    together, kept = kept, []
    for text in texts:
        with model.trace(text):
            block()
    assert all(exact(a, b) for one, two in zip(together, kept, strict=True)
               for a, b in zip(one, two, strict=True))  # fmt: skip


def test_an_axis_that_grows_by_chance_as_the_batch_does_is_found_out(tiny):
    """Of one token and of two: the second text is as long as there are rows."""
    module = tiny.module
    seen = []

    class Ranked(nn.Module):
        def __call__(self, x):
            return mx.ones((x.shape[1], 3)) * x.mean()

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.ranked = module, Ranked()

        @property
        def layers(self):
            return self.inner.layers

        def __call__(self, tokens, cache=None):
            out = self.inner(tokens, cache=cache)
            seen.append(self.ranked(out).shape)
            return out

    model = mg.InterpretableModel(Watching())
    with pytest.raises(ShapeError, match="ranked"):
        invokes(model, of_length(1, 2), lambda: model.ranked.output.save())
    assert (1, 3) in seen and (2, 3) in seen


@pytest.mark.parametrize("lengths", [(2, 4), (4, 1, 3), (3, 3)])
@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("site", ["rope", "layer", "attn", "q_proj"])
def test_inputs_in_a_ragged_batch_are_those_of_the_text_alone(tied, lengths, write, site):
    """In a ragged batch a rotary module is called with an offset for each row."""
    layer = tied.layers[1]
    module = {
        "rope": layer.self_attn.rope,
        "layer": layer,
        "attn": layer.self_attn,
        "q_proj": layer.self_attn.q_proj,
    }[site]
    kept = []

    def block():
        if write:
            module.input = module.input * 2
        kept.append([module.input.save(), tied.output.save()])

    with tied.trace() as t:
        for text in of_length(*lengths):
            with t.invoke(text):
                block()
    together, kept = kept, []
    for text in of_length(*lengths):
        with tied.trace(text):
            block()
    for one, two in zip(together, kept, strict=True):
        for a, b in zip(one, two, strict=True):
            assert a.shape == b.shape and float(mx.abs(a - b).max()) < 1e-4
