"""Ids that an embedding has no row for are refused: MLX reads them as zeros."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.errors import InputError
from tests import models

SIZE = models.VOCABULARY


@pytest.fixture(scope="module")
def llama():
    """A random Llama of 50 tokens."""
    return mg.InterpretableModel(models.make_llama())


GIVEN = {
    "an array": lambda token: mx.array([[1, token, 2]]),
    "unsigned": lambda token: mx.array([[1, token, 2]], mx.uint32),
    "a list": lambda token: [1, token, 2],
    "rows": lambda token: [[1, 2, 3], [1, 2, token]],
    "ragged rows": lambda token: [[1, 2, 3], [token, 2]],
    "lazy": lambda token: mx.array([[1, token - 1, 2]]) + 1,
    "long": lambda token: mx.array([[1] * 200 + [token]]),
}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("token", [SIZE, SIZE + 7, 100_000])
def test_a_token_that_the_embedding_lacks(llama, given, token):
    graph = mg.edit("layers.0", lambda h: h * 2)
    inputs = GIVEN[given](token)

    def invoked():
        with llama.trace() as t:
            with t.invoke([1, 2]):
                llama.output.save()
            with t.invoke(inputs):
                llama.output.save()

    def traced():
        with llama.trace(inputs):
            llama.output.save()

    ways = [traced, invoked, lambda: llama.run(graph, inputs), lambda: llama.edit(graph)(inputs)]
    passes = llama.compile(graph)
    passes(GIVEN[given](SIZE - 1))
    for way in [*ways, *ways, lambda: passes(inputs)]:
        with pytest.raises(InputError, match=rf"{token} .*{SIZE} tokens") as caught:
            way()
        assert "test_token_ids.py" in str(caught.value)
    with llama.trace(GIVEN[given](SIZE - 1)):
        llama.output.save()


def test_an_analysis_of_a_text_that_another_tokenizer_encoded(llama):
    with pytest.raises(InputError, match=str(SIZE)):
        llama.logit_lens([1, SIZE])


@pytest.mark.parametrize("given", ["an array", "a list", "rows", "lazy"])
def test_a_negative_token(llama, given):
    with pytest.raises(InputError, match="-1"), llama.trace(GIVEN[given](-1)):
        llama.output.save()


def test_a_quantised_embedding_has_its_own_rows():
    llama = models.make_llama()
    nn.quantize(llama, group_size=32)
    model = mg.InterpretableModel(llama)
    with model.trace([SIZE - 1]):
        model.output.save()
    with pytest.raises(InputError, match=str(SIZE)), model.trace([SIZE]):
        model.output.save()


def test_a_resized_embedding_takes_more(llama):
    inner = models.make_llama()
    model = mg.InterpretableModel(inner)
    with pytest.raises(InputError), model.trace([SIZE]):
        pass
    inner.model.embed_tokens.weight = mx.zeros((SIZE + 4, models.WIDTH))
    with model.trace([SIZE + 3]):
        model.output.save()
    with pytest.raises(InputError), model.trace([SIZE + 4]):
        pass


class Labels(nn.Module):
    """Whole numbers that are no rows: some are hashed, some are arithmetic."""

    def __init__(self, how):
        super().__init__()
        self.embed = Hashed(8, 4) if how == "hashed" else nn.Embedding(8, 4)
        self.how = how

    def __call__(self, ids):
        if self.how == "clipped":
            ids = mx.clip(ids, 0, 7)
        if self.how == "arithmetic":
            return ids.astype(mx.float32) * 2
        return self.embed(ids)


class Hashed(nn.Embedding):
    """An embedding for any number."""

    def __call__(self, x):
        return super().__call__(x % 8)


@pytest.mark.parametrize("how", ["hashed", "clipped", "arithmetic"])
def test_ids_that_are_no_rows_are_left_alone(how):
    module = Labels(how)
    model = mg.InterpretableModel(module)
    ids = mx.array([[100, 3]])
    for _ in range(2):
        with model.trace(ids):
            out = model.output.save()
        assert models.same(out, module(ids), 0)


def test_ids_that_a_transformation_follows_are_not_looked_at(llama):
    def logits(ids):
        with llama.trace(ids):
            out = llama.output.save()
        return out

    ids = mx.array([[1, 2, 3]])
    assert models.same(mx.compile(logits)(ids), logits(ids), 1e-4)
    assert models.same(mx.vmap(logits)(ids[None])[0], logits(ids), 1e-4)


def test_the_padding_of_a_ragged_batch_may_be_any_token(llama):
    class Tokenizer:
        pad_token_id = SIZE + 3

        def encode(self, text):
            return [len(word) for word in text.split()]

    model = mg.InterpretableModel(llama.module, Tokenizer())
    with model.trace(["a bc def", "a"]):
        both = model.output.save()
    with model.trace("a"):
        alone = model.output.save()
    assert models.same(both[1, -1], alone[0, -1], 1e-4)
