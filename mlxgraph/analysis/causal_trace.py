"""Causal tracing: which states bring back what noise on the subject has taken away.

The text runs once as it is; then with noise on the embeddings of the subject's tokens, several
samples of it as the rows of one batch, and with the clean value put back at one layer (or a few
around it) and one position.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxgraph.analysis.cells import Cell, Recorder, Stopped
from mlxgraph.analysis.components import WHOLE_BLOCK, Place
from mlxgraph.analysis.effects import Effects
from mlxgraph.analysis.inputs import first_array, holds_tokens, one_row, whole_number
from mlxgraph.analysis.map_runs import (
    at_of,
    check_axes,
    in_percent,
    kept_of,
    patch_graph,
    placed,
    tokens_along,
)
from mlxgraph.analysis.questions import (
    Match,
    chosen_heads,
    chosen_positions,
    grid_of,
    matched,
    number_of,
    scoring,
    token_id,
)
from mlxgraph.analysis.scores import Score
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, NeverCalledError, PositionError

PROBABILITY = "probability"
SCALE = 3.0  # standard deviations of the embeddings
PART = 10 / 48  # of the layers: the paper's window, in the paper's model


def causal_trace(
    model: Traceable,
    text: Any,
    subject: Any,
    component: str | Sequence[str] = "output",
    layers: Sequence[int] | None = None,
    metric: Any = PROBABILITY,
    *,
    positions: Any = "all",
    heads: Any = None,
    window: int | None = None,
    noise: float | None = None,
    samples: int = 10,
    seed: int = 0,
    embedding: str | None = None,
    targets: Any = None,
    normalize: bool = True,
    batch_size: int | None = None,
    memory_limit: int | None = None,
    progress: bool | None = None,
) -> Effects:
    """How much of what noise on the subject takes away each state brings back, put in clean.

    Args:
        text: a text, messages or token ids.
        subject: a part of the text, whose tokens get the noise; or their positions.
        component, layers, positions, heads: as for `activation_patching`.
        metric: `"probability"` of the answer, which is the clean run's own first choice, or the
            token in `targets`; or any metric of `activation_patching`.
        window: how many layers around each are restored together; left out, 1 for states of the
            stream, and for anything within a layer a fifth of the layers, as the paper's 10 of 48.
        noise: its standard deviation; left out, three times that of the embeddings of the text.
        samples: of the noise; the result is the mean over them.
        seed: of the noise: one seed is one result.
        embedding: the module that embeds tokens, where it cannot be found.
        targets: the answer, a text of one token or an id; two of them for `"logit_diff"`.
        normalize: in percent of the way from the noised run to the clean one; False: the metric.
        batch_size, memory_limit, progress: as for `model.sweep`.
    Returns: Effects along "layer" and "position" (with a coord "token"), and "component" and
        "head" as far as they were asked for; `attrs` has the clean and the noised run's scores.
    Raises: TokenError for a subject that is not in the text, PositionError, BaselineError where the
        noise changes nothing, InputError, and what `activation_patching` raises.
    Source: Meng et al. 2022, arXiv:2202.05262.

    Example:
        >>> effects = model.causal_trace("The capital of France is", " France", samples=4)
        >>> effects.argmax()
    """
    row = one_row(model, text)
    if not holds_tokens(row):
        raise InputError("a causal trace puts noise on token embeddings: give a text or token ids.")
    where = _subject(model, text, row, subject)
    samples, seed = whole_number(samples, "samples"), whole_number(seed, "seed")
    if seed < 0:
        raise InputError(f"seed={seed} is below 0.\n  Write seed=0, or any number above it.")
    if samples < 1:
        raise InputError(f"samples={samples}: the noise is drawn at least once.")
    match = matched(row, row, None)
    places, found_layers = placed(model, row, component, layers)
    chosen, own_heads = chosen_positions(positions, match), chosen_heads(heads, places)
    grid = grid_of(component, [*places], found_layers, chosen, own_heads)
    check_axes(places, chosen, match)
    every = places if layers is None else placed(model, row, component, None)[0]
    kept, clean = kept_of(model, row, every)
    clean = clean.astype(mx.float32)
    score = _score(model, metric, targets, clean)
    path = _embedding(model, row, embedding)
    noised, scale = _noised(model, row, path, where, noise, samples, seed)
    rows = mx.concatenate([row] * samples)
    recorder, cells = Recorder(noised, rows), [*grid.cells(places)]
    widths = {name: _window(window, name, len(model.layers)) for name in places}
    graphs = [
        _restored(recorder, cell, every[cell.place.component], widths, kept, match)
        for cell in cells
    ]
    told = score
    if score.of_two:
        told = Score(score.name, lambda logits: score(logits, clean), of_two=False)
    options = {"batch_size": batch_size, "memory_limit": memory_limit, "progress": progress}
    best = number_of(score, clean, clean)
    stopped = None
    try:
        numbers = recorder.swept([*graphs, recorder.nothing], told, options)
    except Stopped as early:
        stopped, numbers = early.error, early.numbers
    worst = float(numbers[-1])
    table = grid.table(cells, numbers[:-1])
    if normalize and stopped is None:
        table = in_percent(table, best, worst, score.name, "the clean and the noised run")
    result = Effects(
        table,
        grid.axes,
        coords=tokens_along(model, [row], grid),
        name="recovery" if normalize and stopped is None else score.name,
        unit="%" if normalize and stopped is None else "",
        attrs={
            **at_of(grid),
            "metric": score.name,
            "subject": where,
            "clean": best,
            "corrupted": worst,
            "noise": scale,
            "samples": samples,
            "seed": seed,
            "window": max(widths.values()),
            "title": f"Causal trace{f' of {component}' if isinstance(component, str) else ''}",
        },
    )
    if stopped is not None:
        stopped.result = result
        raise stopped
    return result


def _subject(model: Traceable, text: Any, row: mx.array, subject: Any) -> list[int]:
    """The positions of the subject's tokens."""
    length = row.shape[1]
    if not isinstance(subject, str):
        chosen = chosen_positions(subject, matched(row, row, None))
        if chosen is None:
            raise InputError(
                "a causal trace needs a subject.\n  Write a part of the text, such as ' France'."
            )
        return sorted(chosen.labels)
    last = model.position(text, subject)
    if not 0 <= last < length:
        raise PositionError(last, length)
    ids = row[0].tolist()
    for first in range(last, -1, -1):
        if subject.strip() in model.decode(ids[first : last + 1]):  # type: ignore[index]
            return list(range(first, last + 1))
    raise InputError(
        f"the tokens of {subject!r} cannot be told in this text: give their positions.\n"
        f"  Its last one is position {last}: subject=[{last}]."
    )


def _score(model: Traceable, metric: Any, targets: Any, clean: mx.array) -> Score:
    if not (isinstance(metric, str) and metric == PROBABILITY):
        return scoring(model, metric, targets)
    answer = int(mx.argmax(clean).item()) if targets is None else _answer(model, targets)
    if not 0 <= answer < clean.shape[0]:
        raise InputError(f"the model has no token {answer}: ids go to {clean.shape[0] - 1}.")

    def probability(logits: mx.array) -> mx.array:
        return mx.exp(logits[answer] - mx.logsumexp(logits))

    return Score(PROBABILITY, probability, of_two=False)


def _answer(model: Traceable, targets: Any) -> int:
    if isinstance(targets, (list, tuple)):
        if len(targets) != 1:
            raise InputError(
                f"metric='probability' is of one token, and targets are {targets!r:.60}.\n"
                "  Write targets=' Paris'; or metric='logit_diff' for two."
            )
        targets = targets[0]
    return token_id(model, targets)


def _embedding(model: Traceable, row: mx.array, named: str | None) -> str:
    """The module that is given the token ids."""
    if named is not None:
        return model[named].path
    known = [
        path
        for path, module in model.named_modules()
        if isinstance(module, (nn.Embedding, nn.QuantizedEmbedding))
    ]
    given: dict[str, Any] = {}
    with model.trace(row):
        for path in known:
            try:
                found = first_array(model[path].input)
            except NeverCalledError:
                continue
            if isinstance(found, mx.array) and found.shape == row.shape:
                given[path] = found.save()
    for path, ids in given.items():
        if mx.array_equal(ids, row).item():
            return path
    raise InputError(
        "no module of this model is seen to embed the tokens.\n"
        "  Write embedding='model.embed_tokens', with the name that it has here:"
        " model.named_modules() lists every name."
    )


def _noised(
    model: Traceable,
    row: mx.array,
    path: str,
    where: list[int],
    noise: float | None,
    samples: int,
    seed: int,
) -> tuple[Traceable, float]:
    """The model with noise on the embeddings at some positions, a sample for each row."""
    with model.trace(row):
        states = first_array(model[path].output).save()
    dtype = states.dtype
    states = states.astype(mx.float32)
    if noise is None:
        noise = SCALE * math.sqrt(mx.var(states).item())
    if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 < noise < math.inf:
        raise InputError(
            f"noise={noise!r:.40} is no standard deviation.\n  Write a number above 0, or leave it"
            " out for three times that of the embeddings."
        )
    shape = (samples, len(where), states.shape[-1])
    drawn = (noise * mx.random.normal(shape, key=mx.random.key(seed))).astype(dtype)
    mx.eval(drawn)
    bare = model.without_edits()
    with bare.trace(mx.concatenate([row] * samples)) as trace:
        there = first_array(bare[path].output)
        for k, position in enumerate(where):
            at = slice(position, position + 1)
            there[:, at] = there[:, at] + drawn[:, k : k + 1]
    return model.edit(trace.graph), float(noise)


def _window(window: Any, component: str, layers: int) -> int:
    """How many layers are restored together."""
    if window is None:
        is_stream = component in WHOLE_BLOCK or component.startswith("resid_")
        return 1 if is_stream else max(1, round(PART * layers))
    window = whole_number(window, "window")
    if window < 1:
        raise InputError(f"window={window}: at least one layer is restored.")
    return window


def _restored(
    recorder: Recorder,
    cell: Cell,
    places: list[Place],
    widths: Mapping[str, int],
    kept: Mapping[tuple[str, int], mx.array],
    match: Match,
) -> Any:
    """The graph of a cell: the clean values of the layers around it, put back."""
    width, layer = widths[cell.place.component], cell.place.layer
    window = range(layer - width // 2, layer + (width + 1) // 2)
    whole = None
    for place in sorted(places, key=lambda place: place.layer):
        if place.layer in window and (cell.head is None or cell.head < place.heads):
            graph = patch_graph(recorder, cell.of(place), kept, match)
            whole = graph if whole is None else whole >> graph
    return whole
