"""Path patching: what one part of a model tells another, apart from what it tells the rest.

Three steps. What the senders' values of the other text change in the residual stream is found with
all other parts held at the run that is patched. Receivers inside attention are then computed of the
stream with that difference. Last the receivers' runs, all of them as one sweep: a receiver reads
the stream and the difference, everything after it is computed anew, and the metric is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.cells import Cell, Recorder, Stopped, part
from mlxgraph.analysis.components import Place
from mlxgraph.analysis.effects import Effects
from mlxgraph.analysis.inputs import holds_tokens, one_row
from mlxgraph.analysis.map_runs import check_apart, in_percent, kept_of, last_logits
from mlxgraph.analysis.pairs import DENOISE, is_denoise
from mlxgraph.analysis.path_ends import (
    HEADS,
    OUTPUT,
    End,
    Receivers,
    check_order,
    edges_of,
    receivers_of,
    senders_of,
)
from mlxgraph.analysis.path_ways import MLP, Pair, Ways
from mlxgraph.analysis.questions import Match, chosen_positions, matched, number_of, scoring
from mlxgraph.analysis.scores import Score
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import InputError, SweepStopped, UnknownNameError


def path_patching(
    model: Traceable,
    clean_text: Any,
    corrupted_text: Any,
    senders: Any = HEADS,
    receivers: Any = OUTPUT,
    metric: Any = "l2",
    *,
    edges: Any = None,
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
            `"heads"`, `"attn"` or `"mlp"`, is that of every layer, by "layer" and "head".  A dict
            of lists, of which each is patched together: `{"early": [...], "attention": "attn"}`.
        receivers: `"__model_output__"`; parts of layers, which receive by their inputs; what is
            inside a part, `"layers.3.attn.queries"`, `("layers.3.attn.queries", 2)` for one head's,
            keys and values alike, which are computed of the part's input; `"queries"` for those of
            all heads; a list of these, along an axis "receiver"; or a dict of lists, of which each
            is patched together: `{"late queries": [...]}`.
        edges: pairs of a sender and a receiver, in place of both: each pair alone is patched, along
            an axis "edge".  Several parts, in a list, a pattern or a component, are one end,
            patched together.  A dict gives them labels.
        metric, targets, align, normalize, direction: as for `activation_patching`: `"denoise"` runs
            the corrupted text with a clean sender, `"noise"` the clean text with a corrupted one.
        positions: where the sender's value is replaced: None for all positions at once, `"all"` and
            a list of numbers for each by itself, along an axis "position".
        through: None holds attention and MLPs; `"mlp"` lets MLPs between the two pass on what
            changes, as Wang et al. do.
        batch_size, memory_limit, progress: as for `model.sweep`.
    Returns: Effects along "sender" ("layer" and "head" for a component), "position" and "receiver",
        as far as they were asked for, or along "edge" (with coords "sender" and "receiver"), in
        percent of the way from the corrupted to the clean run; with `normalize=False` the metric
        itself.  A receiver that comes before a sender gets nothing of it: the score of the
        unpatched run.  NaN where a layer lacks the head.
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
        >>> model.path_patching(
        ...     clean, corrupted, edges=[("layers.1.attn", "layers.3.mlp")], **answers,
        ... )
    """
    denoise = is_denoise(direction)
    if through not in (None, MLP):
        raise UnknownNameError("through", str(through), (MLP,), "None holds MLPs too.")
    score = scoring(model, metric, targets)
    clean, corrupted = one_row(model, clean_text), one_row(model, corrupted_text)
    run, other = (corrupted, clean) if denoise else (clean, corrupted)
    match = matched(run, other, align, denoise)
    asked = _asked(model, run, senders, receivers, edges)
    chosen = chosen_positions(positions, match, f"the {'corrupted' if denoise else 'clean'} text")
    where = [None] if chosen is None else chosen.labels
    places = _by_component(asked.senders)
    _check_lengths(asked.senders, match)
    ways = Ways(model, run, asked.senders, [*asked.receivers.values()], [*asked.receivers], through)
    own, _ = kept_of(model, run, places)
    theirs, logits = kept_of(model, other, places)
    dtype, logits = logits.dtype, logits.astype(mx.float32)
    best = logits if denoise else last_logits(model, run)

    sent = [
        _patched(ends, own, theirs, match, position) for ends in asked.senders for position in where
    ]
    base = {place.name: own[_key(place)] for some in places.values() for place in some}
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
        pairs = [*ways.pairs(asked.senders, sent, base, asked.wanted)]
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
    shape = len(asked.senders), len(where), len(asked.receivers)
    full = np.full(shape, np.nan, dtype=np.float32)
    full[...] = numbers[-1] if stopped is None else ends["corrupted" if denoise else "clean"]
    for pair, number in zip(pairs, numbers[:-1], strict=True):
        full[pair.at] = number
    if normalize:
        check_apart(clean_logits, worst, dtype, score.name)
        full = in_percent(full, ends["clean"], ends["corrupted"], score.name)
    table, axes, coords = asked.arranged(full)
    if chosen is None or chosen.single:
        table = table.reshape([len(labels) for labels in axes.values()])
    else:
        axes = _with_positions(axes, chosen.labels)
        if holds_tokens(run):
            name = str if model.tokenizer is None else model.token_to_str
            ids = run[0].tolist()
            coords["token"] = ("position", [name(ids[p]) for p in chosen.labels])  # type: ignore
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
            "title": asked.title,
        },
    )
    if stopped is not None:
        stopped.result = result
        raise stopped
    return result


class _Asked(NamedTuple):
    """The paths that are asked for.

    Attributes: senders, receivers: groups of ends; wanted: the receivers of each sender, by number.
        axes: those of the result before positions; cells: for each place along them the sender and
        the receiver, None for all of them along an axis; single: one receiver that makes no axis.
    """

    senders: list[list[End]]
    receivers: dict[str, list[End]]
    wanted: dict[int, list[int]]
    axes: dict[str, Any]
    cells: dict[tuple[int, ...], tuple[int, int | None]]
    coords: dict[str, tuple[str, list[str]]]
    single: bool
    title: str

    def arranged(self, full: np.ndarray) -> tuple[np.ndarray, dict[str, Any], dict[str, Any]]:
        """The numbers of senders, positions and receivers, as the result has them: with the axis of
        positions after those of senders; its axes without it, and its coords."""
        axes = dict(self.axes)
        rest = full.shape[1:2]
        if not self.single:
            axes["receiver"] = [*self.receivers]
            rest = full.shape[1:]
        shape = [len(labels) for labels in self.axes.values()]
        table = np.full((*shape, *rest), np.nan, dtype=np.float32)
        for at, (sender, receiver) in self.cells.items():
            table[at] = full[sender] if receiver is None else full[sender, :, receiver]
        return table, axes, dict(self.coords)


def _asked(model: Traceable, run: mx.array, senders: Any, receivers: Any, edges: Any) -> _Asked:
    if edges is None:
        found, receiving = senders_of(model, run, senders), receivers_of(model, run, receivers)
        check_order(found.groups, receiving.groups.values())
        numbers = range(len(found.groups))
        every = [*range(len(receiving.groups))]
        only = 0 if receiving.single else None
        return _Asked(
            found.groups, receiving.groups, dict.fromkeys(numbers, every), found.axes,
            {found.at[k]: (k, only) for k in numbers}, {}, receiving.single,
            _title(senders, receiving),
        )  # fmt: skip
    defaults = (senders, HEADS), (receivers, OUTPUT)
    if not all(isinstance(one, str) and one == default for one, default in defaults):
        raise InputError(
            "edges= are pairs of a sender and a receiver, and senders= or receivers= are given,"
            " too.\n  Write edges=[('layers.1.attn', 'layers.3.mlp')] alone."
        )
    named = edges_of(model, run, edges)
    wanted: dict[int, list[int]] = {}
    for sender, receiver in dict.fromkeys(named.pairs.values()):
        wanted.setdefault(sender, []).append(receiver)
    labels = [*named.senders], [*named.receivers]
    coords = {
        what: ("edge", [some[pair[k]] for pair in named.pairs.values()])
        for k, (what, some) in enumerate(zip(("sender", "receiver"), labels, strict=True))
    }
    return _Asked(
        [*named.senders.values()], named.receivers, wanted, {"edge": [*named.pairs]},
        {(k,): pair for k, pair in enumerate(named.pairs.values())}, coords, True,
        "Path patching, edge by edge",
    )  # fmt: skip


def _with_positions(axes: Mapping[str, Any], labels: Sequence[int]) -> dict[str, Any]:
    """Axes with that of positions, before that of receivers."""
    before = {name: some for name, some in axes.items() if name != "receiver"}
    return {**before, "position": labels, **axes}


def _by_component(senders: Sequence[Sequence[End]]) -> dict[str, list[Place]]:
    """Each place once, by its component."""
    found: dict[Any, Place] = {}
    for end in (end for ends in senders for end in ends):
        assert end.place is not None
        found[_key(end.place)] = end.place
    return {name: [place for (own, _), place in found.items() if own == name] for name, _ in found}


def _key(place: Place) -> tuple[str, int]:
    return place.component, place.layer


def _patched(
    ends: Sequence[End],
    own: Mapping[Any, Any],
    theirs: Mapping[Any, Any],
    match: Match,
    position: int | None,
) -> dict[str, mx.array]:
    """A sender's values of the base run, by site, with the other's put in place."""
    found: dict[str, mx.array] = {}
    every = (None, None) if match.length == match.other else (match.start, match.stop)
    for end in ends:
        assert end.place is not None
        cell = Cell((0, 0, 0, 0), end.place, position, end.head)
        value = found.setdefault(end.place.name, mx.array(own[_key(end.place)]))
        there = theirs[_key(end.place)]
        value[part(cell.spans(every))] = there[part(cell.spans(every, match.shift))]
    return found


def _check_lengths(senders: Sequence[Sequence[End]], match: Match) -> None:
    """Raises: InputError for a pattern of a text of another length."""
    for end in (end for ends in senders for end in ends):
        if match.length != match.other and end.place is not None and len(end.place.positions) > 1:
            raise InputError(
                f"{end.label} has a number for each pair of tokens, and the texts are of different"
                " lengths.\n  Send 'heads' or 'values', or take texts of one length."
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
