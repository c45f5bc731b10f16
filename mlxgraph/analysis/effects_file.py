"""Results as JSON, and back, to the last bit.

In: the parts of a result, or text.  Out: text, or the parts.
Never: writes what other programs do not read: NaN and the infinities are texts here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.labels import Labels, plain
from mlxgraph.errors import InputError

_FORMAT, _VERSION = "mlxgraph effects", 1
_NAMES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_MARK = "__float__"  # of a float among attrs that JSON has no form for


def frozen(value: Any) -> Any:
    """A copy of attrs that shares nothing that can change: tuples for lists, plain numbers."""
    if isinstance(value, Mapping):
        return {str(key): frozen(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(map(frozen, value))
    return plain(value)


def written(
    values: mx.array,
    axes: Mapping[str, Labels],
    coords: Mapping[str, tuple[str, Labels]],
    name: str,
    unit: str,
    attrs: Mapping[str, Any],
) -> str:
    """A result as JSON.  Raises: InputError for attrs that JSON has no form for."""
    found = {
        "format": _FORMAT,
        "version": _VERSION,
        "name": name,
        "unit": unit,
        "axes": [{"name": axis, "labels": labels} for axis, labels in axes.items()],
        "coords": [{"name": k, "axis": axis, "labels": of} for k, (axis, of) in coords.items()],
        "attrs": _marked(attrs, "attrs"),
        "values": _named(np.array(values).tolist()),
    }
    return json.dumps(found, allow_nan=False)


def read(text: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Values, axes, and the other arguments.  Raises: InputError."""
    try:
        found = json.loads(text, parse_constant=_refused)
        if found["format"] != _FORMAT:
            raise ValueError
        version = found["version"]
        axes = {one["name"]: one["labels"] for one in found["axes"]}
        fields = {
            "coords": {one["name"]: (one["axis"], one["labels"]) for one in found["coords"]},
            "name": found["name"],
            "unit": found["unit"],
            "attrs": _unmarked(found["attrs"]),
        }
        values = np.array(_numbered(found["values"]), dtype=np.float64)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            "this is no result's JSON.\n  Give what `e.to_json()` returned or `e.save(path)` wrote."
        ) from error
    if version != _VERSION:
        raise InputError(f"this result was written in version {version} of the format, not 1.")
    return values, axes, fields


def _refused(name: str) -> None:
    raise ValueError(name)


def _name(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _named(values: Any) -> Any:
    if isinstance(values, list):
        return [_named(one) for one in values]
    return values if math.isfinite(values) else _name(values)


def _numbered(values: Any) -> Any:
    if isinstance(values, list):
        return [_numbered(one) for one in values]
    return _NAMES[values] if isinstance(values, str) else values


def _marked(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        if _MARK in value:
            raise InputError(f"{where} cannot have the key {_MARK!r}, which marks a float here.")
        return {key: _marked(part, f"{where}[{key!r}]") for key, part in value.items()}
    if isinstance(value, tuple):
        return [_marked(part, f"{where}[{k}]") for k, part in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {_MARK: _name(value)}
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise InputError(
        f"{where} is a {type(value).__name__}, which JSON has no form for.\n"
        "  Keep numbers, texts, lists and dicts in attrs; e.to_frame() leaves attrs out."
    )


def _unmarked(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {_MARK}:
            return _NAMES[value[_MARK]]
        return {key: _unmarked(part) for key, part in value.items()}
    return [_unmarked(part) for part in value] if isinstance(value, list) else value
