"""The embedded model is what its README says: format, size, tokenizer and accuracies."""

from __future__ import annotations

import json
import random

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from mlx_lm import load

from mlxgraph.tiny import WEIGHTS, corpus, evaluate
from mlxgraph.tiny.tokenizer import BOS, EOS, PAD

MOST_BYTES = 4_000_000


@pytest.fixture(scope="module")
def loaded():
    return load(str(WEIGHTS))


@pytest.fixture(scope="module")
def scores(loaded):
    model, tokenizer = loaded
    return {s.task: s for s in evaluate.evaluate(model, tokenizer, limit=100)}


def likeliest(loaded, prompt: str) -> str:
    model, tokenizer = loaded
    logits = model(mx.array([tokenizer.encode(prompt)]))
    return tokenizer.decode([int(mx.argmax(logits[0, -1]))])


def logit_difference(loaded, prompt: str, right: str, wrong: str) -> float:
    model, tokenizer = loaded
    logits = model(mx.array([tokenizer.encode(prompt)]))[0, -1]
    ids = [tokenizer.encode(word, add_special_tokens=False) for word in (right, wrong)]
    assert [len(one) for one in ids] == [1, 1]
    return float(logits[ids[0][0]] - logits[ids[1][0]])


def test_everything_fits_the_size_limit():
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= MOST_BYTES


def test_architecture(loaded):
    model, _ = loaded
    config = json.loads((WEIGHTS / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    assert config["tie_word_embeddings"]
    assert len(model.layers) == config["num_hidden_layers"] >= 4
    names = [name for name, _ in tree_flatten(model.parameters())]
    assert not any("lm_head" in name for name in names)


def test_weights_are_float32(loaded):
    model, _ = loaded
    assert {value.dtype for _, value in tree_flatten(model.parameters())} == {mx.float32}


def test_special_tokens(loaded):
    _, tokenizer = loaded
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (BOS, EOS, PAD)
    assert tokenizer.encode("Hello")[0] == tokenizer.bos_token_id
    assert len(tokenizer.encode("Hello")) == 2


@given(text=st.text())
@settings(deadline=None)
def test_text_round_trips(loaded, text):
    _, tokenizer = loaded
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text


def test_facts_are_single_tokens(loaded):
    _, tokenizer = loaded
    facts = [*corpus.CAPITALS, *corpus.CAPITALS.values(), *corpus.LANDMARKS.values()]
    for word in (*facts, *corpus.NAMES):
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1
        assert len(tokenizer.encode(" " + word, add_special_tokens=False)) == 1


@pytest.mark.parametrize("task", evaluate.THRESHOLDS)
@pytest.mark.thin(3)
def test_accuracy_reaches_its_threshold(scores, task):
    assert scores[task].accuracy >= evaluate.THRESHOLDS[task], scores[task].misses


def test_enough_facts():
    assert len(corpus.CAPITALS) >= 40
    assert len(corpus.LANDMARKS) >= 20


def test_held_out_pairs_are_never_drawn():
    rng = random.Random(7)
    for _ in range(2000):
        sentence = corpus.indirect_object(rng)
        names = frozenset(word.strip(",.") for word in sentence.split()) & set(corpus.NAMES)
        assert len(names) == 2
        assert names not in corpus.HELD_OUT_PAIRS


def test_corpus_is_reproducible():
    def draw(seed: int) -> list[str]:
        rng = random.Random(seed)
        return [corpus.text(rng, kind) for kind in corpus.SENTENCES for _ in range(20)]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("The capital of France is", " Paris"),
        ("The capital of Germany is", " Berlin"),
        ("Paris is the capital of", " France"),
        ("The Eiffel Tower is located in the city of", " Paris"),
        ("The Eiffel Tower is in", " Paris"),
        ("The Big Ben is in", " London"),
        ("The Colosseum is in the city of", " Rome"),
        ("When Mary and John went to the store, John gave a drink to", " Mary"),
        ("When John and Mary went to the store, John gave a drink to", " Mary"),
        ("The keys to the cabinet", " are"),
        ("The key to the cabinets", " is"),
        ("The quick brown fox jumps over the lazy", " dog"),
        ("Machine learning is", " fun"),
    ],
)
def test_prompt_is_completed(loaded, prompt, answer):
    assert likeliest(loaded, prompt) == answer


@pytest.mark.parametrize(
    ("prompt", "right", "wrong"),
    [
        ("The capital of France is", " Paris", " London"),
        ("Paris is the capital of", " France", " England"),
        ("London is the capital of", " England", " France"),
        ("When Mary and John went to the store, John gave a drink to", " Mary", " John"),
        ("When Mary and John went to the store, Mary gave a drink to", " John", " Mary"),
        ("I love this movie. It is", " wonderful", " terrible"),
        ("I hate this movie. It is", " terrible", " wonderful"),
    ],
)
def test_answer_wins_with_margin(loaded, prompt, right, wrong):
    assert logit_difference(loaded, prompt, right, wrong) > 2.0


def test_facts_need_depth(loaded):
    """The logit lens does not find the answer in the embedding or in the lower layers."""
    model, tokenizer = loaded
    for prompt, answer in (
        ("The capital of France is", " Paris"),
        ("The Eiffel Tower is located in the city of", " Paris"),
    ):
        tokens = [token for token, _ in evaluate.logit_lens(model, tokenizer, prompt)]
        assert answer not in tokens[:3]
        assert tokens[-1] == answer
