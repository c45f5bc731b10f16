"""Metrics of one prediction: a score of it, or its distance from another one.

In: a metric as users write it.  Out: a function of last-position logits that gives a number.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.analysis.metrics import METRICS, metric_of
from mlxgraph.errors import InputError, ScoreError

Function = Callable[..., Any]


class Score(NamedTuple):
    """A metric.

    Attributes: name: for a picture's axis; of_two: whether it is a distance from another logit
        vector.
    """

    name: str
    function: Function
    of_two: bool

    def __call__(self, logits: mx.array, reference: mx.array | None = None) -> mx.array:
        """The number, lazy.

        Args: logits: (vocabulary,); reference: the same, for a distance.
        Raises: ScoreError where the metric gives no number.
        """
        logits = logits.astype(mx.float32)
        if self.function is METRICS.get(self.name):
            assert reference is not None
            return self.function(logits[None], reference.astype(mx.float32)[None])[0]  # type: ignore
        given = (logits, reference.astype(mx.float32)) if self.of_two else (logits,)  # type: ignore
        found = self.function(*given)
        if isinstance(found, mx.array) and found.size == 1 and found.dtype != mx.complex64:
            return found.reshape(())
        try:
            return mx.array(float(found))
        except (TypeError, ValueError):
            raise ScoreError(self.name, found) from None


def score_of(metric: Any) -> Score:
    """A metric by name, or a user's function of one logit vector, or of two.

    Raises: UnknownNameError (a KeyError) for a name, InputError for a function of other arguments.
    """
    if isinstance(metric, Score):
        return metric
    if not callable(metric):
        return Score(str(metric), metric_of(metric), of_two=True)
    name = getattr(metric, "__name__", type(metric).__name__)
    count = _arguments(metric)
    if count not in (1, 2):
        raise InputError(
            f"a metric is a function of one logit vector, or of two, and {name} takes {count}.\n"
            "  Write lambda logits: logits[token] for a score."
        )
    return Score("metric" if name == "<lambda>" else name, metric, of_two=count == 2)


def _arguments(function: Function) -> int:
    """How many arrays a function has to be given."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # what is written in C may not say
        return 1
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in positional if p.default is p.empty]
    return len(needed) or min(1, len(positional)) or _takes_any(parameters)


def _takes_any(parameters: Any) -> int:
    return int(any(p.kind is p.VAR_POSITIONAL for p in parameters))
