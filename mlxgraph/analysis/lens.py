"""The logit lens: what each layer would predict if it were the last.

One traced forward saves the chosen layers' states, and one matrix product (a few, where the scores
of all layers and positions would be large) turns them into scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.analysis import unembed
from mlxgraph.analysis.distributions import Distributions, distributions, joined
from mlxgraph.analysis.inputs import (
    check_position,
    choose_layers,
    first_array,
    holds_tokens,
    one_row,
    token_strings,
)
from mlxgraph.analysis.lens_result import Lens, Measured, Read, check_colour
from mlxgraph.analysis.readable import Token, asked_tokens, readable_tokens
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.analysis.unembed import (
    are_scores_of,
    check_head,
    check_positions,
    has_last_edits,
    scores_in_blocks,
    scores_in_place,
)
from mlxgraph.errors import InputError, ShapeError
from mlxgraph.errors.source_line import here
from mlxgraph.plot.figures import check_drawn, show


def logit_lens(
    model: Traceable,
    text: str | Sequence[int] | mx.array,
    top_k: int = 1,
    layers: Sequence[int] | None = None,
    plot: bool = False,
    max_display_tokens: int = 15,
    figsize: tuple[float, float] | None = None,
    cmap: str = "viridis",
    position: int | Sequence[int] | None = None,
    *,
    color: str = "probability",
    token: Token | None = None,
    tokens: Sequence[Token] | None = None,
) -> Lens:
    """What each layer predicts at each position, through the final norm and the head.

    Args:
        text: a text, messages, or token ids.
        top_k: how many tokens for each position.
        layers: layer numbers; all if left out.
        plot: draw a heatmap, show it where there is something to show it on, and keep it as
            `.figure` of the result.
        max_display_tokens, figsize, cmap, color: of the picture, as in `lens.plot`: the last tokens
            are shown, coloured by `"probability"`, `"entropy"` or the `"rank"` of `token`.
        position: look at this position alone, or at several; -1 is the last token.
        token: a token to follow, a text or an id: its probability, score and rank among the whole
            vocabulary.
        tokens: several of them.
    Returns: `{layer: [[(token_id, score, token_str), ...] for each position]}`; with one
        `position`, `{layer: [(token_id, score, token_str), ...]}`.  A score is a logit.  The last
        layer's scores are the model's own logits.  It is also `mg.Effects`: probabilities of the
        top predictions, (layer, position); of `token` if given; of `tokens`, (layer, position,
        target).
    Raises: BoundsError for a layer, PositionError for a position that does not exist (both
        IndexErrors), InputError for no tokens or several texts, TokenError (an InputError) for a
        `token` that is several, UnknownNameError (a KeyError) for a color, NoTokenizerError,
        LayersError, UnembeddingError; for a picture UnknownNameError for a `cmap`, InputError for a
        `figsize`, MissingDependencyError without matplotlib.
    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".

    Example:
        >>> lens = model.logit_lens("The capital of France is", position=-1, token=" Paris")
        >>> {layer: found[0][2] for layer, found in lens.items()}
        >>> lens.rank.values
    """
    asked = _asked(model, token, tokens)
    check_colour(color, asked)
    if plot:
        check_drawn(figsize, cmap)
    row = one_row(model, text)
    chosen = choose_layers(model, layers)
    if not chosen:
        raise InputError("there are no layers to look at.\n  Leave layers= out for all of them.")
    places = _places(position, row.shape[1])
    one = places[0] if position is not None and not _is_several(position) else None
    found, vocabulary = _found(model, row, chosen, places, top_k, list(asked.values()))
    ids: Any = found.ids.tolist()
    scores: Any = found.scores.tolist()
    names = token_strings(model, [one for layer in ids for best in layer for one in best])
    predictions: dict[int, Any] = {
        layer: [
            [(token, score, names[token]) for token, score in zip(*best, strict=True)]
            for best in zip(ids[number], scores[number], strict=True)
        ]
        for number, layer in enumerate(chosen)
    }
    if one is not None:
        predictions = {layer: positions[0] for layer, positions in predictions.items()}
    read, labels = _input(model, row, places)
    texts = readable_tokens(model, [token for layer in ids for best in layer for token in best])
    words = [[[texts[token] for token in best] for best in layer] for layer in ids]
    what = Read(chosen, read, one, asked, tokens is None, labels, words, places)
    lens = Lens(predictions, _measured(found, vocabulary), what)
    if plot:
        lens.figure = lens.plot(max_display_tokens, figsize, cmap, color)
        show(lens.figure)
    return lens


def _asked(
    model: Traceable, token: Token | None, tokens: Sequence[Token] | None
) -> dict[Token, int]:
    if token is not None and tokens is not None:
        raise InputError(
            "token= and tokens= were both given.\n  Write tokens=[...] for all of them."
        )
    if token is not None:
        return asked_tokens(model, [token], "token")
    if isinstance(tokens, (str, int)):
        raise InputError(f"tokens= takes several.\n  Write tokens=[{tokens!r}].")
    return {} if tokens is None else asked_tokens(model, tokens, "tokens")


def _is_several(position: Any) -> bool:
    return isinstance(position, (list, tuple, range))


def _places(position: Any, length: int) -> list[int]:
    """The positions to look at, from the start.  Raises: PositionError, InputError."""
    if position is None:
        return list(range(length))
    if not _is_several(position):
        return [check_position(position, length)]
    places = list(dict.fromkeys(check_position(one, length) for one in position))
    if not places:
        raise InputError("there are no positions to look at.\n  Leave position= out for all.")
    return places


def _input(model: Traceable, row: mx.array, places: Sequence[int]) -> tuple[list[str], list[str]]:
    """The text's tokens at some positions as strings, and as texts to look at."""
    if not holds_tokens(row):
        numbers = [str(number) for number in places]
        return numbers, numbers
    every: list[int] = row[0].tolist()  # type: ignore[assignment]
    shown = [every[place] for place in places]
    names, labels = token_strings(model, shown), readable_tokens(model, shown)
    return [names[token] for token in shown], [labels[token] for token in shown]


def _measured(found: Distributions, vocabulary: int) -> Measured:
    return Measured(
        np.array(found.probabilities),
        np.array(found.scores[..., 0]),
        np.array(found.entropy),
        np.array(found.asked_probabilities),
        np.array(found.asked_scores),
        np.array(found.asked_ranks),
        vocabulary,
    )


def _found(
    model: Traceable,
    row: mx.array,
    layers: list[int],
    places: list[int],
    top_k: int,
    asked: list[int],
) -> tuple[Distributions, int]:
    """What the layers predict, (layers, positions, ...), and the size of the vocabulary."""
    in_place = has_last_edits(model)
    last = len(model.layers) - 1
    few, place = slice(min(places), max(places) + 1), places[-1]
    shown = _among(places, 0, row.shape[1])
    states = own = None
    with model.trace(row):
        logits = first_array(model.output)
        check_positions(logits)
        vocabulary = logits.shape[-1]
        stream = first_array(model.layers[-1].output)
        check_head(model, logits, stream.shape[-1])
        _check_ids(asked, vocabulary)
        large = (few.stop - few.start) * vocabulary > unembed.MOST_SCORES
        large = large and not in_place and stream.ndim == 3
        decoded = [layer for layer in layers if layer != last or large]
        if decoded:
            seen = slice(None) if in_place else shown
            states = mx.stack([_stream(model, layer)[0, seen] for layer in decoded]).save()
        if last in layers:
            own = logits[0, slice(place, place + 1) if large else few].save()
    if large and own is not None and states is not None:
        if are_scores_of(model, states[decoded.index(last), -1], own[0]):
            own = None
        else:
            decoded.remove(last)
            kept = [states[k] for k, layer in enumerate(layers) if layer != last]
            states = mx.stack(kept) if kept else None
            with model.trace(row):
                own = first_array(model.output)[0, few].save()
    pieces = []
    if states is not None:
        if in_place:
            pieces += _decoded_in_place(model, row, states, vocabulary, shown, top_k, asked)
        else:
            rows = states.reshape(-1, states.shape[-1])
            blocks = scores_in_blocks(model, rows)
            pieces += [distributions(some, top_k, asked) for some in blocks]
            del rows
        del states
    if own is not None:
        pieces.append(distributions(own[_among(places, few.start, few.stop)], top_k, asked))
    found = joined(pieces).in_shape(len(layers), len(places))
    there = decoded if own is None else [*decoded, last]  # in the order of the pieces
    if there != layers:
        order = mx.array([there.index(layer) for layer in layers])
        found = Distributions(*(part[order] for part in found))
    return found, vocabulary


def _among(places: list[int], start: int, stop: int) -> Any:
    """The index of some positions among those from `start` to `stop`."""
    if places == list(range(start, stop)):
        return slice(None)
    return mx.array([place - start for place in places])


def _check_ids(asked: list[int], vocabulary: int) -> None:
    for token in asked:
        if token >= vocabulary:
            raise InputError(
                f"there is no token {token}: the head scores {vocabulary:,} tokens, from 0 to"
                f" {vocabulary - 1:,}."
            )


def _stream(model: Traceable, layer: int) -> mx.array:
    """A layer's output.  Raises: ShapeError where it is not the one stream that the head reads."""
    stream: mx.array = first_array(model.layers[layer].output)
    if stream.ndim != 3:
        raise ShapeError(
            f"{model.layers[layer].path} gives {stream.shape}: not one residual stream, but several"
            " stacked ones, which no norm and head read as they are",
            str(here()),
            "Read them, and make of them what the model makes of its last ones.",
        )
    return stream


def _decoded_in_place(
    model: Traceable,
    row: mx.array,
    states: mx.array,
    vocabulary: int,
    shown: Any,
    top_k: int,
    asked: list[int],
) -> list[Distributions]:
    """What layers' states say, each at its own position of the text: edits may ask which that is.

    Args: states: shape (layers, length, width); shown: the positions that are wanted.
    """
    most = max(1, unembed.MOST_SCORES // (vocabulary * states.shape[1]))
    found = []
    for start in range(0, states.shape[0], most):
        scores = scores_in_place(model, row, states[start : start + most])[:, shown]
        found.append(distributions(scores.reshape(-1, vocabulary), top_k, asked))
    return found
