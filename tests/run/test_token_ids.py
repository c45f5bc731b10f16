"""Ids that an embedding has no row for are refused: MLX reads them as zeros."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.errors import BoundsError, InputError, VocabularyError
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


# -- ids that do not come in by the call of a trace -----------------------------------------------


@pytest.mark.parametrize("given", ["an array", "unsigned", "lazy", "long", "a list", "rows"])
@pytest.mark.parametrize("token", [SIZE, 100_000, -1])
def test_a_model_without_edits_refuses_them_too(llama, given, token):
    if given == "unsigned" and token < 0:
        pytest.skip("no such number")
    llama(GIVEN[given](SIZE - 1))
    with pytest.raises(VocabularyError, match=rf"{token} .*{SIZE} tokens") as caught:
        llama(GIVEN[given](token))
    assert "test_token_ids.py" in str(caught.value)


def test_an_unedited_model_of_ids_that_are_no_rows_is_left_alone():
    module = Labels("hashed")
    ids = mx.array([[100, -3]])
    assert models.same(mg.InterpretableModel(module)(ids), module(ids), 0)


def test_a_plain_call_works_where_ids_cannot_be_looked_at(llama):
    ids = mx.array([[1, 2, 3]])
    assert models.same(mx.compile(llama)(ids), llama(ids), 1e-4)


BY_HAND = {
    "the embedding": lambda m, ids: m.model.embed_tokens(ids),
    "by keyword": lambda m, ids: m.model.embed_tokens(x=ids),
    "a part with it": lambda m, ids: m.model(ids),
    "the model": lambda m, ids: m(ids),
    "in the tree": lambda m, ids: m["model.embed_tokens"](ids),
}


@pytest.mark.parametrize("token", [SIZE, 99_999, -SIZE - 1])
@pytest.mark.parametrize("hand", BY_HAND)
def test_a_module_called_by_hand(llama, hand, token):
    with llama.trace([1, 2]):
        kept = BY_HAND[hand](llama, mx.array([[1, SIZE - 1]])).save()
    assert kept.shape[:2] == (1, 2)
    for compile in (True, False):
        with pytest.raises(VocabularyError, match=f"{token}.*embed_tokens.*{SIZE}") as caught:
            with llama.trace([1, 2], compile=compile):
                BY_HAND[hand](llama, mx.array([[1, token]])).save()
        assert isinstance(caught.value, (BoundsError, InputError, IndexError, ValueError))
    with pytest.raises(VocabularyError, match=str(token)):
        BY_HAND[hand](llama, mx.array([[1, token]]))


def test_an_embedding_by_hand_counts_negative_numbers_from_the_end(llama):
    embed = llama.model.embed_tokens
    with llama.trace([1, 2]):
        last = embed(mx.array([-1])).save()
    assert models.same(last, embed(mx.array([SIZE - 1])), 0)


def test_an_added_embedding_and_one_inside_an_added_module():
    model = mg.InterpretableModel(nn.Sequential(nn.Linear(4, 4)))
    model.table = nn.Embedding(6, 4)
    model.deep = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4))
    for module, size in ((model.table, 6), (model.deep, 5)):
        with model.trace(mx.ones((1, 4))):
            module(mx.array([size - 1])).save()
        with pytest.raises(VocabularyError, match=f"{size} rows"), model.trace(mx.ones((1, 4))):
            module(mx.array([size])).save()


def test_ids_that_the_model_makes_are_left_to_it(llama):
    with llama.trace([1, 2]):
        again = llama.model.embed_tokens(llama.output.argmax(-1)).save()
    assert again.shape == (1, 2, models.WIDTH)


WRITTEN = {
    "as a whole": lambda m, ids: setattr(m.model.embed_tokens, "input", ids),
    "in place": lambda m, ids: m.model.embed_tokens.input.__setitem__(slice(None), ids),
    "one": lambda m, ids: m.model.embed_tokens.input.__setitem__((0, 1), ids[0, 1]),
    "added": lambda m, ids: m.model.embed_tokens.input.__iadd__(ids),
    "as inputs": lambda m, ids: setattr(m.model.embed_tokens, "inputs", ((ids,), {})),
    "as the model's": lambda m, ids: m.model.embed_tokens.input.__setitem__(
        Ellipsis, ids + mx.zeros_like(ids)
    ),
}


@pytest.mark.parametrize("token", [SIZE, 99_999])
@pytest.mark.parametrize("how", WRITTEN)
def test_ids_written_at_an_embeddings_input(llama, how, token):
    def write(last):
        WRITTEN[how](llama, mx.array([[1, last]]))

    with llama.trace([0, 1]):
        write(7)
        out = llama.output.save()
    expected = {"added": [1, 8], "one": [0, 7]}.get(how, [1, 7])
    assert models.same(out, llama(expected), 1e-4)
    for compile in (True, False):
        with pytest.raises(VocabularyError, match=f"outside of model.embed_tokens.*{SIZE} rows"):
            with llama.trace([0, 1], compile=compile):
                write(token)
                llama.output.save()
    with pytest.raises(VocabularyError, match="outside of model.embed_tokens"):
        with llama.trace() as t:
            with t.invoke([0, 1]):
                write(token)
                llama.output.save()
            with t.invoke([0, 1, 2]):
                llama.output.save()


def test_a_param_of_ids_is_checked_with_its_value(llama):
    ids = mg.param("ids", shape=(1, 2), dtype="int32")
    good, bad = mx.array([[1, 7]]), mx.array([[1, SIZE]])
    uses = {
        "by hand": lambda: llama.model.embed_tokens(ids),
        "by hand, computed": lambda: llama.model.embed_tokens(ids + 1 - 1),
        "a part by hand": lambda: llama.model(ids),
        "written": lambda: setattr(llama.model.embed_tokens, "input", ids),
        "written, computed": lambda: setattr(llama.model.embed_tokens, "input", ids * 1),
    }
    for use in uses.values():
        with llama.trace([1, 2]) as t:
            made = use()
            (llama.output if made is None else made).save("out")
        fast = llama.compile(t.graph)
        for compile in (False, True, True):
            assert llama.run(t.graph, [1, 2], ids=good, compile=compile)["out"].shape[:2] == (1, 2)
            assert fast([1, 2], ids=good)["out"].shape[:2] == (1, 2)
            with pytest.raises(VocabularyError, match=str(SIZE)):
                llama.run(t.graph, [1, 2], ids=bad, compile=compile)
            with pytest.raises(VocabularyError, match=str(SIZE)):
                llama.run(t.graph.bind(ids=bad), [1, 2], compile=compile)
            with pytest.raises(VocabularyError, match=str(SIZE)):
                fast([1, 2], ids=bad)


def test_a_pass_function_checks_the_ids_it_is_given(llama):
    @llama.pass_
    def embedded(m, ids):
        return m.model.embed_tokens(ids)

    for _ in range(3):
        assert embedded([1, 2], mx.array([3])).shape == (1, models.WIDTH)
        with pytest.raises(VocabularyError):
            embedded([1, 2], mx.array([SIZE]))
