"""Labels of a result's axes: checked once, and found again by a person's word for them.

In: what a caller wrote.  Out: tuples of plain labels (ints, floats, texts), and where along an axis
the wanted ones stand.
Never: knows the values that lie along the axes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.errors import BoundsError, InputError, StepError, UnknownLabelError
from mlxgraph.errors.source_line import here

Label = int | float | str
Labels = tuple[Label, ...]


def checked_axes(axes: Any) -> dict[str, Labels]:
    """Axes as they are kept.  Raises: InputError."""
    if not isinstance(axes, Mapping):
        raise InputError(
            f"axes are a dict of names and labels, and this is a {_kind(axes)}.\n"
            '  Write axes={"layer": range(6), "position": range(12)}, in the order of the shape.'
        )
    found = {_axis_name(name): _labels(name, labels) for name, labels in axes.items()}
    for name, labels in found.items():
        seen: set[Label] = set()
        for label in labels:
            if label in seen:
                raise InputError(
                    f"the axis {name!r} has the label {label!r} twice: no label would say which.\n"
                    "  Number the axis, and give these labels as coords:"
                    f' coords={{"label": ({name!r}, labels)}}.'
                )
            seen.add(label)
    return found


def checked_coords(coords: Any, axes: Mapping[str, Labels]) -> dict[str, tuple[str, Labels]]:
    """Further labels along axes, as they are kept.  Raises: InputError, UnknownLabelError."""
    if not isinstance(coords, Mapping):
        raise InputError(f"coords are a dict, and this is a {_kind(coords)}.\n{_COORDS}")
    found: dict[str, tuple[str, Labels]] = {}
    for name, given in coords.items():
        if not isinstance(given, (tuple, list)) or len(given) != 2 or isinstance(given[1], str):
            raise InputError(f"the coord {name!r} does not name an axis and labels.\n{_COORDS}")
        axis, labels = given[0], _labels(name, given[1])
        if axis not in axes:
            raise UnknownLabelError("axis", axis, axes)
        if len(labels) != len(axes[axis]):
            raise InputError(
                f"the coord {name!r} has {len(labels)} labels, and the axis {axis!r} has"
                f" {len(axes[axis])}.\n  Give one label for each place along the axis."
            )
        if name in axes:
            raise InputError(f"{name!r} names an axis and a coord.\n  Give the coord another name.")
        found[_axis_name(name)] = (axis, labels)
    return found


_COORDS = '  Write coords={"token": ("position", ["The", " capital", ...])}.'


def plain(value: Any) -> Any:
    """Numbers of numpy's and MLX's as Python's own; anything else as it is.

    A float of few bits is the number that a person would write for it: 0.1, not 0.10000000149.
    """
    if isinstance(value, mx.array) and value.ndim == 0:
        value = np.array(value.astype(mx.float32) if _is_short(value) else value).reshape(())[()]
    if isinstance(value, (np.float16, np.float32)):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value


def _is_short(value: mx.array) -> bool:
    return value.dtype == mx.bfloat16


def _kind(value: Any) -> str:
    return type(value).__name__


def _axis_name(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise InputError(f"an axis is named by a text, and this is {name!r}.")
    return name


def _labels(name: Any, given: Any) -> Labels:
    if isinstance(given, int):
        raise InputError(
            f"the axis {name!r} needs labels, and {given} is a number.\n  Write range({given})."
        )
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InputError(
            f"the axis {name!r} needs a list of labels, and this is {given!r}.\n"
            f"  Write [{given!r}]."
        )
    if isinstance(given, mx.array):  # bfloat16 is unknown to numpy
        given = np.array(given.astype(mx.float32) if _is_short(given) else given)
    labels = tuple(plain(label) for label in given)
    for label in labels:
        if isinstance(label, bool) or not isinstance(label, (int, float, str)):
            raise InputError(
                f"labels are numbers and texts, and {label!r} of {name!r} is a {_kind(label)}.\n"
                f"  Write {str(label)!r}."
            )
        if isinstance(label, float) and not math.isfinite(label):
            raise InputError(f"{label} cannot be a label of {name!r}.\n  Write {str(label)!r}.")
    if not labels:
        raise InputError(f"the axis {name!r} has no labels, and so the result no cells.")
    return labels


# -- finding ---------------------------------------------------------------------------------------


def places(name: str, labels: Labels, wanted: Any, is_coord: bool, axis: str) -> int | list[int]:
    """Where wanted labels stand: one place, or a list of them for a slice or several labels.

    Args:
        name: the axis, or the coord along the axis, that the labels are of.
        wanted: a label, several, or a slice of them, both ends included.
    Raises: UnknownLabelError, InputError.
    """
    if isinstance(wanted, slice):
        if is_coord:
            raise InputError(
                f"{name!r} labels the axis {axis!r} and has no order.\n"
                f"  Slice the axis itself: .sel({axis}=slice(start, stop))."
            )
        return _between(name, labels, wanted)
    wanted = plain(wanted)
    if _is_several(wanted):
        return [_place(name, labels, one, is_coord, axis) for one in _some(name, wanted)]
    return _place(name, labels, wanted, is_coord, axis)


def _is_several(wanted: Any) -> bool:
    return isinstance(wanted, Iterable) and not isinstance(wanted, (str, Mapping))


def _some(name: str, wanted: Any) -> list[Any]:
    several = list(wanted)
    if not several:
        raise InputError(f"no {name} was asked for.\n  Leave {name}= out for all of them.")
    return several


def _place(name: str, labels: Labels, wanted: Any, is_coord: bool, axis: str) -> int:
    wanted = plain(wanted)
    if isinstance(wanted, bool) or not isinstance(wanted, Hashable):
        raise UnknownLabelError(name, wanted, labels)
    found = [place for place, label in enumerate(labels) if label == wanted]
    if not found:
        last = isinstance(wanted, int) and wanted < 0 and not is_coord
        advice = f"Labels do not count from the end: write .isel({name}={wanted})." if last else ""
        raise UnknownLabelError(name, wanted, labels, advice)
    if len(found) > 1:
        raise InputError(
            f"the {name} {wanted!r} is there {len(found)} times: along {axis!r} it stands at"
            f" {', '.join(map(str, found))}, counted from 0.\n"
            f"  Say which, .isel({axis}={found[0]}), or take all: .isel({axis}={found})."
        )
    return found[0]


def _between(name: str, labels: Labels, wanted: slice) -> list[int]:
    step = 1 if wanted.step is None else plain(wanted.step)
    if not isinstance(step, int) or step < 1:
        raise InputError(
            f"a slice of labels has a step of 1 or more, and this one {wanted.step!r}.\n"
            f"  Write .isel({name}=slice(None, None, -1)) for the reverse."
        )
    first, last = plain(wanted.start), plain(wanted.stop)
    if _is_rising(labels, first, last):
        found = [
            place
            for place, label in enumerate(labels)
            if (first is None or label >= first) and (last is None or label <= last)
        ]
    else:
        start = 0 if first is None else _place(name, labels, first, False, name)
        stop = len(labels) - 1 if last is None else _place(name, labels, last, False, name)
        found = list(range(start, stop + 1))
    if not found:
        raise UnknownLabelError(f"{name} from {first!r} to", last, labels, _INCLUSIVE)
    return found[::step]


_INCLUSIVE = "Slices of labels include both ends; .isel counts places."


def _is_rising(labels: Sequence[Any], *ends: Any) -> bool:
    """Whether all labels are numbers in rising order: then the ends need not be among them."""
    numbers = all(
        isinstance(label, (int, float)) for label in (*labels, *ends) if label is not None
    )
    return numbers and all(a < b for a, b in zip(labels, labels[1:], strict=False))


def numbered_places(axis: str, size: int, wanted: Any) -> int | list[int]:
    """Places by number, negative ones from the end.  Raises: BoundsError, InputError, StepError."""
    if isinstance(wanted, slice):
        if wanted.step == 0:
            raise StepError(f"the axis {axis!r}", str(here()))
        found = list(range(size))[wanted]
        if not found:
            raise InputError(
                f"the slice {wanted.start}:{wanted.stop} of {axis!r} is empty: places go from 0 to"
                f" {size - 1}."
            )
        return found
    wanted = plain(wanted)
    if _is_several(wanted):
        return [_number(axis, size, one) for one in _some(axis, wanted)]
    return _number(axis, size, wanted)


def _number(axis: str, size: int, wanted: Any) -> int:
    wanted = plain(wanted)
    if isinstance(wanted, bool) or not isinstance(wanted, int):
        raise InputError(
            f".isel takes whole numbers, and {axis}={wanted!r} is none.\n"
            f"  Labels are for .sel({axis}={wanted!r})."
        )
    if not -size <= wanted < size:
        raise BoundsError(wanted, 0, size, (size,), str(here()))
    return wanted % size
