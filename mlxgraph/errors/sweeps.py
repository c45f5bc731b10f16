"""What can go wrong with a sweep."""

from __future__ import annotations

from typing import Any

from mlxgraph.errors.base import MLXGraphError


class ScoreError(MLXGraphError, TypeError):
    """A metric that gives no number."""

    def __init__(self, name: str, found: Any):
        shape = getattr(found, "shape", None)
        what = f"an array of shape {tuple(shape)}" if shape is not None else repr(found)
        super().__init__(
            f"{name} gave {what:.80}: a metric gives one number for a logit vector.\n"
            "  Write lambda logits: logits[a] - logits[b], with the ids of two tokens."
        )


class SweepStopped(KeyboardInterrupt):
    """A sweep was interrupted.

    Attributes:
        result: what is done; of the rest, Effects hold nan and a Sweep raises.
        plan: the plan, whose `run()` goes on from here; None where there is no plan.
    """

    def __init__(self, done: int, of: int, result: Any, plan: Any, what: str = "variants"):
        goes_on = "" if plan is None else "; `.plan.run()` goes on"
        super().__init__(
            f"stopped after {done} of {of} {what}.\n"
            "  What is done is in `.result` of this exception (`sys.last_value.result` in a"
            f" notebook){goes_on}."
        )
        self.result = result
        self.plan = plan


class VariantError(MLXGraphError, IndexError):
    """A number beyond the variants of a sweep."""

    def __init__(self, number: int, count: int):
        super().__init__(
            f"there is no variant {number}: the sweep has {count}.\n"
            f"  Write a number from 0 to {count - 1}, or from -1 to {-count}."
        )


class PlanError(MLXGraphError, RuntimeError):
    """A sweep's plan for a model that has changed since, or where nothing can be computed."""

    def __init__(self, reason: str, instead: str):
        super().__init__(f"{reason}.\n  {instead}")
