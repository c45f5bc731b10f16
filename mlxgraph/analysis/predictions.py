"""What a state of the residual stream predicts: tokens, and how probable each of them is."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.analysis import effects_text
from mlxgraph.analysis.distributions import distributions, joined
from mlxgraph.analysis.effects import Effects
from mlxgraph.analysis.inputs import token_strings
from mlxgraph.analysis.traceable import Traceable
from mlxgraph.analysis.unembed import known_value, scores_in_blocks
from mlxgraph.errors import InputError, ShapeError
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import with_edges


@with_edges
class Predictions(Effects, list):  # type: ignore[misc]  # a list has no hash
    """A list of tokens, best first, which is also `Effects`: their probabilities along "rank", of a
    batch along "row" and "rank".  A rank of 1 is the best.

    As a list it is what `get_token_predictions` says, and compares, prints and becomes an array as
    such.
    """

    def __init__(self, found: list[Any], ids: Any, scores: Any, probability: Any, names: Any):
        list.__init__(self, found)
        self._ids, self._scores, self._names = ids, scores, names
        ranks = range(1, ids.shape[-1] + 1)
        axes = {"rank": ranks} if ids.ndim == 1 else {"row": range(len(ids)), "rank": ranks}
        coords: dict[str, Any] = {}
        if ids.ndim == 1:
            coords = {"token": ("rank", self._texts()), "id": ("rank", ids.tolist())}
        Effects.__init__(self, probability, axes, coords=coords, name="probability")

    def _texts(self) -> list[str]:
        return [self._names[token] for token in self._ids.reshape(-1).tolist()]

    def to_frame(self) -> Any:
        """A pandas DataFrame, a row for each token: its rank, text, id, score and probability.

        Raises: MissingDependencyError (an ImportError).
        """
        frame = self._plain().to_frame()
        frame = frame[list(self.dims) + ["probability"]]
        probability = frame.pop("probability")
        frame["token"], frame["id"] = self._texts(), self._ids.reshape(-1)
        frame["score"], frame["probability"] = self._scores.reshape(-1), probability
        return frame

    def to_xarray(self) -> Any:
        """An xarray DataArray of the probabilities.  Raises: MissingDependencyError."""
        return self._plain().to_xarray()

    def plot(self, *args: Any, **kwargs: Any) -> Any:
        """The probabilities as a picture, as `Effects.plot`."""
        return self._plain().plot(*args, **kwargs)

    def to_text(self, *args: Any, **kwargs: Any) -> str:
        """The probabilities as bars in letters, as `Effects.to_text`."""
        return self._plain().to_text(*args, **kwargs)

    def _repr_html_(self) -> str:
        return effects_text.table(self._plain())

    def _plain(self) -> Effects:
        """The probabilities alone: numpy makes of them an array of themselves, and not of ids."""
        return self.isel()

    __eq__, __ne__, __repr__ = list.__eq__, list.__ne__, list.__repr__
    __hash__ = None  # type: ignore[assignment]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.array(list(self), dtype=dtype)


def get_token_predictions(
    model: Traceable,
    hidden_state: mx.array,
    top_k: int = 10,
    return_scores: bool = False,
    apply_norm: bool = True,
) -> Predictions:
    """The tokens that a residual-stream state predicts, best first.

    Args:
        hidden_state: a state (width,), or a batch of them (batch, width).
        top_k: how many tokens.
        return_scores: give `(token_id, score)` pairs; a score is a logit.
        apply_norm: False for states that have been through the final norm already.
    Returns: a list of ids or pairs; for a batch, a list of such lists.  It is also `mg.Effects`:
        probabilities by "rank", 1 the best, or by "row" and "rank".
    Raises: ShapeError for another shape or width, InputError for a `top_k` below 1 (both
        ValueErrors) and for scores that are no numbers, UnembeddingError, LayersError.

    Example:
        >>> with model.trace("The capital of France is") as t:
        ...     h = model.layers[4].output[0, -1].save()
        >>> [model.token_to_str(token) for token in model.get_token_predictions(h, top_k=3)]
    """
    if isinstance(hidden_state, (str, int, float, type(None))):
        raise InputError(
            f"a state of the residual stream is needed, not a {type(hidden_state).__name__}.\n"
            "  Save one in a block, `h = model.layers[4].output[0, -1].save()`; model.logit_lens"
            " takes a text."
        )
    states = known_value(hidden_state)
    if states.ndim not in (1, 2):
        raise ShapeError(
            f"a state is (width,) or (batch, width), not {states.shape}", str(here()),
            "Choose a position: hidden[0, -1].",
        )  # fmt: skip
    rows = states if states.ndim == 2 else states[None]
    if not rows.shape[0]:
        raise ShapeError(
            f"states of shape {states.shape} are none", str(here()), "Give one state or more."
        )
    blocks = scores_in_blocks(model, rows, apply_norm)
    best = joined([distributions(some, top_k) for some in blocks])
    _check_numbers(best.entropy, states.ndim == 2)
    found: list[Any] = best.ids.tolist()  # type: ignore[assignment]
    if return_scores:
        pairs = zip(found, best.scores.tolist(), strict=True)  # type: ignore[arg-type]
        found = [list(zip(*pair, strict=True)) for pair in pairs]
    names = token_strings(model, best.ids.reshape(-1).tolist())  # type: ignore[arg-type]
    numbers = [np.array(part) for part in (best.ids, best.scores, best.probabilities)]
    ids, scores, chances = numbers if states.ndim == 2 else [part[0] for part in numbers]
    return Predictions(found if states.ndim == 2 else found[0], ids, scores, chances, names)


def _check_numbers(entropy: mx.array, are_several: bool) -> None:
    """Raise InputError where scores are no numbers: the first tokens would look like the best."""
    wrong = [row for row, one in enumerate(np.array(entropy).tolist()) if one != one]
    if not wrong:
        return
    shown = f"{wrong[:8]}"[1:-1] + ", ..." * (len(wrong) > 8)
    which = f"the states in rows {shown}" if are_several else "this state"
    raise InputError(
        f"the scores of {which} hold what is no number (nan or inf): no token is the best.\n"
        "  Look at the activations before them: the first layer whose output holds one."
    )
