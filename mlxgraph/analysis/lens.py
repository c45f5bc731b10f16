"""The logit lens: what each layer would predict if it were the last.

One traced forward saves the chosen layers' states, and one matrix product (a few, where the scores
of all layers and positions would be large) turns them into scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlxgraph.analysis.inputs import (
    check_position,
    choose_layers,
    first_array,
    holds_tokens,
    one_row,
    token_strings,
)
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.analysis.unembed import (
    check_head,
    is_edited,
    scores_in_place,
    token_scores,
    top_tokens,
)
from mlxgraph.errors import ShapeError
from mlxgraph.errors.source_line import here
from mlxgraph.plot.figures import show
from mlxgraph.plot.lens import lens_heatmap

MOST_SCORES = 1 << 22  # scores held at a time: 16 MiB in float32, and more is no faster


class Lens(dict):
    """`{layer: predictions}` of a logit lens, with what is needed to draw it.

    Attributes:
        tokens: the text's tokens as strings, one for each position that was looked at; as
            numbers without a tokenizer.
        figure: the matplotlib figure, if `plot=True` asked for one.
    """

    def __init__(self, found: dict[int, Any], tokens: list[str], single: bool):
        super().__init__(found)
        self.tokens = tokens
        self.figure: Any = None
        self._single = single

    def plot(
        self,
        max_display_tokens: int = 15,
        figsize: tuple[float, float] = (16, 10),
        cmap: str = "viridis",
    ) -> Any:
        """The heatmap of top predictions by layer and position.  Returns: a matplotlib Figure."""
        columns = {layer: [found] if self._single else found for layer, found in self.items()}
        return lens_heatmap(columns, self.tokens, max_display_tokens, figsize, cmap)


def logit_lens(
    model: Traceable,
    text: str | Sequence[int] | mx.array,
    top_k: int = 1,
    layers: Sequence[int] | None = None,
    plot: bool = False,
    max_display_tokens: int = 15,
    figsize: tuple[float, float] = (16, 10),
    cmap: str = "viridis",
    position: int | None = None,
) -> Lens:
    """What each layer predicts at each position, through the final norm and the head.

    Args:
        text: a text, messages, or token ids.
        top_k: how many tokens for each position.
        layers: layer numbers; all if left out.
        plot: draw a heatmap, show it where there is something to show it on, and keep it as
            `.figure` of the result.
        max_display_tokens, figsize, cmap: of the picture; the last tokens are shown.
        position: look at this position alone; -1 is the last token.
    Returns: `{layer: [[(token_id, score, token_str), ...] for each position]}`; with `position`,
        `{layer: [(token_id, score, token_str), ...]}`.  A score is a logit.  The last layer's
        scores are the model's own logits.
    Raises: BoundsError for a layer, PositionError for a position that does not exist (both
        IndexErrors), InputError for no tokens or several texts, NoTokenizerError, LayersError,
        UnembeddingError, MissingDependencyError for a picture without matplotlib.
    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".

    Example:
        >>> lens = model.logit_lens("The capital of France is", position=-1)
        >>> {layer: found[0][2] for layer, found in lens.items()}
    """
    row = one_row(model, text)
    chosen = choose_layers(model, layers)
    at = None if position is None else check_position(position, row.shape[1])
    ids, scores = _best_of(model, row, chosen, at, top_k)
    names = token_strings(model, [token for layer in ids for found in layer for token in found])
    found: dict[int, Any] = {
        layer: [
            [(token, score, names[token]) for token, score in zip(*best, strict=True)]
            for best in zip(ids[number], scores[number], strict=True)
        ]
        for number, layer in enumerate(chosen)
    }
    tokens = _labels(model, row, at)
    if at is not None:
        found = {layer: positions[0] for layer, positions in found.items()}
    lens = Lens(found, tokens, single=at is not None)
    if plot:
        lens.figure = lens.plot(max_display_tokens, figsize, cmap)
        show(lens.figure)
    return lens


def _labels(model: Traceable, row: mx.array, at: int | None) -> list[str]:
    if not holds_tokens(row):
        return [str(number) for number in range(row.shape[1])] if at is None else [str(at)]
    tokens: list[int] = row[0].tolist()  # type: ignore[assignment]
    names = token_strings(model, tokens)
    return [names[token] for token in (tokens if at is None else [tokens[at]])]


def _best_of(
    model: Traceable, row: mx.array, layers: list[int], at: int | None, top_k: int
) -> tuple[list, list]:
    """Ids and scores as nested lists, [layer][position][rank]."""
    shown = slice(None) if at is None else slice(at, at + 1)
    edited = is_edited(model)
    last = len(model.layers) - 1
    early = [layer for layer in layers if layer != last]
    states = own = None
    with model.trace(row):
        logits = first_array(model.output)
        vocabulary = logits.shape[-1]
        check_head(model, logits, first_array(model.layers[-1].output).shape[-1])
        if early:
            seen = slice(None) if edited else shown
            streams = [_stream(model, layer)[0, seen] for layer in early]
            states = mx.stack(streams).save()
        if last in layers:
            own = logits[0, shown].save()
    if states is None:
        parts = []
    elif edited:
        parts = _decoded_in_place(model, row, states, vocabulary, shown, top_k)
    else:
        parts = _decoded(model, states, vocabulary, top_k)
    if own is not None:
        parts.insert(layers.index(last), top_tokens(own, top_k))
    return [ids.tolist() for ids, _ in parts], [scores.tolist() for _, scores in parts]


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


def _decoded(
    model: Traceable, states: mx.array, vocabulary: int, top_k: int
) -> list[tuple[mx.array, mx.array]]:
    """Ids and scores of each layer's states, in as few products as memory allows.

    Args: states: shape (layers, positions, width).
    """
    layers, positions, width = states.shape
    rows = states.reshape(layers * positions, width)
    most = max(1, MOST_SCORES // vocabulary)
    pieces = []
    for start in range(0, rows.shape[0], most):
        pieces.append(top_tokens(token_scores(model, rows[start : start + most]), top_k))
        if rows.shape[0] > most:
            mx.eval(pieces[-1])  # before the next piece's scores, or all are held at once
    ids, scores = (mx.concatenate(list(part)) for part in zip(*pieces, strict=True))
    shape = (layers, positions, ids.shape[-1])
    mx.eval(ids, scores)
    return list(zip(ids.reshape(shape), scores.reshape(shape), strict=True))


def _decoded_in_place(
    model: Traceable, row: mx.array, states: mx.array, vocabulary: int, shown: slice, top_k: int
) -> list[tuple[mx.array, mx.array]]:
    """As `_decoded`, each state at its own position of the text: edits may ask which that is.

    Args: states: shape (layers, length, width); shown: the positions that are wanted.
    """
    most = max(1, MOST_SCORES // (vocabulary * states.shape[1]))
    found = []
    for start in range(0, states.shape[0], most):
        scores = scores_in_place(model, row, states[start : start + most])
        ids, best = top_tokens(scores[:, shown], top_k)
        mx.eval(ids, best)  # before the next piece's scores, or all are held at once
        found += list(zip(ids, best, strict=True))
    return found
