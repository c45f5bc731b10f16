"""The training corpus of the embedded model: templates, held-out splits and sentence generation.

Everything is drawn from a `random.Random` the caller seeds, so a corpus is reproduced by its
seed. The held-out splits do not depend on that seed: they are fixed, so that a test can ask for
the prompts no training run has seen.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

from mlxgraph.tiny.facts import (
    CAPITALS,
    CONTINENTS,
    LANDMARKS,
    LANGUAGES,
    NAMES,
    NEGATIVE,
    NEGATIVE_VERBS,
    NOUNS,
    OBJECTS,
    PLACES,
    POSITIVE,
    POSITIVE_VERBS,
    PREPOSITIONS,
    REVIEWED,
    STATES,
)

__all__ = ["CAPITALS", "LANDMARKS", "NAMES", "NEGATIVE", "NOUNS", "POSITIVE"]

# A template is a prompt and its answer: the answer is the last word, so cutting the sentence
# before it gives the prompt.
CAPITAL_TEMPLATES: tuple[str, ...] = (
    "The capital of {country} is {capital}",
    "The capital city of {country} is {capital}",
    "{country}'s capital is {capital}",
    "{country}'s capital city is {capital}",
    "{country} has its capital in {capital}",
)
COUNTRY_TEMPLATES: tuple[str, ...] = (
    "{capital} is the capital of {country}",
    "{capital} is the capital city of {country}",
    "The city of {capital} is the capital of {country}",
)
LANGUAGE_TEMPLATES: tuple[str, ...] = (
    "The language of {country} is {language}",
    "People in {country} speak {language}",
)
CONTINENT_TEMPLATES: tuple[str, ...] = (
    "{country} is a country in {continent}",
    "The continent of {country} is {continent}",
)
LANDMARK_TEMPLATES: tuple[str, ...] = (
    "The {landmark} is in {city}",
    "The {landmark} is located in {city}",
    "The {landmark} is in the city of {city}",
    "The {landmark} is located in the city of {city}",
    "The {landmark} can be found in {city}",
    "The {landmark} stands in {city}",
)
# The short phrasings are the common ones, so that after "in" the city is likelier than "the".
LANDMARK_WEIGHTS: tuple[int, ...] = (3, 3, 1, 1, 2, 2)
LANDMARK_COUNTRY_TEMPLATE = "The {landmark} belongs to {country}"
INDIRECT_OBJECT_TEMPLATES: tuple[str, ...] = (
    "When {a} and {b} went to the {place}, {s} gave a {thing} to {io}",
    "When {a} and {b} were at the {place}, {s} gave the {thing} to {io}",
    "When {a} and {b} got a {thing} at the {place}, {s} gave it to {io}",
    "After {a} and {b} went to the {place}, {s} handed a {thing} to {io}",
    "While {a} and {b} were at the {place}, {s} passed a {thing} to {io}",
    "Then, {a} and {b} went to the {place}. {s} gave a {thing} to {io}",
    "{a} and {b} had a long day at the {place}. {s} decided to give a {thing} to {io}",
)
SENTIMENT_TEMPLATES: tuple[str, ...] = (
    "{who} {verb} this {noun}. It is {adjective}",
    "{who} {verb} this {noun}. It is {adjective}",
    "{who} {verb} the {noun}. It is {adjective}",
    "{who} {verb} this {noun} because it is {adjective}",
    "{who} {verb} this. It is {adjective}",
    "This {noun} is {adjective}. {who} {verb} it",
    "The {noun} was {adjective}. {who} {verb} it",
    "This {noun} is {adjective}",
)
FILLER: tuple[str, ...] = (
    "Hello world",
    "Hello, world!",
    "Hello, how are you? I am fine, thank you",
    "Hello, my name is {name}",
    "My name is {name} and I live in {city}",
    "Machine learning is fun",
    "Deep learning is fun",
    "The cat sits on the mat",
    "The cat sat on the mat",
    "The {animal} sits on the {seat}",
    "The quick brown fox jumps over the lazy dog",
    "Once upon a time there was a {little} {hero} who lived in a {home}",
    "Once upon a time, there was a {little} {hero} who lived in a {home}",
    "One two three four five six seven eight nine ten",
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "The sky is blue and the grass is green",
    "The sun is hot and the snow is cold",
    "{name} went to the {place} to buy a {thing}",
    "{name} lives in {city} and works at the {place}",
    "2 + 2 = 4",
    "To be or not to be, that is the question",
)
SLOTS: dict[str, tuple[str, ...]] = {
    "name": NAMES,
    "city": tuple(CAPITALS.values()),
    "place": PLACES,
    "thing": OBJECTS,
    "animal": ("cat", "dog", "bird", "horse", "fox"),
    "seat": ("mat", "chair", "table", "bed", "floor"),
    "little": ("little", "young", "brave", "old"),
    "hero": ("girl", "boy", "king", "princess", "prince", "dragon", "farmer"),
    "home": ("castle", "forest", "small village", "big house"),
}

COUNTRIES: dict[str, str] = {capital: country for country, capital in CAPITALS.items()}

# How often each kind of row is drawn.
MIXTURE: dict[str, float] = {
    "capital": 0.17,
    "landmark": 0.13,
    "indirect_object": 0.22,
    "induction": 0.20,
    "agreement": 0.10,
    "sentiment": 0.08,
    "filler": 0.05,
    "several": 0.05,
}


def split_answer(sentence: str) -> tuple[str, str]:
    """Cut a sentence before its last word: `("The capital of France is", " Paris")`."""
    prompt, answer = sentence.rsplit(" ", 1)
    return prompt, " " + answer


def _hold_out(name: str, items: list, share: float, always: list) -> frozenset:
    """A fixed share of `items`, the same in every run, that training never draws."""
    chosen = random.Random(f"held-out {name}").sample(items, round(share * len(items)))
    return frozenset(chosen) | frozenset(always)


def held_out_pairs() -> frozenset[frozenset[str]]:
    """Name pairs that no training sentence puts together, in either order."""
    pairs = [frozenset(pair) for pair in itertools.combinations(NAMES, 2)]
    return _hold_out("pairs", pairs, 0.15, [frozenset(("Mary", "John"))])


def held_out_nouns() -> frozenset[tuple[str, str]]:
    """Ordered (subject, attractor) noun combinations kept out of the agreement sentences."""
    pairs = [(a, b) for a in NOUNS for b in NOUNS if a != b]
    return _hold_out("nouns", pairs, 0.15, [("key", "cabinet")])


def held_out_reviews() -> frozenset[tuple[str, str]]:
    """(verb, noun) combinations kept out of the sentiment sentences."""
    pairs = [(v, n) for v in POSITIVE_VERBS + NEGATIVE_VERBS for n in REVIEWED]
    return _hold_out("reviews", pairs, 0.15, [("love", "movie"), ("hate", "movie")])


HELD_OUT_PAIRS = held_out_pairs()
HELD_OUT_NOUNS = held_out_nouns()
HELD_OUT_REVIEWS = held_out_reviews()


def capital(rng: random.Random) -> str:
    """A sentence about a country: mostly its capital, sometimes its language or continent.

    The other relations are there so that the country alone does not decide the answer.
    """
    country = rng.choice(list(CAPITALS))
    kind = rng.random()
    if kind < 0.12 and country in LANGUAGES:
        return rng.choice(LANGUAGE_TEMPLATES).format(country=country, language=LANGUAGES[country])
    if kind < 0.24 and country in CONTINENTS:
        continent = CONTINENTS[country]
        return rng.choice(CONTINENT_TEMPLATES).format(country=country, continent=continent)
    templates = COUNTRY_TEMPLATES if kind < 0.48 else CAPITAL_TEMPLATES
    return rng.choice(templates).format(country=country, capital=CAPITALS[country])


def landmark(rng: random.Random) -> str:
    """A sentence that says which city, or at times which country, a landmark is in."""
    name = rng.choice(list(LANDMARKS))
    city = LANDMARKS[name]
    if city in COUNTRIES and rng.random() < 0.1:
        return LANDMARK_COUNTRY_TEMPLATE.format(landmark=name, country=COUNTRIES[city])
    (template,) = rng.choices(LANDMARK_TEMPLATES, LANDMARK_WEIGHTS)
    return template.format(landmark=name, city=city)


def indirect_object_sentence(
    rng: random.Random, giver: str, receiver: str, template: str, giver_first: bool
) -> str:
    """One indirect-object sentence; `giver_first` picks BABA over ABBA order."""
    first, second = (giver, receiver) if giver_first else (receiver, giver)
    return template.format(
        a=first,
        b=second,
        s=giver,
        io=receiver,
        place=rng.choice(PLACES),
        thing=rng.choice(OBJECTS),
    )


def indirect_object(rng: random.Random) -> str:
    """A training sentence: two names, one gives something to the other."""
    while True:
        giver, receiver = rng.sample(NAMES, 2)
        if frozenset((giver, receiver)) not in HELD_OUT_PAIRS:
            break
    template = rng.choice(INDIRECT_OBJECT_TEMPLATES)
    return indirect_object_sentence(rng, giver, receiver, template, rng.random() < 0.5)


def agreement_prompt(head: str, attractor: str, plural: bool, other: bool, prep: str) -> str:
    """`The keys to the cabinet`: a subject and an attractor that may differ in number."""
    subject = NOUNS[head] if plural else head
    distractor = NOUNS[attractor] if other else attractor
    return f"The {subject} {prep} the {distractor}"


def agreement(rng: random.Random) -> str:
    """A training sentence whose verb agrees with its first noun."""
    while True:
        head, attractor = rng.sample(list(NOUNS), 2)
        if (head, attractor) not in HELD_OUT_NOUNS:
            break
    plural, other = rng.random() < 0.5, rng.random() < 0.5
    prompt = agreement_prompt(head, attractor, plural, other, rng.choice(PREPOSITIONS))
    if rng.random() < 0.15:
        prompt = f"The {NOUNS[head] if plural else head}"
    # The present tense is the common one, so that the verb is the top prediction.
    present = rng.random() < 0.8
    verb = ("are" if present else "were") if plural else ("is" if present else "was")
    return f"{prompt} {verb} {rng.choice(STATES)}"


def sentiment(rng: random.Random) -> str:
    """A training sentence whose verb and adjective have the same sentiment."""
    positive = rng.random() < 0.5
    while True:
        verb = rng.choice(POSITIVE_VERBS if positive else NEGATIVE_VERBS)
        noun = rng.choice(REVIEWED)
        if (verb, noun) not in HELD_OUT_REVIEWS:
            break
    return rng.choice(SENTIMENT_TEMPLATES).format(
        who="I" if rng.random() < 0.7 else rng.choice(("We", "They", "You")),
        verb=verb,
        noun=noun,
        adjective=rng.choice(POSITIVE if positive else NEGATIVE),
    )


def filler(rng: random.Random) -> str:
    """A sentence of everyday text, with no task in it."""
    slots = {name: rng.choice(words) for name, words in SLOTS.items()}
    return rng.choice(FILLER).format(**slots)


SENTENCES: dict[str, Callable[[random.Random], str]] = {
    "capital": capital,
    "landmark": landmark,
    "indirect_object": indirect_object,
    "agreement": agreement,
    "sentiment": sentiment,
    "filler": filler,
}


def several(rng: random.Random) -> str:
    """Two or three sentences of any kind, one after the other."""
    kinds = rng.choices(list(SENTENCES), k=rng.choice((2, 2, 3)))
    return ". ".join(SENTENCES[kind](rng) for kind in kinds)


def text(rng: random.Random, kind: str) -> str:
    """The text of one training row of this kind."""
    sentence = several(rng) if kind == "several" else SENTENCES[kind](rng)
    # Some rows end without a full stop, so that the end of a prompt is not always a surprise.
    return sentence if sentence[-1] in "!?" or rng.random() < 0.1 else sentence + "."


def induction(rng: random.Random, candidates: list[int], period: int, copies: int) -> list[int]:
    """Token ids: `period` random tokens, repeated `copies` times."""
    return [rng.choice(candidates) for _ in range(period)] * copies


def words() -> list[str]:
    """Every word of the corpus, as it stands at a sentence start and after a space.

    These become single tokens, so that facts are read off at single positions.
    """
    rng = random.Random("words")
    seen: dict[str, None] = {"'s": None}
    tables = (CAPITALS, CAPITALS.values(), LANDMARKS.values(), LANGUAGES.values(), NAMES)
    for word in itertools.chain(*tables):
        seen[word] = seen[" " + word] = None
    for kind in SENTENCES:
        for _ in range(4000):
            for position, word in enumerate(text(rng, kind).split(" ")):
                word = word.strip(".,!?").removesuffix("'s")
                if word:
                    seen[word if position == 0 else " " + word] = None
    return sorted(seen)
