"""A logit lens as text: a list of one position's predictions, a grid of several, a map of a token.

In: what a lens found.  Out: lines for a terminal, and what JSON says beside the values.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mlxgraph.plot.labels import columns, label
from mlxgraph.plot.terminal import (
    Column,
    Look,
    Square,
    heat_lines,
    in_rows,
    inked,
    legend,
    padded,
    sign,
    table,
    wrapped,
    written,
)

_WORD, _LEAST = 14, 6  # columns of a predicted token: at most, and where many are to fit
_TITLE = "Logit lens"


def amounts_of(color: str, values: Any, vocabulary: int) -> Any:
    """How much colour numbers have, from 0 to 1: the more, the surer."""
    most = math.log(max(vocabulary, 2))
    if color == "entropy":
        return np.clip(1 - np.asarray(values) / most, 0, 1)
    if color == "rank":
        return np.clip(1 - np.log(np.asarray(values)) / most, 0, 1)
    return np.asarray(values)


def listed(numbers: Any, read: Any, look: Look) -> str:
    """What each layer predicts at one position: a line a layer, the best tokens first."""
    words, chances = read.words, numbers.probabilities[:, 0]
    given = [_numbers("entropy", numbers.entropy[:, 0], look)]
    for k, token in enumerate(read.asked):
        name = label(token, _WORD) if isinstance(token, str) else f"id {token}"
        given += [_chances(name, numbers.asked_probability[:, 0, k], look)]
        given += [_numbers("rank", numbers.asked_rank[:, 0, k], look)]
    for k in range(chances.shape[1]):
        name = f"prediction {k + 1}"
        texts = [label(layer[0][k], _WORD) for layer in words]
        wide = max(len(name) - 7, *map(columns, texts))
        cells = tuple(
            inked(f"{padded(text, wide)} {chance:6.1%}", chance, look)
            for text, chance in zip(texts, chances[:, k].tolist(), strict=True)
        )
        given.append(Column(name, cells, wide + 7))
    lines = table("layer", [str(layer) for layer in read.layers], given, look, 2)
    head = wrapped(f"{_TITLE}: what comes after {_place(read)}", look)
    return "\n".join([head, *lines])


def _place(read: Any) -> str:
    return f"{label(read.labels[0])!r} (position {read.position})"


def _numbers(name: str, values: Any, look: Look) -> Column:
    texts = written(values)
    wide = max(len(name), *map(len, texts))
    return Column(name, tuple(f"{text:>{wide}}" for text in texts), wide)


def _chances(name: str, values: Any, look: Look) -> Column:
    wide = max(columns(name), 6)
    texts = (f"{chance:>{wide}.1%}" for chance in values.tolist())
    cells = (inked(t, c, look) for t, c in zip(texts, values.tolist(), strict=True))
    return Column(name, tuple(cells), wide)


def of_token(numbers: Any, read: Any, color: str, which: int, look: Look) -> str:
    """The probability or the rank of one token, by position and layer."""
    of_rank = color == "rank"
    values = (numbers.asked_rank if of_rank else numbers.asked_probability)[..., which].T
    name = label(str([*read.asked][which]), _WORD)
    amounts = amounts_of(color, values, numbers.vocabulary)
    layers = [str(layer) for layer in read.layers]
    square = Square(in_rows(values), amounts, _positions(read), layers, "layer", "position")
    ends = (str(numbers.vocabulary), "1") if of_rank else ("0", "1")
    scale = legend("", ends[1], amounts, look, ends[0])
    head = wrapped(f"{_TITLE}: {color} of {name}", look)
    return "\n".join([head, *heat_lines(square, look), scale])


def words(numbers: Any, read: Any, color: str, look: Look) -> str:
    """The top predictions by position and layer, shaded by how sure they are."""
    values = numbers.entropy if color == "entropy" else numbers.probability
    amounts = amounts_of(color, values, numbers.vocabulary)
    best = [[label(found[0], _WORD) for found in layer] for layer in read.words]
    left = _positions(read)
    room = look.width - max(map(columns, [*left, "position"]))
    natural = max(columns(text) for layer in best for text in layer)
    fits = room // len(best) - 2  # a shade and a gap
    wide = natural if natural <= fits else max(fits, min(natural, _LEAST))
    given = []
    for k, layer in enumerate(best):
        cells = tuple(
            _word(text, float(amount), wide, look, text == last)
            for text, amount, last in zip(layer, amounts[k], best[-1], strict=True)
        )
        given.append(Column(padded(f" {read.layers[k]}", wide + 1), cells, wide + 1))
    of = "entropy (nats)" if color == "entropy" else "probability of the word"
    ends = (f"{math.log(numbers.vocabulary):.2f}", "0") if color == "entropy" else ("0", "1")
    scale = legend("", ends[1], amounts, look, ends[0]).removeprefix("scale: ")
    head = wrapped(f"{_TITLE}: what each layer would say after each token", look)
    lines = table("position \\ layer", left, given, look)
    return "\n".join([head, *lines, f"{of}: {scale}"])


def _word(text: str, amount: float, wide: int, look: Look, bold: bool) -> str:
    if look.ansi:
        return inked(f" {padded(text, wide)}", amount, look, bold)
    return sign(amount) + padded(text, wide)


def _positions(read: Any) -> list[str]:
    wide = max(len(str(place)) for place in read.places)
    return [
        f"{place:>{wide}} {label(text, _WORD)}"
        for place, text in zip(read.places, read.labels, strict=True)
    ]


def beside(found: Any, numbers: Any, read: Any) -> dict[str, Any]:
    """What a lens says beyond its values: predictions, entropy, ranks and scores."""
    chances = numbers.probabilities.tolist()
    predictions = [
        [
            [
                {"token": text, "id": token, "score": score, "probability": chance}
                for (token, score, text), chance in zip(best, of, strict=True)
            ]
            for best, of in zip(positions, likely, strict=True)
        ]
        for positions, likely in zip(found, chances, strict=True)
    ]
    one = read.position is not None
    said: dict[str, Any] = {
        "predictions": [layer[0] for layer in predictions] if one else predictions,
        "entropy": (numbers.entropy[:, 0] if one else numbers.entropy).tolist(),
    }
    return said
