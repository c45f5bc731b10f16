"""Models that branch on values: a forward may go another way than the census saw.

What a graph reads and writes was checked against the census.  Where the forward does not come to
it, or has something else there, nobody may go on with what is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from typing import Any

import mlx.core as mx

from mlxgraph.errors import NeverCalledError, ShapeError
from mlxgraph.graph.inside import parted
from mlxgraph.graph.nested import entries, is_container
from mlxgraph.graph.site import SKIP, Site
from mlxgraph.graph.values import dtype_name
from mlxgraph.run.plan import Expected, Plan


def check_reached(expected: Mapping[Site, Expected], reached: Set[Site]) -> None:
    """Raise NeverCalledError for a site that is read or written and that the forward missed."""
    for site, (_, line) in expected.items():
        if site not in reached:
            reason = (
                "the model looks at values while it runs, and the edited forward took another way"
                " than the plain one, past it."
            )
            raise NeverCalledError(site.spoken, line, (), reason=reason)


def check_inside(plan: Plan, seen: Counter[str]) -> None:
    """Raise NeverCalledError for a site inside a module that the forward missed: a function whose
    calls cannot be seen was in between, in the census or in this forward."""
    for site in plan.stops:
        if site.path in plan.inside and seen[site.path] <= site.call:
            reason = _skipped(plan, site) or (
                "what its module calls is not the same in every forward: a part of it is compiled"
                " where that cannot be seen.  Read and edit modules there."
            )
            raise NeverCalledError(site.spoken, plan.lines.get(site, "an edit"), (), reason=reason)


def _skipped(plan: Plan, site: Site) -> str:
    """Why a value of an attention is not there whose operations are skipped."""
    module = (parted(site.path) or ("", ""))[0]
    for write in plan.writes:
        if write.port == SKIP and (parted(write.path) or (None, ""))[0] == module:
            return f"{write.path}, which computes it, is skipped in this block."
    return ""


def check_value(site: Site, value: Any, expected: Expected) -> None:
    """Raise ShapeError where a site holds something else than the census saw there."""
    before, now = _kind(expected.value), _kind(value)
    if before != now:
        raise ShapeError(
            f"{site.spoken} is {now} in this run and was {before} when it was recorded: the model"
            " looks at values while it runs",
            expected.line,
            "Edit it where its shape does not depend on values.",
        )


def _kind(value: Any) -> Any:
    """The shapes and dtypes in a nested value; of what is no array, that it is none."""
    if isinstance(value, mx.array):
        return f"{tuple(value.shape)} {dtype_name(value.dtype)}"
    if is_container(value):
        inside = ", ".join(f"{k}: {_kind(v)}" for k, v in entries(value))
        return f"{type(value).__name__} of {inside}"
    return "no array"
