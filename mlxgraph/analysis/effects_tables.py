"""Results as the tables of other libraries: pandas and xarray, which are optional.

In: a result.  Out: a data frame, a DataArray.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlxgraph.analysis.labels import Labels
from mlxgraph.errors import MissingDependencyError

_EXTRA = "mlxgraph[frames]"


def frame(e: Any) -> Any:
    """A row for each cell: a column for each axis, the coords beside their axis, and the values."""
    try:
        import pandas  # optional, and slow to import
    except ImportError as error:
        raise MissingDependencyError("pandas", "a data frame", _EXTRA) from error
    numbers = np.asarray(e)
    at = np.indices(numbers.shape).reshape(numbers.ndim, numbers.size)
    columns: dict[str, Any] = {}
    for (axis, labels), along in zip(e.axes.items(), at, strict=True):
        columns[axis] = [labels[k] for k in along]
        for name, (of, further) in e.coords.items():
            if of == axis:
                columns[name] = [further[k] for k in along]
    columns[e.name] = numbers.reshape(-1)
    return pandas.DataFrame(columns)


def data_array(e: Any) -> Any:
    """The same axes, coords, name and attrs; the unit is `units`."""
    try:
        import xarray  # optional, and slow to import
    except ImportError as error:
        raise MissingDependencyError("xarray", "a DataArray", _EXTRA) from error
    coords: dict[str, Any] = {axis: _column(labels) for axis, labels in e.axes.items()}
    coords |= {name: (axis, _column(of)) for name, (axis, of) in e.coords.items()}
    attrs = {**e.attrs, **({"units": e.unit} if e.unit else {})}
    return xarray.DataArray(np.asarray(e), coords, list(e.dims), e.name, attrs)


def _column(labels: Labels) -> Any:
    """Labels as numpy's; texts as objects: of its own texts numpy drops a NUL at the end."""
    kinds = {type(label) for label in labels}
    return np.array(labels, dtype=None if kinds <= {int, float} else object)
