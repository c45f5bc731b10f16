"""What maps are asked for: positions, heads, metrics, as users write them.

In: arguments.  Out: numbers that the texts and the model have; scores.
Raises for the rest, with what to write instead.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.cells import Grid
from mlxgraph.analysis.components import HEADS, INSIDE, Place
from mlxgraph.analysis.inputs import holds_tokens, is_encoding, is_messages
from mlxgraph.analysis.metrics import METRICS
from mlxgraph.analysis.scores import Score, score_of
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.errors import (
    AlignError,
    BoundsError,
    HeadsError,
    InputError,
    LengthsError,
    PositionError,
    UnknownNameError,
    VocabularyError,
)
from mlxgraph.errors.source_line import here

ALIGNMENTS = ("start", "end")
LOGIT_DIFF = "logit_diff"


class Match(NamedTuple):
    """Which positions of two texts correspond: `p` of the one that runs, `p + shift` of the other.

    Attributes: length, other: of the texts; start, stop: the positions that both have.
    """

    length: int
    other: int
    shift: int
    start: int
    stop: int

    def between(self, start: int, stop: int) -> Match:
        """The same, with other positions that both have."""
        return Match(self.length, self.other, self.shift, start, stop)


def matched(run: mx.array, other: mx.array, align: Any, clean_first: bool = True) -> Match:
    """How the positions of two rows correspond.

    Args: run: the text that runs, other: the one whose values are put into it; clean_first:
        whether `other` is the clean one, for what an error says.
    Raises: LengthsError for other lengths without `align`, AlignError, InputError.
    """
    if align is not None and align not in ALIGNMENTS:
        raise AlignError(str(align), ALIGNMENTS)
    length, count = run.shape[1], other.shape[1]
    if length != count:
        if align is None:
            raise LengthsError(*((count, length) if clean_first else (length, count)))
        if not (holds_tokens(run) and holds_tokens(other)):
            raise InputError("only token ids of different lengths can be aligned.")
    shift = count - length if align == "end" else 0
    return Match(length, count, shift, max(0, -shift), min(length, count - shift))


class Chosen(NamedTuple):
    """Labels along an axis.  Attributes: single: whether one was asked for by itself, which makes
    no axis."""

    labels: list[int]
    single: bool


def chosen_positions(positions: Any, match: Match, what: str = "the text") -> Chosen | None:
    """Positions in the text that runs, from its start; None for all of them at once.

    Raises: PositionError for one that the text lacks or the other has no counterpart of,
        InputError.
    """
    if positions is None:
        return None
    if isinstance(positions, str):
        if positions != "all":
            raise InputError(
                f"positions={positions!r} are none.\n  Write positions='all', numbers such as"
                " positions=[0, -1], or leave it out to patch all positions at once;"
                " model.position(text, ' France') is a token's number."
            )
        return Chosen(list(range(match.start, match.stop)), False)
    found, single = _numbers(positions, "positions", match.length)
    resolved = []
    for position in found:
        if not -match.length <= position < match.length:
            raise PositionError(position, match.length, what)
        position %= match.length
        if not match.start <= position < match.stop:
            raise InputError(
                f"position {position} of {what} has no counterpart in the other text: they share"
                f" positions {match.start} to {match.stop - 1}.\n  Write one of these, or another"
                " align=."
            )
        resolved.append(position)
    return Chosen(list(dict.fromkeys(resolved)), single)


def _numbers(given: Any, what: str, length: int) -> tuple[list[int], bool]:
    """Whole numbers, from one or from any kind of sequence; and whether it was one."""
    if isinstance(given, slice):
        return list(range(length))[given], False
    if not isinstance(given, bool):
        try:
            return [operator.index(given)], True
        except TypeError:
            pass
        try:
            if not isinstance(given, (str, bytes, Mapping)) and isinstance(given, Iterable):
                listed = getattr(given, "tolist", lambda: list(given))()
                found = [operator.index(k) for k in listed if not isinstance(k, bool)]
                if len(found) < len(listed):  # Python would take True for 1
                    raise TypeError
                if found:
                    return found, False
                raise InputError(f"{what}={given!r:.40} are none: there is nothing to run.")
        except TypeError:
            pass
    raise InputError(
        f"{what}={given!r:.40} are no whole numbers.\n"
        f"  Write {what}=[0, -1], {what}='all', or leave it out; of a mask, np.flatnonzero(mask)."
    )


def chosen_heads(heads: Any, places: Mapping[str, list[Place]]) -> Chosen | None:
    """The heads to look at one by one; None for all of them at once.

    Raises: HeadsError for a component that has none, BoundsError, InputError.
    """
    counts = {place.heads for some in places.values() for place in some}
    if heads is None:
        most = max(counts, default=0)
        is_map = all(component in INSIDE for component in places) and 0 not in counts
        return Chosen(list(range(most)), False) if is_map and most else None
    for some in places.values():
        for place in some:
            if not place.heads:
                raise HeadsError(
                    place.name,
                    f"component {place.component!r}",
                    str(here()),
                    f"Leave heads out, or name one of {', '.join(map(repr, INSIDE))}.",
                )
    most = max(counts, default=0)
    if isinstance(heads, str):
        if heads != "all":
            raise InputError(
                f"heads={heads!r} are none.\n  Write heads='all', numbers such as heads=[0, 3], or"
                " leave it out."
            )
        return Chosen(list(range(most)), False)
    found, single = _numbers(heads, "heads", most)
    shapes = [place.shape for some in places.values() for place in some if place.heads == most]
    resolved = []
    for head in found:
        if not -most <= head < most:
            raise BoundsError(head, HEADS, most, shapes[0], str(here()))
        resolved.append(head % most)
    return Chosen(list(dict.fromkeys(resolved)), single)


def grid_of(
    component: Any,
    components: list[str],
    layers: list[int],
    positions: Chosen | None,
    heads: Chosen | None,
) -> Grid:
    """The axes of a question.  Args: component: as the user gave it: a list keeps its axis."""
    kept = ["component"] if not isinstance(component, str) else []
    kept.append("layer")
    for name, chosen in (("position", positions), ("head", heads)):
        if chosen is not None and not chosen.single:
            kept.append(name)
    return Grid(
        components, layers, positions and positions.labels, heads and heads.labels, tuple(kept)
    )


def components_in(component: Any) -> list[Any]:
    """The components that a user names, each once.  Raises: InputError for none."""
    if isinstance(component, (list, tuple)):
        found = list({str(one): one for one in component}.values())
        if not found:
            raise InputError("component=[] names none.\n  Write component='attn'.")
        return found
    return [component]


def scoring(model: Traceable, metric: Any, targets: Any) -> Score:
    """A metric: a distance by name, "logit_diff" of two targets, or a user's function.

    Raises: UnknownNameError, InputError, TokenError for a target of several tokens.
    """
    if isinstance(metric, str) and metric == LOGIT_DIFF:
        if targets is None:
            raise InputError(
                "metric='logit_diff' needs two tokens.\n"
                "  Write targets=(' Paris', ' Rome'): the logit of the first minus the second's."
            )
        one, other = target_ids(model, targets)
        return Score(LOGIT_DIFF, lambda logits: _entry(logits, one) - _entry(logits, other), False)
    if targets is not None:
        raise InputError(
            f"targets= are for metric='logit_diff', and the metric is {metric!r:.40}.\n"
            "  Write metric='logit_diff', or leave targets out."
        )
    if not isinstance(metric, str) and not callable(metric):
        raise InputError(
            f"a metric is a name or a function, not {metric!r:.60}.\n"
            "  Write metric='logit_diff', or lambda logits: logits[token] for a score."
        )
    if isinstance(metric, str) and metric not in METRICS:
        also = "A function of one logit vector (a score) or of two (a distance) works too."
        raise UnknownNameError("metric", metric, [*METRICS, LOGIT_DIFF], also)
    return score_of(metric)


def target_ids(model: Traceable, targets: Any) -> tuple[int, int]:
    """The ids of two targets, texts of one token or ids."""
    targets = listed(targets)
    if isinstance(targets, (str, bytes)) or not isinstance(targets, Sequence) or len(targets) != 2:
        raise InputError(
            f"targets are two tokens, and these are {targets!r:.60}.\n"
            "  Write targets=(' Paris', ' Rome'), or two token ids."
        )
    return token_id(model, targets[0]), token_id(model, targets[1])


def listed(targets: Any) -> Any:
    """Targets in an array as lists of ids; all else as it is."""
    return targets.tolist() if isinstance(targets, (mx.array, np.ndarray)) else targets


def token_id(model: Traceable, target: Any) -> int:
    """The id of a token.  Raises: TokenError for a text of several tokens, InputError."""
    if isinstance(target, str):
        return model.single_token(target)
    try:
        if isinstance(target, bool):
            raise TypeError
        return operator.index(target)
    except TypeError:
        raise InputError(
            f"a target is a text of one token, or an id, not {target!r:.40}."
        ) from None


def _entry(logits: mx.array, token: int) -> mx.array:
    """A token's logit.  Raises: VocabularyError for an id that the model has none of."""
    if not 0 <= token < logits.shape[-1]:
        raise VocabularyError(token, "the model's output", logits.shape[-1], str(here()))
    return logits[token]


def number_of(score: Score, logits: mx.array, reference: mx.array) -> float:
    """The score of one logit vector as a number."""
    return float(score(logits, reference).item())


def without_column(given: Any) -> Any:
    """A column of a table, or an array of texts, as a list; anything else as it is."""
    kind = getattr(getattr(given, "dtype", None), "kind", "")
    return given.tolist() if kind in ("U", "O") else given


def several_texts(given: Any) -> bool:
    """Whether something is a list of texts, and not one."""
    if isinstance(given, str) or is_messages(given) or is_encoding(given):
        return False
    if isinstance(given, (mx.array, np.ndarray)):
        return given.ndim == 2 and given.shape[0] > 1 and holds_tokens(mx.array(given))
    if not isinstance(given, (list, tuple)) or not given:
        return False
    if any(isinstance(one, str) or is_messages(one) or is_encoding(one) for one in given):
        return True
    rows = [isinstance(one, (list, tuple, mx.array, np.ndarray)) for one in given]
    return all(rows) and len(given) > 1
