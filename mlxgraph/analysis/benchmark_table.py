"""A benchmark's table: a value that prints, shows itself in a notebook, and goes to JSON and back.

In: the times of each way.  Out: medians with quartiles, what each way costs beyond the bare model,
and a line wherever the machine was too noisy to tell.
"""

from __future__ import annotations

import html
import json
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from mlxgraph.analysis.in_turns import Spread, Times, differences, ratios, spread
from mlxgraph.errors import InputError, MissingDependencyError, UnknownNameError
from mlxgraph.errors.tracebacks import with_edges

FEW = 5  # rounds whose quartiles say nothing
_SPREADS = ("host", "device", "together", "overhead", "ratio")
_MIB = 1 << 20


class First(NamedTuple):
    """One way's first call: seconds until computed, and compilations until it was warm."""

    seconds: float
    compilations: int


@dataclass(frozen=True)
class Row:
    """One way of running.  Times are in seconds; None for a way that cannot be run.

    Attributes:
        way: its name.
        first: the first call, computed.
        host: a warm call, until it returns lazily.
        device: from there until its arrays are computed.
        together: both.
        overhead: the host's time beyond that of the base, within each round; None for the base.
        ratio: together, over that of the base, within each round; None for the base.
        peak: bytes held at most during one warm call, above what was held before.
        compilations: how often `mx.compile` traced it until it was warm.
        note: why it cannot be run.
    """

    way: str
    first: float | None = None
    host: Spread | None = None
    device: Spread | None = None
    together: Spread | None = None
    overhead: Spread | None = None
    ratio: Spread | None = None
    peak: int | None = None
    compilations: int | None = None
    note: str = ""


def measured(way: str, first: First, times: Times, base: Times | None, peak: int) -> Row:
    """One way's row.  Args: base: the times it is compared with; None for the base's own row."""
    return Row(
        way,
        first.seconds,
        spread(times.host),
        spread(times.device),
        spread(times.together),
        None if base is None else differences(times.host, base.host),
        None if base is None else ratios(times.together, base.together),
        peak,
        first.compilations,
    )


@with_edges
@dataclass(frozen=True, repr=False)
class Benchmark:
    """What a graph costs on a model.  Made by `mg.benchmark`.

    Attributes:
        rows: one for each way.
        base: the way that the others are compared with.
        rounds: how often each was called, in turns.
        anew: compilations within these rounds, in which nothing should have been compiled.
        left_out: what a run of the graph does not compute.
        about: the model, the graph, the inputs and the machine, in words.
    """

    rows: tuple[Row, ...]
    base: str
    rounds: int
    anew: int
    left_out: tuple[str, ...]
    about: dict[str, str]

    def __getitem__(self, way: str) -> Row:
        """A row by its way.  Raises: UnknownNameError (a KeyError)."""
        for row in self.rows:
            if row.way == way:
                return row
        raise UnknownNameError("row", str(way), [row.way for row in self.rows])

    @property
    def notes(self) -> tuple[str, ...]:
        """What has to be known to read the table: what failed, and what the noise hides."""
        found = [f"{row.way} cannot be run: {row.note}" for row in self.rows if row.note]
        if self.anew:
            found.append(
                f"{self.anew} compilations fell within the rounds: their times are in them"
            )
        if self.rounds < FEW:
            found.append(f"{self.rounds} rounds are too few to tell how noisy the machine is")
            return tuple(found)
        for row in self.rows:
            if row.overhead is not None and row.overhead.low <= 0 <= row.overhead.high:
                found.append(_untold("host time", row, self.base, row.overhead, _us, " µs"))
            if row.ratio is not None and row.ratio.low <= 1 <= row.ratio.high:
                found.append(_untold("whole time", row, self.base, row.ratio, _ratio, ""))
        return tuple(found)

    def to_frame(self) -> Any:
        """A pandas DataFrame, a row for each way; seconds and bytes.

        Raises: MissingDependencyError (an ImportError).
        """
        try:
            import pandas  # optional, and slow to import
        except ImportError as error:
            raise MissingDependencyError("pandas", "a data frame") from error
        return pandas.DataFrame([_flat(row) for row in self.rows]).set_index("way")

    def to_json(self) -> str:
        """All of it as JSON; times in seconds, a spread as its quartiles `[low, median, high]`."""
        return json.dumps({**asdict(self), "notes": self.notes}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Benchmark:
        """The table that `to_json` wrote.  Raises: InputError for anything else."""
        try:
            found = json.loads(text)
            rows = tuple(_row(one) for one in found["rows"])
            return cls(
                rows,
                found["base"],
                found["rounds"],
                found["anew"],
                tuple(found["left_out"]),
                dict(found["about"]),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                "this is no benchmark's JSON.\n  Give the text that `table.to_json()` returned."
            ) from error

    def __str__(self) -> str:
        lines = self._cells()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        laid_out = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        return "\n".join([*self._title(), "", *laid_out, "", *self._remarks()]).rstrip()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *body = ([html.escape(cell) for cell in line] for line in self._cells())
        names = "".join(f"<th>{name}</th>" for name in head)
        rows = "".join(
            f"<tr><th>{first}</th>{''.join(f'<td>{cell}</td>' for cell in rest)}</tr>"
            for first, *rest in body
        )
        above, below = (
            "<br>".join(map(html.escape, lines)) for lines in (self._title(), self._remarks())
        )
        return (
            f"<p>{above}</p><table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table>"
            f"<p>{below}</p>"
        )

    def _title(self) -> list[str]:
        about = self.about
        return [
            f"{about['graph']} on {about['model']}, inputs {about['inputs']}: {about['device']},"
            f" mlx {about['mlx']}, Python {about['python']}.",
            f"Medians and quartiles of {self.rounds} rounds in turns; host: until the call returns,"
            " device: until it is computed.",
        ]

    def _cells(self) -> list[list[str]]:
        """A line for each thing measured, and in it a cell for each way."""
        return [
            ["", *(row.way for row in self.rows)],
            ["first call, ms", *(_or_dash(row.first, _ms) for row in self.rows)],
            ["host, ms", *(_quartiles(row.host, _ms) for row in self.rows)],
            ["device, ms", *(_quartiles(row.device, _ms) for row in self.rows)],
            ["together, ms", *(_quartiles(row.together, _ms) for row in self.rows)],
            [f"{self.base}:", *("" for _ in self.rows)],
            ["  host beyond it, µs", *(_quartiles(row.overhead, _us) for row in self.rows)],
            ["  together over it", *(_quartiles(row.ratio, _ratio) for row in self.rows)],
            ["peak memory, MiB", *(_or_dash(row.peak, _mib) for row in self.rows)],
            ["compilations", *(_or_dash(row.compilations, str) for row in self.rows)],
        ]

    def _remarks(self) -> list[str]:
        plan = self.left_out or ("nothing is left out",)
        notes = (f"{note[0].upper()}{note[1:]}." for note in self.notes)
        return [*(f"The plan: {line}." for line in plan), *notes]


def _untold(what: str, row: Row, base: str, found: Spread, shown: Any, unit: str) -> str:
    return (
        f"too noisy to tell the {what} of {row.way} from that of {base}: the middle half of the"
        f" rounds goes from {shown(found.low)} to {shown(found.high)}{unit}"
    )


def _row(found: dict[str, Any]) -> Row:
    spreads = {name: found[name] and Spread(*found[name]) for name in _SPREADS}
    return Row(**{**found, **spreads})


def _flat(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in vars(row).items():
        if name in _SPREADS:
            low, median, high = value or (None, None, None)
            found |= {name: median, f"{name}.low": low, f"{name}.high": high}
        else:
            found[name] = value
    return found


def _or_dash(value: Any, shown: Any) -> str:
    return "-" if value is None else shown(value)


def _quartiles(found: Spread | None, shown: Any) -> str:
    if found is None:
        return "-"
    return f"{shown(found.median)} ({shown(found.low)} to {shown(found.high)})"


def _ms(seconds: float) -> str:
    """Milliseconds with three digits that say something."""
    value = 1e3 * seconds
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:.0f}"


def _ratio(value: float) -> str:
    return f"{value:.3f}"


def _mib(size: int) -> str:
    return f"{size / _MIB:.2f}"
