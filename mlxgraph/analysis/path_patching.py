"""Path patching: what one part of a model tells another, apart from what it tells the rest.

Three steps. What the senders' values of the other text change in the residual stream is found with
all other parts held at the run that is patched. Receivers inside attention are then computed of the
stream with that difference. Last the receivers' runs, all of them as one sweep: a receiver reads
the stream and the difference, everything after it is computed anew, and the metric is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.cells import Cell, Recorder, Stopped, part
from mlxgraph.analysis.components import Place
from mlxgraph.analysis.effects import Effects
from mlxgraph.analysis.inputs import holds_tokens, one_row
from mlxgraph.analysis.map_runs import check_apart, in_percent, kept_of, last_logits
from mlxgraph.analysis.pairs import DENOISE, NOISE
from mlxgraph.analysis.path_ends import BEFORE, OUTPUT, End, Receivers, receivers_of, senders_of
from mlxgraph.analysis.path_ways import MLP, Pair, Ways
from mlxgraph.analysis.questions import Match, chosen_positions, matched, number_of, scoring
from mlxgraph.analysis.scores import Score
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, SweepStopped, UnknownNameError


def path_patching(
    model: Traceable,
    clean_text: Any,
    corrupted_text: Any,
    senders: Any = "heads",
    receivers: Any = OUTPUT,
    metric: Any = "l2",
    *,
    targets: Any = None,
    positions: Any = None,
    through: str | None = None,
    align: str | None = None,
    normalize: bool = True,
    direction: str = DENOISE,
    batch_size: int | None = None,
    memory_limit: int | None = None,
    progress: bool | None = None,
) -> Effects:
    """What a sender tells a receiver directly: the other text's value, along these paths alone.

    The receiver is given its input of the patched run plus what the sender's other value changes in
    the residual stream, while every other part of the layers between keeps what it gave. Everything
    after the receiver is computed anew.

    Args:
        clean_text, corrupted_text: a text, messages or token ids each, of the same number of tokens
            unless `align` is given.
        senders: a list of parts of layers, by any form of their names, `"layers.1.attn"`,
            `"layers.*.mlp"`, `("layers.2.attn", 3)` for a head, `("layers.2.attn", "all")` for
            each; or the embedding; one of these alone makes no axis.  A component by itself,
            `"heads"`, `"attn"` or `"mlp"`, is that of every layer, by "layer" and "head".
        receivers: `"__model_output__"`; parts of layers, which receive by their inputs; what is
            inside a part, `"layers.3.attn.queries"`, `("layers.3.attn.queries", 2)` for one head's,
            keys and values alike, which are computed of the part's input; `"queries"` for those of
            all heads; a list of these, along an axis "receiver"; or a dict of lists, of which each
            is patched together: `{"late queries": [...]}`.
        metric, targets, align, normalize, direction: as for `activation_patching`: `"denoise"` runs
            the corrupted text with a clean sender, `"noise"` the clean text with a corrupted one.
        positions: where the sender's value is replaced: None for all positions at once, `"all"` and
            a list of numbers for each by itself, along an axis "position".
        through: None holds attention and MLPs; `"mlp"` lets MLPs between the two pass on what
            changes, as Wang et al. do.
        batch_size, memory_limit, progress: as for `model.sweep`.
    Returns: Effects along "sender" ("layer" and "head" for a component), "position" and "receiver",
        as far as they were asked for, in percent of the way from the corrupted to the clean run;
        with `normalize=False` the metric itself.  A receiver that comes before a sender gets
        nothing of it: the score of the unpatched run.  NaN where a layer lacks the head.
    Raises: InputError for senders none of which comes before a receiver, and for a model whose
        layers are no sums of what they are given and what their parts add; UnknownSiteError,
        HeadsError, BoundsError, LengthsError, BaselineError, and what else `activation_patching`
        raises.
    Source: Wang et al. 2022, arXiv:2211.00593; Goldowsky-Dill et al. 2023, arXiv:2304.05969.

    Example:
        >>> clean, corrupted = "The capital of France is", "The capital of England is"
        >>> answers = {"metric": "logit_diff", "targets": (" Paris", " London")}
        >>> model.path_patching(clean, corrupted, "heads", **answers)
        >>> model.path_patching(
        ...     clean, corrupted, ["layers.1.attn", ("layers.1.attn", 3)],
        ...     [("layers.3.attn.queries", 2), "layers.3.mlp"], **answers,
        ... )
    """
    if direction not in (DENOISE, NOISE):
        raise InputError(
            f"there is no direction {direction!r:.40}.\n  Write direction='denoise' to run the"
            " corrupted text with clean values, or direction='noise' for the other way round."
        )
    if through not in (None, MLP):
        raise UnknownNameError("through", str(through), (MLP,), "None holds MLPs too.")
    score = scoring(model, metric, targets)
    clean, corrupted = one_row(model, clean_text), one_row(model, corrupted_text)
    denoise = direction == DENOISE
    run, other = (corrupted, clean) if denoise else (clean, corrupted)
    match = matched(run, other, align, denoise)
    found, receiving = senders_of(model, run, senders), receivers_of(model, run, receivers)
    chosen = chosen_positions(positions, match, f"the {'corrupted' if denoise else 'clean'} text")
    where = [None] if chosen is None else chosen.labels
    _check_order(found.ends, receiving)
    _check_lengths(found.ends, match)
    ways = Ways(model, run, found.ends, receiving, through)
    own, _ = kept_of(model, run, _by_component(found.ends))
    theirs, logits = kept_of(model, other, _by_component(found.ends))
    dtype, logits = logits.dtype, logits.astype(mx.float32)
    best = logits if denoise else last_logits(model, run)

    sent = [_patched(end, own, theirs, match, position) for end in found.ends for position in where]
    recorder = Recorder(model, run)
    options = {"batch_size": batch_size, "memory_limit": memory_limit, "progress": progress}
    latest: list[mx.array] = []

    def against_clean(logits: mx.array) -> mx.array:
        latest[:] = [logits]
        return score(logits, best)

    stopped = None
    pairs: list[Pair] = []
    numbers = np.full(1, np.nan, dtype=np.float32)
    try:
        pairs = [*ways.pairs(found.ends, sent, len(where), own)]
        ways.compute_inside(pairs, options)
        numbers = np.full(len(pairs) + 1, np.nan, dtype=np.float32)
        graphs = [ways.graph(pair) for pair in pairs]
        if recorder.nothing.saves:  # the logits of a model whose output is no array
            graphs = [graph >> recorder.nothing for graph in graphs]
        told = Score(score.name, against_clean, of_two=False)
        numbers = recorder.swept([*graphs, recorder.nothing], told, options)
    except Stopped as early:
        stopped, numbers = early.error, early.numbers
    except SweepStopped as early_error:
        stopped, numbers = early_error, np.full(len(pairs) + 1, np.nan, dtype=np.float32)
    unpatched = latest[0] if latest and stopped is None else last_logits(model, run)
    if number_of(score, unpatched, best) != numbers[-1]:
        unpatched = last_logits(model, run)
    clean_logits, worst = (best, unpatched) if denoise else (unpatched, logits)
    ends = {
        "clean": number_of(score, clean_logits, best),
        "corrupted": number_of(score, worst, best),
    }
    # where nothing arrives nothing is run: the score is the unpatched run's
    full = np.full((len(found.ends), len(where), len(receiving.groups)), np.nan, dtype=np.float32)
    full[...] = numbers[-1] if stopped is None else ends["corrupted" if denoise else "clean"]
    for pair, number in zip(pairs, numbers[:-1], strict=True):
        full[pair.at] = number
    if normalize:
        check_apart(clean_logits, worst, dtype, score.name)
        full = in_percent(full, ends["clean"], ends["corrupted"], score.name)
    axes = dict(found.axes)
    shape = [len(labels) for labels in axes.values()]
    table = np.full((*shape, *full.shape[1:]), np.nan, dtype=np.float32)
    for at, cell in zip(found.at, full, strict=True):
        table[at] = cell
    coords: dict[str, Any] = {}
    if chosen is None or chosen.single:
        table = table[..., 0, :]
    else:
        axes["position"] = chosen.labels
        if holds_tokens(run):
            name = str if model.tokenizer is None else model.token_to_str
            ids = run[0].tolist()
            coords["token"] = ("position", [name(ids[p]) for p in chosen.labels])  # type: ignore
    if receiving.single:
        table = table[..., 0]
    else:
        axes["receiver"] = [*receiving.groups]
    result = Effects(
        table,
        axes,
        coords=coords,
        name="recovery" if normalize else score.name,
        unit="%" if normalize else "",
        attrs={
            "metric": score.name,
            "direction": direction,
            "through": through or "",
            **ends,
            "title": _title(senders, receiving),
        },
    )
    if stopped is not None:
        stopped.result = result
        raise stopped
    return result


def _by_component(ends: Sequence[End]) -> dict[str, list[Place]]:
    """Each place once, by its component."""
    found: dict[tuple[str, int], Place] = {}
    for end in ends:
        assert end.place is not None
        found[end.place.component, end.place.layer] = end.place
    return {name: [place for (own, _), place in found.items() if own == name] for name, _ in found}


def _patched(
    end: End, own: Mapping[Any, Any], theirs: Mapping[Any, Any], match: Match, position: int | None
) -> mx.array:
    """A sender's value of the base run, with the other's put in place."""
    assert end.place is not None
    key = end.place.component, end.place.layer
    cell = Cell((0, 0, 0, 0), end.place, position, end.head)
    every = (None, None) if match.length == match.other else (match.start, match.stop)
    value = mx.array(own[key])
    value[part(cell.spans(every))] = theirs[key][part(cell.spans(every, match.shift))]
    return value


def _check_lengths(senders: Sequence[End], match: Match) -> None:
    """Raises: InputError for a pattern of a text of another length."""
    for end in senders:
        if match.length != match.other and end.place is not None and len(end.place.positions) > 1:
            raise InputError(
                f"{end.label} has a number for each pair of tokens, and the texts are of different"
                " lengths.\n  Send 'heads' or 'values', or take texts of one length."
            )


def _check_order(senders: Sequence[End], receiving: Receivers) -> None:
    """Raises: InputError where no sender comes before a receiver."""
    ends = [end for some in receiving.groups.values() for end in some]
    latest = max(float("inf") if end.place is None else end.place.layer for end in ends)
    earliest = min(end.place.layer for end in senders if end.place is not None)
    if earliest > latest or latest == BEFORE:
        raise InputError(
            f"no path leads from {senders[0].label} to {ends[0].label}: the model computes the"
            " receiver first.\n  Name receivers in later layers, or '__model_output__'."
        )


def _title(senders: Any, receiving: Receivers) -> str:
    told = "Path patching"
    if isinstance(senders, str):
        told += f" from {senders}"
    if receiving.single:
        told += (
            f" to {'the output' if OUTPUT in receiving.groups else next(iter(receiving.groups))}"
        )
    return told
