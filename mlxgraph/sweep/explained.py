"""What a sweep will do, told: a page of text, from what was planned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mlxgraph.sweep.cost import Costs, Work

_WAYS = {
    "grown": "in a batch that grows where each variant first writes",
    "batched": "in a batch from the first layer on",
    "alone": "a forward each",
    "kept": "1 forward of the unedited run, of which keys and values are kept",
}


class Forward(NamedTuple):
    """One forward of a sweep.

    Attributes:
        way: `"grown"`, `"batched"` or `"alone"`, or `"kept"` of the one whose keys and values
            others begin with; variants: how many it does.
        start: the first position that is computed; positions: how many are.
        rows: how many it ends with, the unedited run's among them.
        work: layers times positions, of all rows; memory: bytes of values at its end, about.
        reason: why not a better way, or "".
    """

    way: str
    variants: int
    start: int
    positions: int
    rows: int
    work: Work
    memory: int
    reason: str = ""


class Told(NamedTuple):
    """All that the page says.

    Attributes: loop: the work of one forward each; least: what no sharing of whole layers and
        positions goes below.
    """

    variants: int
    layers: int
    length: int
    forwards: Sequence[Forward]
    loop: Work | None
    least: Work | None
    head: tuple[int, int] | None
    limit: int

    @property
    def work(self) -> Work:
        """Of all forwards together."""
        return sum((one.work for one in self.forwards), Work(0.0, 0.0))

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        counts = (self.variants, "variant"), (self.length, "position"), (self.layers, "layer")
        yield "{} on {}, {}".format(*[_n(*one) for one in counts])
        for forward, times in _alike(self.forwards):
            yield f"  {_line(forward, times, self.length)}"
            if forward.reason:
                yield f"    not shared further: {forward.reason}"
        if self.head is not None:
            yield f"  final norm and head at {self.head[0]} of {_n(self.head[1], 'position')}"
        if self.loop is None or self.least is None:
            return
        own, loop, least = self.work, self.loop, self.least
        yield (
            f"  layers x positions: {own.layers:,.0f} of {loop.layers:,.0f} in a loop"
            f" ({own.layers / max(loop.layers, 1e-9):.0%}), least possible {least.layers:,.0f}"
        )
        yield (
            f"  counted work with the head: {loop.all / max(own.all, 1e-9):.1f} times less than a"
            f" loop's, {own.all / max(least.all, 1e-9):.2f} times the least possible"
        )
        peak = max((one.memory for one in self.forwards), default=0)
        yield f"  values of the largest forward: about {_bytes(peak)} of {_bytes(self.limit)}"


def _alike(forwards: Sequence[Forward]) -> Iterator[tuple[Forward, int]]:
    """Forwards that are told in one line, and how many they are."""
    found: list[tuple[Forward, int]] = []
    for one in forwards:
        if found and found[-1][0][:5] == one[:5]:
            found[-1] = (one, found[-1][1] + 1)
        else:
            found.append((one, 1))
    yield from found


def _line(forward: Forward, times: int, length: int) -> str:
    if forward.way == "kept":
        return _WAYS["kept"]
    if forward.way == "alone":
        return f"{_n(times, 'forward')}: {_n(times, 'variant')}, {_WAYS['alone']}"
    where = "all positions" if not forward.start else f"positions {forward.start}–{length - 1}"
    many = "" if times == 1 else f", {times} times"
    return (
        f"1 forward{many}: {_n(forward.variants, 'variant')} {_WAYS[forward.way]},"
        f" up to {_n(forward.rows, 'row')}, {where}"
    )


def _n(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _bytes(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def forward_of(
    costs: Costs, way: str, count: int, start: int, kept: int | None, work: Work, reason: str
) -> Forward:
    """One forward, as it is told."""
    slabs = count + (way == "grown")
    rows, memory = slabs * costs.rows, slabs * costs.bytes_of_a_row(start, kept)
    return Forward(way, count, start, costs.length - start, rows, work, memory, reason)


def prefix_forward(costs: Costs) -> Forward:
    """The unedited run, whose keys and values others begin with."""
    work = Work(costs.layers * costs.length, 0.0)
    memory = costs.rows * costs.bytes_of_a_row(0, 0)
    return Forward("kept", 0, 0, costs.length, costs.rows, work, memory)
