"""What a sweep without a metric gives: the saves of each variant.

In: names and values.  Out: a Sweep.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

from mlxgraph.errors import InputError, UnknownNameError, VariantError
from mlxgraph.errors.tracebacks import with_edges
from mlxgraph.model.compiled_pass import Result
from mlxgraph.record.saved_values import SavedValues
from mlxgraph.sweep.variants import Axes


@with_edges
class Sweep(Sequence[Any]):
    """What each variant of a sweep saved: `r[k]["name"]`, in the order of the variants.

    Of a dict of graphs `r[label]`; where the labels are whole numbers, a number is a label.

    Attributes:
        axes: the labels along each axis: `{"variant": labels}`, or the values of each param.
        plan: what was done.
    """

    def __init__(
        self,
        names: list[list[str]],
        values: list[list[Any] | None],
        axes: Axes,
        plan: Any = None,
    ):
        self.axes, self.plan = axes, plan
        self._names, self._values = names, values

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, key: int) -> Result: ...

    @overload
    def __getitem__(self, key: slice) -> list[Result]: ...

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return [self._at(k) for k in range(len(self))[key]]
        labels = self.axes.get("variant", ())
        if isinstance(key, int) and not isinstance(key, bool) and not self._numbered:
            if not -len(self) <= key < len(self):
                raise VariantError(key, len(self))
            return self._at(key % len(self))
        if isinstance(key, bool) or key not in labels:
            raise UnknownNameError("variant", str(key), map(str, labels))
        return self._at(labels.index(key))

    @property
    def _numbered(self) -> bool:
        """Whether a whole number is a label: `{layer: graph}`."""
        labels = self.axes.get("variant", ())
        return labels != tuple(range(len(self))) and any(isinstance(one, int) for one in labels)

    def __iter__(self) -> Iterator[Result]:
        return map(self._at, range(len(self)))

    def __reversed__(self) -> Iterator[Result]:
        return map(self._at, reversed(range(len(self))))

    def _at(self, number: int) -> Result:
        values, names = self._values[number], self._names[number]
        if values is None:
            raise InputError(
                f"variant {number} was not run: the sweep was stopped before it.\n"
                "  Write r.plan.run() to go on."
            )
        if not names:
            return Result(SavedValues(), values[0])
        return Result(SavedValues(zip(names, values, strict=True)))

    def sel(self, **labels: Any) -> Any:
        """The results at some values of the params: one, or a Sweep of several.

        Raises: UnknownNameError for a param or a value that the sweep does not have.
        """
        chosen: list[list[int]] = []
        for name in labels:
            if name not in self.axes:
                raise UnknownNameError("axis", name, self.axes)
        rest = {}
        for name, known in self.axes.items():
            if name not in labels:
                rest[name] = known
                chosen.append(list(range(len(known))))
            elif labels[name] in known:
                chosen.append([known.index(labels[name])])
            else:
                raise UnknownNameError(name, str(labels[name]), map(str, known))
        sizes = [len(known) for known in self.axes.values()]
        numbers = list(_flat(chosen, sizes))
        if not rest:
            return self._at(numbers[0])
        names, values = [self._names[k] for k in numbers], [self._values[k] for k in numbers]
        return Sweep(names, values, rest)

    def __repr__(self) -> str:
        axes = " x ".join(f"{len(labels)} {name}" for name, labels in self.axes.items())
        saves = list(dict.fromkeys(name for names in self._names for name in names))
        return f"<Sweep of {axes}: {', '.join(saves[:4]) or 'output'}>"


def _flat(chosen: list[list[int]], sizes: list[int]) -> Iterator[int]:
    found = [0]
    for numbers, size in zip(chosen, sizes, strict=True):
        found = [at * size + k for at in found for k in numbers]
    return iter(found)
