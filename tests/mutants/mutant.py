"""A mutant as data, and the whole table of them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = "mlxgraph"


class Mutant(NamedTuple):
    """One way to break the code.

    Attributes:
        name: tells it apart, and says what is wrong with it.
        file: below the package.
        old, new: a snippet that stands in the file once, and what it becomes.
        law: what no longer holds.
        tests: files or ids, as pytest takes them, below `tests/`; one of them has to fail.
        laws: numbers of laws (see `laws.py`) that it breaks.
    """

    name: str
    file: str
    old: str
    new: str
    law: str
    tests: tuple[str, ...]
    laws: tuple[int, ...] = ()

    @property
    def room(self) -> str:
        """The folder it is in."""
        return self.file.partition("/")[0]

    def applied(self, source: str) -> str:
        """The file's text with the mutation in it.

        Raises: StaleMutant where the snippet does not stand there exactly once.
        """
        count = source.count(self.old)
        if count != 1:
            raise StaleMutant(
                f"{self.name}: the snippet stands {count} times in {self.file}, not once.\n"
                f"    {self.old.strip()}\n  Aim it at what the code says now."
            )
        return source.replace(self.old, self.new)


class StaleMutant(ValueError):
    """A mutant whose snippet the code no longer has."""
