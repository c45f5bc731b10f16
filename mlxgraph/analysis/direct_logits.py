"""Direct logit attribution: what each part of a model writes straight onto a token's logit.

The residual stream at the end is a sum of what was written to it.  The final norm with its scale
fixed is linear, and so is the unembedding: a token's logit is a sum too, of one number for each
writer.

In: a text, tokens, a position.  Out: Effects whose numbers add up to the logit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.direct_parts import PARTS, Part, own_part
from mlxgraph.analysis.effects import Effects
from mlxgraph.analysis.inputs import choose_layers, first_array, holds_tokens, one_row
from mlxgraph.analysis.questions import Chosen, chosen_positions, matched
from mlxgraph.analysis.readable import Token, asked_tokens
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.analysis.unembed import check_positions
from mlxgraph.analysis.written_stream import Written, forget, in_numpy, is_known, run_written
from mlxgraph.errors import DecompositionError, InputError, UnknownNameError

COMPONENT = "component"
WAYS = (COMPONENT, *PARTS)
CLOSE = 1e-4  # of the largest logit, in float32
STEPS = 8  # of the dtype of the run, of the largest logit
Number = float | list[Any]


def direct_logit_attribution(
    model: Traceable,
    text: Any,
    token: Token | Sequence[Token] | None = None,
    against: Token | None = None,
    by: str = COMPONENT,
    position: Any = -1,
    layers: Sequence[int] | None = None,
) -> Effects:
    """What each part of the model adds straight to a token's logit, the final norm's scale fixed.

    Args:
        text: a text, messages or token ids.
        token: the text of one token or its id, or several of them, which make an axis "target"; if
            left out, the model's own first choice at the position.
        against: another token: of the difference of the two logits.
        by: `"component"`, what each attention and MLP writes, and the embedding and biases;
            `"head"`, each head through its part of the output projection; `"neuron"`, each hidden
            unit of the MLPs; `"position"`, what all heads of a layer bring from each position.
        position: whose logits: one, several, or `"all"`, which make an axis "position".
        layers: whose parts are shown; all if left out.
    Returns: Effects along "component"; "layer" and "head"; "layer" and "neuron"; or "layer" and
        "position".  Numbers are of the logit before any cap or scale of it.  NaN where a layer has
        fewer heads or neurons than another.  `attrs["logit"]` is the sum of all numbers and of
        `attrs["rest"]`, what is not shown; `attrs["rounding"]` is by how much it is not.
        `attrs["model_logit"]` is what the model gives, and `attrs["after"]` what it makes of the
        sum: nothing, `{"scale": ...}` or `{"softcap": ...}`.
    Raises: DecompositionError (a ValueError) for a model of which the sum would not be the logit;
        TokenError for a token that is several, VocabularyError, PositionError, NoLayerError,
        UnknownNameError for a `by`, UnembeddingError for a model without a head, InputError.
    Source: nostalgebraist 2020, "interpreting GPT: the logit lens"; Elhage et al. 2021, "A
        mathematical framework for transformer circuits".

    Example:
        >>> e = model.direct_logit_attribution("The capital of France is", " Paris", " London")
        >>> e.plot()
        >>> model.direct_logit_attribution("The capital of France is", " Paris", by="head")
    """
    if by not in WAYS:
        raise UnknownNameError("by", str(by), WAYS)
    row = one_row(model, text)
    places = _positions(position, row, by)
    chosen = choose_layers(model, layers)
    targets = _targets(model, token, row, places)
    other = None if against is None else asked_tokens(model, [against], "against")
    question = _Question(model, row, places, targets, other, chosen, layers is not None, by)
    if is_known(model):
        try:
            return _attributed(question)
        except DecompositionError:  # the model may be another than it was
            forget(model)
    return _attributed(question)


def _attributed(asked: _Question) -> Effects:
    model, part = asked.model, PARTS.get(asked.by)
    index = _index(asked.places)
    shown = part and part.reader(model, index, asked.layers, asked.some_layers)
    tokens = [*asked.targets.values(), *(asked.other or {}).values()]
    written = run_written(model, asked.row, index, tokens, shown)
    rows = in_numpy(mx.stack([model.unembed(one) for one in written.tokens]))
    every = _shares(written, rows)
    raw = _raw(written, rows)
    _check_sum(every, raw, written)
    after = _after(raw, written)
    if part is None:
        table, axes = _by_component(asked, written, every)
    else:
        directions = written.before_norm(asked.of_targets(rows))
        own = own_part(part, model, written, directions, asked.layers)
        _check_parts(own, asked, every, raw, written)
        table, axes = own.table, own.axes
    return _effects(asked, table, axes, every, raw, written, after)


class _Question(NamedTuple):
    """What was asked."""

    model: Any
    row: mx.array
    places: Chosen
    targets: dict[Token, int]
    other: dict[Token, int] | None
    layers: list[int]
    some_layers: bool
    by: str

    def of_targets(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers (tokens, ...) of all tokens as those of the targets, minus the other's."""
        count = len(self.targets)
        return numbers[:count] - numbers[count] if self.other is not None else numbers[:count]


# -- what was asked --------------------------------------------------------------------------------


def _positions(position: Any, row: mx.array, by: str) -> Chosen:
    if position is None:
        raise InputError("position=None is none.\n  Write position=-1, or position='all'.")
    places = chosen_positions(position, matched(row, row, None))
    assert places is not None
    if by == "position" and not places.single:
        raise InputError(
            "by='position' shows where the logit of one position comes from.\n  Write position=-1."
        )
    return places


def _index(places: Chosen) -> Any:
    first, last = places.labels[0], places.labels[-1]
    if places.labels == list(range(first, last + 1)):
        return slice(first, last + 1)
    return mx.array(places.labels)


def _targets(model: Traceable, token: Any, row: mx.array, places: Chosen) -> dict[Token, int]:
    if token is None:
        if not places.single:
            raise InputError(
                "several positions have several first choices.\n  Write token=' Paris'."
            )
        with model.trace(row):
            check_positions(first_array(model.output))
            best = mx.argmax(first_array(model.output)[0, places.labels[0]]).save()
        number = int(best)
        name: Token = number if model.tokenizer is None else model.token_to_str(number)
        return {name: number}
    several = isinstance(token, (list, tuple)) or getattr(token, "ndim", 0) > 0
    given = (token.tolist() if hasattr(token, "tolist") else list(token)) if several else [token]
    return asked_tokens(model, given, "token")


# -- the sum ---------------------------------------------------------------------------------------


def _shares(written: Written, rows: np.ndarray) -> dict[str, np.ndarray]:
    """What each component adds to each token's logit, (tokens, positions)."""
    directions = written.before_norm(rows)
    positions = directions.shape[1]
    values = dict(written.embed)
    values |= {w.label: w.value for some in written.writers.values() for w in some}
    found = {name: np.sum(directions * value, axis=-1) for name, value in values.items()}
    if written.norm is not None and np.any(written.norm.bias):
        found["final_norm.bias"] = _at_all(rows @ written.norm.bias, positions)
    if written.bias is not None:
        found["unembed.bias"] = _at_all(written.bias, positions)
    return found


def _at_all(numbers: np.ndarray, positions: int) -> np.ndarray:
    return np.broadcast_to(numbers[:, None], (numbers.shape[0], positions))


def _raw(written: Written, rows: np.ndarray) -> np.ndarray:
    """Logits before any cap or scale, from the stream as it was, (tokens, positions)."""
    raw = np.sum(written.before_norm(rows) * written.last, axis=-1)
    if written.norm is not None:
        raw = raw + (rows @ written.norm.bias)[:, None]
    return raw if written.bias is None else raw + written.bias[:, None]


def _allowed(numbers: np.ndarray, written: Written) -> np.ndarray:
    """By how much logits may be off: rounding, of the largest and of what cancels in them."""
    return max(CLOSE, STEPS * written.step) * np.abs(numbers).max(axis=0)


def _check_sum(every: dict[str, np.ndarray], raw: np.ndarray, written: Written) -> None:
    parts = np.stack([*every.values()])
    gap = np.abs(np.sum(parts, axis=0) - raw)
    cancelled = len(every) * STEPS * written.step * np.abs(parts).max(axis=0)
    if not np.all(gap <= _allowed(raw, written) + cancelled):
        raise DecompositionError(
            f"what was written adds up to logits that are up to {gap.max():.3g} off"
        )


def _after(raw: np.ndarray, written: Written) -> dict[str, float]:
    """What the model makes of the sum.

    Raises: DecompositionError where its logits are neither the sum nor this scaled or capped.
    """
    ours = np.array(raw).T.reshape(-1).astype(np.float64)  # (positions, tokens)
    theirs = np.array(written.logits).reshape(-1).astype(np.float64)
    close = max(CLOSE, STEPS * written.step)

    def fits(found: np.ndarray) -> bool:
        return bool(np.abs(found - theirs).max() <= close * np.abs(theirs).max())

    if fits(ours):
        return {}
    scale = float(ours @ theirs) / (float(ours @ ours) or 1.0)
    most = int(np.abs(ours).argmax())
    low, high = abs(theirs[most]), 1e6 * abs(ours[most])
    for _ in range(200):  # a cap gives more the higher it is
        cap = (low + high) / 2
        over = abs(cap * np.tanh(ours[most] / cap)) > abs(theirs[most])
        low, high = (low, cap) if over else (cap, high)
    ways: dict[str, tuple[float, Any]] = {
        "scale": (scale, lambda scale: scale * ours),
        "softcap": (float(cap), lambda cap: cap * np.tanh(ours / cap)),
    }
    gaps = {way: float(np.abs(of(one) - theirs).max()) for way, (one, of) in ways.items()}
    best = "scale" if gaps["scale"] <= gaps["softcap"] else "softcap"
    number, of = ways[best]
    if number > 0 and fits(of(number)):
        return {best: _plain(number, lambda one: fits(of(one)))}
    raise DecompositionError(
        "its logits are not those of its final norm and unembedding, nor these scaled or capped"
    )


def _plain(number: float, fits: Callable[[float], bool]) -> float:
    """The number of few digits that was meant, if there is one."""
    for digits in (2, 3):
        short = float(f"{number:.{digits}g}")
        if abs(short / number - 1) < 0.01 and fits(short):
            return short
    return number


def _check_parts(
    own: Part, asked: _Question, every: dict[str, np.ndarray], raw: np.ndarray, written: Written
) -> None:
    """Raises: DecompositionError where parts do not add up to what the component writes."""
    for label, total in own.totals.items():
        whole = asked.of_targets(every[label])
        gap = np.abs(total - whole)
        allowed = np.maximum(_allowed(raw, written), CLOSE * np.abs(whole).max(axis=0))
        if not np.all(gap <= allowed):
            raise DecompositionError(
                f"{own.what} of {label} add up to {gap.max():.3g} more or less than it writes"
            )


# -- what is given ---------------------------------------------------------------------------------


def _by_component(
    asked: _Question, written: Written, every: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, Sequence[Any]]]:
    labels = list(every)
    if asked.some_layers:
        labels = [w.label for layer in asked.layers for w in written.writers[layer]]
        if not labels:
            raise InputError("there are no layers to look at.\n  Leave layers= out for all.")
    parts = [asked.of_targets(every[label]) for label in labels]
    return np.stack(parts, axis=-1), {COMPONENT: labels}


def _effects(
    asked: _Question,
    table: np.ndarray,
    axes: dict[str, Sequence[Any]],
    every: dict[str, np.ndarray],
    raw: np.ndarray,
    written: Written,
    after: dict[str, float],
) -> Effects:
    """Args: table: (targets, positions, *axes)."""
    logit = asked.of_targets(raw)
    parts = asked.of_targets(sum(list(every.values())[1:], next(iter(every.values()))))
    flat = table.reshape(*table.shape[:2], -1)
    rest = parts - np.sum(np.where(np.isnan(flat), 0.0, flat), axis=-1)
    several = len(asked.targets) > 1
    coords: dict[str, tuple[str, list[str]]] = {}
    whole: dict[str, Sequence[Any]] = {}
    if several:
        whole["target"] = list(asked.targets)
    if not asked.places.single:
        whole["position"] = asked.places.labels
    whole |= axes
    if "position" in whole and holds_tokens(asked.row):
        ids: Any = asked.row[0].tolist()
        name = str if asked.model.tokenizer is None else asked.model.token_to_str
        coords["token"] = "position", [name(ids[place]) for place in whole["position"]]

    def number(values: np.ndarray) -> Number:
        values = values if several else values[0]
        return (values[..., 0] if asked.places.single else values).tolist()  # type: ignore

    table = table if several else table[0]
    own_axis = 1 if several else 0
    table = table.squeeze(own_axis) if asked.places.single else table
    title = "Direct logit attribution"
    if not several:
        title += f": {_said(*asked.targets)}"
    attrs: dict[str, Any] = {
        "by": asked.by,
        "targets": list(asked.targets),
        "logit": number(logit),
        "rest": number(rest),
        "rounding": number(logit - parts),
        "after": after,
    }
    if asked.places.single:
        attrs["position"] = asked.places.labels[0]
    model_logit = asked.of_targets(written.logits.T)
    attrs["model_logit"] = number(model_logit)
    if asked.other is not None:
        attrs["against"] = next(iter(asked.other))
        title += f" against {_said(attrs['against'])}"
    attrs["title"] = title
    return Effects(
        table, whole, coords=coords, attrs=attrs,
        name="logit difference" if asked.other is not None else "logit",
    )  # fmt: skip


def _said(token: Token) -> str:
    return (token.strip() or repr(token)) if isinstance(token, str) else f"token {token}"
