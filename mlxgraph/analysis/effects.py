"""Effects: the numbers of an analysis with names for their axes, and where people want them.

In: an array, the labels along its axes, and what else is known of them.
Out: parts of it by label, tables, data frames, files.
Never: runs a model, or changes once it is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlxgraph.analysis import effects_file, effects_plot, effects_tables, effects_text, effects_top
from mlxgraph.analysis.effects_map import to_text
from mlxgraph.analysis.effects_values import Fixed, FixedOfDict, numbers_of
from mlxgraph.analysis.labels import (
    Label,
    Labels,
    checked_axes,
    checked_coords,
    numbered_places,
    places,
)
from mlxgraph.errors import (
    InputError,
    ShapeError,
    SingleCellError,
    UnknownLabelError,
)
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import at_the_edge, of_files, with_edges
from mlxgraph.store.files import put_in_place


@with_edges
class Effects:
    """The numbers of an analysis along named, labelled axes.  An immutable value.

    Args:
        values: numbers of the shape that the axes have, kept in float32; NaN where a cell is not
            known.
        axes: the labels along each axis, in order, `{"layer": range(6), "position": range(12)}`:
            numbers or texts, each once.  No axes for a single number.
        coords: further labels along an axis, `{"token": ("position", ["The", " capital", ...])}`.
        name: what the numbers are; the column of a data frame.
        unit: of the numbers, such as `"%"`; empty for none.
        attrs: what else is worth keeping with them.
    Raises: ShapeError where values and axes do not fit, InputError for what is no label,
        UnknownLabelError for coords along no axis.

    Two are equal (`==`) if their values (NaN and NaN too), axes, coords, names and units are.

    Example:
        >>> e = mg.Effects([[0.0, 1.0], [2.0, 4.5]], {"layer": [3, 4], "position": range(2)})
        >>> e
        Effects effect: layer 2 × position 2, largest 4.5 at layer=4, position=1
        >>> e.sel(layer=4).values.tolist()
        [2.0, 4.5]
    """

    @at_the_edge
    def __init__(
        self,
        values: Any,
        axes: Mapping[str, Sequence[Label]],
        *,
        coords: Mapping[str, tuple[str, Sequence[Label]]] = {},  # noqa: B006 - never changed
        name: str = "effect",
        unit: str = "",
        attrs: Mapping[str, Any] = {},  # noqa: B006
    ):
        self._axes = checked_axes(axes)
        self._coords = checked_coords(coords, self._axes)
        self._array = numbers_of(values)
        self._name, self._unit = str(name), str(unit)
        self._attrs: dict[str, Any] = effects_file.frozen(attrs)
        if self._name in self._axes or self._name in self._coords or not self._name:
            raise InputError(
                f"{self._name!r} cannot name the values: it names an axis, a coord, or nothing."
            )
        shape = tuple(map(len, self._axes.values()))
        if tuple(self._array.shape) != shape:
            wanted = ", ".join(
                f"{axis} {size}" for axis, size in zip(self._axes, shape, strict=True)
            )
            raise ShapeError(
                f"values of shape {tuple(self._array.shape)} do not fit axes of shape {shape}"
                f" ({wanted or 'none'})",
                str(here()),
                "Name the axes in the order of the array's, with a label for each place.",
            )

    # -- what it holds -----------------------------------------------------------------------------

    @property
    def values(self) -> Any:
        """The numbers, an mx.array in float32, which takes no assignment.

        Of a result that is a dict too, `values()` is the dict's own.
        """
        if not isinstance(self, dict):
            return Fixed(self._array)
        found = FixedOfDict(self._array)
        found.owner = self
        return found

    @property
    def axes(self) -> dict[str, Labels]:
        """The labels along each axis, by its name, in order."""
        return dict(self._axes)

    @property
    def coords(self) -> dict[str, tuple[str, Labels]]:
        """Further labels: `{name: (axis, labels)}`."""
        return dict(self._coords)

    @property
    def name(self) -> str:
        """What the numbers are."""
        return self._name

    @property
    def unit(self) -> str:
        """The unit of the numbers, or an empty text."""
        return self._unit

    @property
    def attrs(self) -> dict[str, Any]:
        """What else is known.  `attrs["at"]` has the labels that `sel` and `isel` fixed."""
        return effects_file.frozen(self._attrs)

    @property
    def dims(self) -> tuple[str, ...]:
        """The names of the axes, in order."""
        return tuple(self._axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """How many labels each axis has."""
        return tuple(self._array.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if copy is False:
            raise InputError("a result gives numpy a copy of its values: leave copy=False out.")
        found = np.array(self._array)
        return found if dtype is None else found.astype(dtype)

    # -- parts of it -------------------------------------------------------------------------------

    def sel(self, **labels: Any) -> Effects:
        """A part of it by labels: `e.sel(layer=3)`, `e.sel(position=[0, 4])`, `e.sel(token=" is")`.

        Args: labels: of axes or coords.  One label drops its axis (it stays in `attrs["at"]`), a
            list keeps the axis in the list's order, `slice(2, 5)` has both ends.
        Raises: UnknownLabelError (a KeyError), InputError for a coord's label that is there twice.
        """
        found: dict[str, int | list[int]] = {}
        for name, wanted in labels.items():
            self._check_name(name, (*self._axes, *self._coords))
            is_coord = name in self._coords
            axis, given = self._coords[name] if is_coord else (name, self._axes[name])
            if axis in found:
                raise InputError(f"labels along the axis {axis!r} were given twice.\n  Give one.")
            found[axis] = places(name, given, wanted, is_coord, axis)
        return self._part(found)

    def isel(self, **places: Any) -> Effects:
        """A part of it by number, from 0, from the end if negative: `e.isel(position=-1)`.

        Args: places: along axes; a number, a list of them, or a slice as Python's.
        Raises: UnknownLabelError for an axis, BoundsError (an IndexError), InputError.
        """
        for axis in places:
            self._check_name(axis, self._axes)
        sizes = {axis: len(labels) for axis, labels in self._axes.items()}
        return self._part({a: numbered_places(a, sizes[a], wanted) for a, wanted in places.items()})

    def item(self, **labels: Any) -> float:
        """One number, by the labels of its cell: `e.item(layer=3, position=4)`.

        Raises: SingleCellError (a ValueError) where several are left, UnknownLabelError.
        """
        return float(self.sel(**labels) if labels else self)

    def __float__(self) -> float:
        if self._array.size != 1:
            example = ", ".join(f"{axis}={of[0]!r}" for axis, of in self._axes.items())
            shape = " × ".join(f"{axis} {len(of)}" for axis, of in self._axes.items())
            raise SingleCellError(shape, f"e.item({example})")
        return float(np.array(self._array).reshape(())[()])

    def mean(self, axis: str | Sequence[str] | None = None) -> Any:
        """The mean along an axis, or along several; of all cells, a float, if left out.

        NaN wherever a cell of it is NaN.  Raises: UnknownLabelError.
        """
        several = isinstance(axis, (list, tuple, set, dict))
        gone = self._axes if axis is None else list(axis) if several else [axis]  # type: ignore
        for name in gone:
            self._check_name(name, self._axes)
        numbers = tuple(self.dims.index(name) for name in gone)
        found = np.array(self._array).astype(np.float64).mean(axis=numbers)
        if axis is None:
            return float(found)
        axes = {name: labels for name, labels in self._axes.items() if name not in gone}
        return self._like(found, axes, self._attrs)

    def max(self) -> float:
        """The largest of the numbers that are not NaN.  Raises: InputError where all are."""
        return self.item(**self.argmax())

    def min(self) -> float:
        """The smallest of the numbers that are not NaN.  Raises: InputError where all are."""
        return self.item(**self.argmin())

    def argmax(self) -> dict[str, Label]:
        """The labels of the largest number, `{"layer": 3, "position": 4}`; the first of equals.

        NaN is left out.  Raises: InputError where all are NaN.
        """
        return self._where(np.nanargmax)

    def argmin(self) -> dict[str, Label]:
        """The labels of the smallest number, as `argmax`."""
        return self._where(np.nanargmin)

    def top(self, k: int = 10) -> Effects:
        """The k cells whose numbers are farthest from 0, that first, along one axis "cell".

        Printed, it is a list.  NaN is left out.  Raises: InputError.
        """
        numbers, axes, coords = effects_top.top_cells(self, k)
        return self._like(numbers, axes, self._attrs, coords)

    def _where(self, argument: Any) -> dict[str, Label]:
        numbers = np.array(self._array)
        if np.isnan(numbers).all():
            raise InputError("all cells are NaN: none of them is the largest or the smallest.")
        at = np.unravel_index(int(argument(numbers)), numbers.shape)
        return {axis: of[k] for (axis, of), k in zip(self._axes.items(), at, strict=True)}

    def _check_name(self, name: object, known: Any) -> None:
        if name not in known:
            raise UnknownLabelError("axis", name, known)

    def _part(self, found: Mapping[str, int | list[int]]) -> Effects:
        numbers = np.array(self._array)
        axes, fixed = {}, {}
        dropped = []
        for k, (axis, labels) in enumerate(self._axes.items()):
            place = found.get(axis, slice(None))
            if isinstance(place, int):
                dropped.append(k)
                fixed[axis] = labels[place]
                fixed |= {c: of[place] for c, (along, of) in self._coords.items() if along == axis}
                place = [place]
            else:
                axes[axis] = _taken(labels, place)
            numbers = numbers[(slice(None),) * k + (place,)]
        attrs = self._attrs
        if fixed:
            attrs = {**attrs, "at": {**attrs.get("at", {}), **fixed}}
        coords = {
            name: (axis, _taken(labels, found.get(axis, slice(None))))
            for name, (axis, labels) in self._coords.items()
            if axis in axes
        }
        return self._like(numbers.squeeze(tuple(dropped)), axes, attrs, coords)

    def _like(
        self, numbers: Any, axes: Mapping[str, Labels], attrs: Mapping[str, Any], coords: Any = None
    ) -> Effects:
        if coords is None:
            coords = {name: of for name, of in self._coords.items() if of[0] in axes}
        fields: dict[str, Any] = {"name": self._name, "unit": self._unit, "attrs": attrs}
        return Effects(numbers, axes, coords=coords, **fields)

    # -- where people want it ----------------------------------------------------------------------

    def to_frame(self) -> Any:
        """A pandas DataFrame, a row for each cell: a column for each axis, each coord, the values.

        Raises: MissingDependencyError (an ImportError).
        """
        return effects_tables.frame(self)

    def to_xarray(self) -> Any:
        """An xarray DataArray with the same axes, coords, name and attrs; the unit is `units`.

        Raises: MissingDependencyError (an ImportError).
        """
        return effects_tables.data_array(self)

    def to_json(self) -> str:
        """All of it as JSON, of which `from_json` makes an equal one, to the last bit.

        NaN is written as the text "NaN".  Raises: InputError for attrs that JSON has no form for.
        """
        fields = (self._array, self._axes, self._coords, self._name, self._unit, self._attrs)
        return effects_file.written(*fields)

    @classmethod
    @at_the_edge
    def from_json(cls, text: str) -> Effects:
        """The result that `to_json` wrote.  Raises: InputError for anything else."""
        values, axes, fields = effects_file.read(text)
        return Effects(values, axes, **fields)

    @of_files
    def save(self, path: str | Path) -> None:
        """Write it to a file as JSON, in one step: whoever reads meanwhile finds the old file or
        the new one.  Raises: InputError for a name of another format's."""
        if Path(path).suffix != ".json":
            raise InputError(
                f"a result is saved as JSON, and {str(path)!r} does not end in .json.\n"
                "  Write e.save('effects.json'); other formats by way of e.to_frame(), such as"
                " e.to_frame().to_csv(path)."
            )
        put_in_place(Path(path), f"{self.to_json()}\n".encode())

    @classmethod
    @of_files
    def load(cls, path: str | Path) -> Effects:
        """The result that `save` wrote.  Raises: InputError for another file, OSError."""
        return Effects.from_json(Path(path).read_text(encoding="utf-8"))

    def plot(
        self,
        figsize: tuple[float, float] | None = None,
        cmap: str | None = None,
        *,
        kind: str | None = None,
        rows: str | None = None,
        columns: str | None = None,
        centre: float | None = 0.0,
        limit: float | None = None,
        title: str | None = None,
    ) -> Any:
        """A picture: a heat map of two axes, small multiples of three, bars or a line of one.

        Args:
            figsize: inches; left out, it follows the number of cells.
            cmap: a colormap of matplotlib's; `"RdBu_r"`, or `"viridis"` without a centre.
            kind: `"heatmap"`, `"bars"` or `"lines"`, where another than the usual one is wanted:
                `"lines"` of strength and layer are steering curves.
            rows, columns: the axes that go up and across; of lines, the one whose labels are lines
                and the one they go along.  Layers go up if left out.
            centre, limit: the number in the middle of a heat map's scale, and how far the scale
                reaches on either side; `centre=None` for one from the smallest to the largest.
            title: `attrs["title"]` if left out, or what `sel` fixed.
        Returns: a matplotlib Figure.
        Raises: InputError for what the picture cannot show, UnknownLabelError for an axis,
            UnknownNameError (a KeyError) for a kind or a colormap,
            MissingDependencyError.
        """
        given = (kind, rows, columns, centre, limit, title)
        return effects_plot.picture(self, *given, figsize=figsize, cmap=cmap)

    to_text = to_text

    # -- as a value --------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Effects):
            return dict.__eq__(self, other) if isinstance(self, dict) else NotImplemented
        said = (self.dims, self.axes, self.coords, self.name, self.unit)
        if said != (other.dims, other.axes, other.coords, other.name, other.unit):
            return False
        return np.array_equal(np.asarray(self), np.asarray(other), equal_nan=True)

    def __ne__(self, other: object) -> bool:  # a dict has its own
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    def __hash__(self) -> int:
        if isinstance(self, dict):
            raise TypeError(f"unhashable type: {type(self).__name__!r}")
        return hash((tuple(self._axes.items()), self._name, self._unit))

    def __repr__(self) -> str:
        return effects_text.line(self)

    def _repr_html_(self) -> str:
        return effects_text.table(self)


def _taken(labels: Labels, place: Any) -> Labels:
    return labels if isinstance(place, slice) else tuple(labels[k] for k in place)
