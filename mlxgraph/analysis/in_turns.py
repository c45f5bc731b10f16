"""The one timing loop: ways of doing something, in turns, host time apart from device time.

In: functions by name, each giving lazy arrays.  Out: seconds of each way, round by round.
A busy moment of the machine hits all ways alike where they take turns (a, b, c, a, b, c, ...), so
ways are compared within a round: the spread of those differences says what can be told at all.
Never: decides what is fast enough, or leaves the garbage collector other than it was.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.inputs import arrays_in

Ways = Mapping[str, Callable[[], Any]]
WARM = 4  # the first rounds compile, and fill caches


class Spread(NamedTuple):
    """The middle of some measurements: the lower quartile, the median, the upper quartile."""

    low: float
    median: float
    high: float


class Times(NamedTuple):
    """Seconds of one way, an entry for each round.

    Attributes:
        host: until the call had returned, its arrays still lazy.
        device: from there until the arrays were computed.
    """

    host: list[float]
    device: list[float]

    @property
    def together(self) -> list[float]:
        """Both, round by round."""
        return [host + device for host, device in zip(self.host, self.device, strict=True)]


def in_turns(ways: Ways, rounds: int, warm: int = WARM) -> dict[str, Times]:
    """The times of each way.

    Args: ways: each is called without arguments; all arrays in what it gives are computed.
    """
    times = {name: Times([], []) for name in ways}
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for number in range(warm + rounds):
            for name, way in ways.items():
                host, device = once(way)
                if number >= warm:
                    times[name].host.append(host)
                    times[name].device.append(device)
            gc.collect(0)  # what the round left behind, between measurements
    finally:
        if was_on:
            gc.enable()
    return times


def once(way: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of one call: the host's and the device's."""
    start = time.perf_counter()
    found = way()
    returned = time.perf_counter()
    arrays = list(arrays_in(found))
    begun = time.perf_counter()
    mx.eval(arrays)
    return returned - start, time.perf_counter() - begun


def peak_memory(way: Callable[[], Any], calls: int = 3) -> int:
    """Bytes that MLX held at most during a call, above what it held before.

    The most of some calls: which buffers are free again in time is not the same for all.
    """
    return max(_peak(way) for _ in range(calls))


def _peak(way: Callable[[], Any]) -> int:
    gc.collect()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(list(arrays_in(way())))
    return max(0, mx.get_peak_memory() - before)


def spread(values: Iterable[float]) -> Spread:
    """The quartiles of one or more measurements."""
    return Spread(*np.quantile(list(values), (0.25, 0.5, 0.75)).tolist())


def differences(way: Sequence[float], base: Sequence[float]) -> Spread:
    """What one way takes beyond another, within each round."""
    return spread(one - other for one, other in zip(way, base, strict=True))


def ratios(way: Sequence[float], base: Sequence[float]) -> Spread:
    """One way over another, within each round."""
    return spread(one / other for one, other in zip(way, base, strict=True))
