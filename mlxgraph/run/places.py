"""Places: where a value is held that no dict and no list holds, as an owner with keys.

In: a cell of a closure, or an object with `__slots__`.  Out: what reads it by key, as a dict is.
Never: writes there.
"""

from __future__ import annotations

from functools import lru_cache
from types import CellType, MemberDescriptorType
from typing import Any


class CellOf:
    """A variable that a function captured, as a place: an owner with one key."""

    __slots__ = ("cell",)

    def __init__(self, cell: CellType):
        self.cell = cell

    def __getitem__(self, key: int) -> Any:
        return self.cell.cell_contents


class SlotsOf:
    """The slots of an object that are filled; the keys are their descriptors, so that none is
    taken for an entry of the same object."""

    __slots__ = ("of",)

    def __init__(self, of: Any):
        self.of = of

    def __getitem__(self, slot: Any) -> Any:
        return slot.__get__(self.of)

    def __len__(self) -> int:
        return len(self.items())

    def items(self) -> list[tuple[Any, Any]]:
        found = []
        for slot in slots(type(self.of)):  # type: ignore[arg-type]
            try:
                found.append((slot, slot.__get__(self.of)))
            except AttributeError:
                continue
        return found


def place(owner: Any) -> int:
    """What an owner is known by: two of these may stand for one."""
    if type(owner) is CellOf:
        return id(owner.cell)
    return id(owner.of if type(owner) is SlotsOf else owner)


@lru_cache(maxsize=4096)
def slots(kind: type) -> tuple[Any, ...]:
    """The descriptors of the slots of a class."""
    bases = [base for base in kind.__mro__ if "__slots__" in vars(base)]
    members = [member for base in bases for member in vars(base).values()]
    return tuple(member for member in members if type(member) is MemberDescriptorType)
