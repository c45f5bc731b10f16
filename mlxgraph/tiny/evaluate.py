"""What the embedded model can do: accuracy per task, and where in depth an answer appears.

Facts are measured on every country and landmark and every phrasing; the other tasks on prompts
that training never drew.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxgraph.tiny import corpus

# A prompt, and the answers that count as right.
Case = tuple[str, frozenset[str]]

THRESHOLDS: dict[str, float] = {
    "capitals": 0.95,
    "countries": 0.95,
    "landmarks": 0.95,
    "indirect object": 0.90,
    "induction": 0.90,
    "agreement": 0.90,
    "sentiment": 0.90,
}


@dataclass(frozen=True)
class Score:
    """The share of `cases` whose top prediction is right."""

    task: str
    correct: int
    cases: int
    misses: tuple[str, ...] = ()

    @property
    def accuracy(self) -> float:
        return self.correct / self.cases


def _fact_cases(templates: Iterable[str], facts: list[dict[str, str]]) -> list[Case]:
    cases = []
    for template, fact in itertools.product(templates, facts):
        prompt, answer = corpus.split_answer(template.format(**fact))
        cases.append((prompt, frozenset((answer,))))
    return cases


def _countries() -> list[dict[str, str]]:
    return [{"country": c, "capital": p} for c, p in corpus.CAPITALS.items()]


def capital_cases() -> list[Case]:
    """Every country in every phrasing that ends in the capital."""
    return _fact_cases(corpus.CAPITAL_TEMPLATES, _countries())


def country_cases() -> list[Case]:
    """Every capital in every phrasing that ends in the country."""
    return _fact_cases(corpus.COUNTRY_TEMPLATES, _countries())


def landmark_cases() -> list[Case]:
    """Every landmark in every phrasing."""
    facts = [{"landmark": name, "city": city} for name, city in corpus.LANDMARKS.items()]
    return _fact_cases(corpus.LANDMARK_TEMPLATES, facts)


def indirect_object_cases() -> list[Case]:
    """Every held-out name pair, with the giver named first and named second."""
    rng = random.Random("indirect object")
    cases = []
    for pair in sorted(corpus.HELD_OUT_PAIRS, key=sorted):
        giver, receiver = rng.sample(sorted(pair), 2)
        for giver_first in (True, False):
            template = rng.choice(corpus.INDIRECT_OBJECT_TEMPLATES)
            sentence = corpus.indirect_object_sentence(rng, giver, receiver, template, giver_first)
            prompt, answer = corpus.split_answer(sentence)
            cases.append((prompt, frozenset((answer,))))
    return cases


def agreement_cases() -> list[Case]:
    """Every held-out noun combination, once with an attractor of the other number."""
    rng = random.Random("agreement")
    cases = []
    for head, attractor in sorted(corpus.HELD_OUT_NOUNS):
        plural = rng.random() < 0.5
        prep = rng.choice(corpus.PREPOSITIONS)
        prompt = corpus.agreement_prompt(head, attractor, plural, not plural, prep)
        cases.append((prompt, frozenset((" are" if plural else " is",))))
    return cases


def sentiment_cases() -> list[Case]:
    """Every held-out (verb, noun), in each phrasing that ends in an adjective after the verb."""
    cases = []
    for verb, noun in sorted(corpus.HELD_OUT_REVIEWS):
        positive = verb in corpus.POSITIVE_VERBS
        answers = frozenset(" " + a for a in (corpus.POSITIVE if positive else corpus.NEGATIVE))
        cases.append((f"I {verb} this {noun}. It is", answers))
        cases.append((f"I {verb} the {noun}. It is", answers))
        cases.append((f"I {verb} this {noun} because it is", answers))
    return cases


CASES: dict[str, Callable[[], list[Case]]] = {
    "capitals": capital_cases,
    "countries": country_cases,
    "landmarks": landmark_cases,
    "indirect object": indirect_object_cases,
    "agreement": agreement_cases,
    "sentiment": sentiment_cases,
}


def _by_length(rows: list[list[int]], batch: int) -> Iterable[list[int]]:
    """Indices of rows of one length at a time: no padding, so no mask is needed."""
    lengths: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        lengths.setdefault(len(row), []).append(index)
    for indices in lengths.values():
        for start in range(0, len(indices), batch):
            yield indices[start : start + batch]


def next_tokens(model: nn.Module, rows: list[list[int]], batch: int = 128) -> list[list[int]]:
    """The top prediction, a token id, at every position of every row."""
    out: list[list[int]] = [[] for _ in rows]
    for indices in _by_length(rows, batch):
        logits = model(mx.array([rows[i] for i in indices]))
        best = np.array(mx.argmax(logits, axis=-1)).tolist()
        for index, row in zip(indices, best, strict=True):
            out[index] = row
    return out


def score(model: nn.Module, tokenizer, task: str, limit: int | None = None) -> Score:
    """Measure one task; `limit` measures a fixed random sample of its cases."""
    cases = CASES[task]()
    if limit is not None and limit < len(cases):
        cases = random.Random("sample").sample(cases, limit)
    rows = [tokenizer.encode(prompt) for prompt, _ in cases]
    misses = []
    for (prompt, answers), best in zip(cases, next_tokens(model, rows), strict=True):
        token = tokenizer.decode([best[-1]])
        if token not in answers:
            misses.append(f"{prompt} ->{token}")
    return Score(task, len(cases) - len(misses), len(cases), tuple(misses))


def score_induction(model: nn.Module, tokenizer, sequences: int = 60) -> Score:
    """Random sequences, repeated once: accuracy over the second copy.

    The first token of the second copy is left out, since nothing before it tells the period.
    """
    rng = random.Random("induction")
    candidates = repeatable_tokens(tokenizer)
    correct = cases = 0
    rows = []
    for index in range(sequences):
        period = 4 + index % 9
        rows.append([tokenizer.bos_token_id, *corpus.induction(rng, candidates, period, 2)])
    for row, best in zip(rows, next_tokens(model, rows), strict=True):
        second = range((len(row) - 1) // 2 + 1, len(row) - 1)
        correct += sum(best[i] == row[i + 1] for i in second)
        cases += len(second)
    return Score("induction", correct, cases)


def repeatable_tokens(tokenizer) -> list[int]:
    """The token ids random sequences are made of: all but the special ones."""
    special = set(tokenizer.all_special_ids)
    return [i for i in sorted(tokenizer.get_vocab().values()) if i not in special]


def evaluate(model: nn.Module, tokenizer, limit: int | None = None) -> list[Score]:
    """Measure every task, on all its cases or on a fixed sample of at most `limit`."""
    scores = [score(model, tokenizer, task, limit) for task in CASES]
    sequences = 60 if limit is None else min(60, max(1, limit // 4))
    return [*scores, score_induction(model, tokenizer, sequences)]


def format_table(scores: list[Score]) -> str:
    """The scores as a Markdown table."""
    lines = ["| task | correct | cases | accuracy | threshold |", "|---|---|---|---|---|"]
    for s in scores:
        threshold = THRESHOLDS[s.task]
        lines.append(f"| {s.task} | {s.correct} | {s.cases} | {s.accuracy:.1%} | {threshold:.0%} |")
    return "\n".join(lines)


def logit_lens(model: nn.Module, tokenizer, prompt: str) -> list[tuple[str, float]]:
    """The top prediction after each layer, through the final norm and the tied head.

    Entry 0 is the embedding, entry `i` the output of layer `i`, all at the last position.
    """
    inner = model.model
    hidden = inner.embed_tokens(mx.array([tokenizer.encode(prompt)]))
    states = [hidden]
    for layer in inner.layers:
        hidden = layer(hidden, "causal", None)
        states.append(hidden)
    answers = []
    for state in states:
        logits = inner.embed_tokens.as_linear(inner.norm(state[0, -1]))
        best = int(mx.argmax(logits))
        answers.append((tokenizer.decode([best]), float(mx.softmax(logits)[best])))
    return answers
