"""What belongs to one process: a trace, and whatever runs its recipe again when looked at.

It can be copied, and the copy runs the same recipe.  It cannot be pickled: the recipe is of arrays,
weights and functions as they are in this process.
"""

from __future__ import annotations

import copy
from typing import Any

from mlxgraph.errors import PicklingError
from mlxgraph.errors.source_line import here
from mlxgraph.record.saved_values import SavedValues


def refuse_pickle(value: Any, protocol: Any) -> Any:
    """Raise PicklingError, which says what can be pickled in its place."""
    raise PicklingError(
        f"a {type(value).__name__}",
        "it computes what is looked at in this process",
        "Pickle t.saved_values, t.graph or the model.",
        str(here()),
    )


def shallow(value: Any) -> Any:
    """For `copy.copy`."""
    twin = object.__new__(type(value))
    vars(twin).update(vars(value))
    return twin


def deep(value: Any, memo: dict[int, Any]) -> Any:
    """For `copy.deepcopy`: saved values of its own, and the same recipe."""
    twin = shallow(value)
    if "saved_values" in vars(value):
        twin.saved_values = SavedValues(copy.deepcopy(value.saved_values, memo))
    return twin
