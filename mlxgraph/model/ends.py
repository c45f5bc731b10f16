"""The linear modules that a site's value ends in: an attention's output projection, an MLP's down
projection, the experts' and the shared expert's.

A linear map of a site's value along the width can be taken over by their weights exactly where it
makes no difference whether it is done to the site's value or to what these modules give.  So this
is what is tried, in forwards on a few tokens in which every site keeps its value whatever is done
before it: with a map that mixes the width and is too large for a cap to pass unseen.

In: a model without edits, inputs, sites.  Out: for each site the modules, or why there are none.
Never: goes by names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.analysis.inputs import first_array
from mlxgraph.errors import NeverCalledError
from mlxgraph.mlx_facts.matrices import is_stored

Map = Callable[[Any], Any]
Change = tuple[tuple[str, ...], Map]  # modules, and what is done to what they give
NEAR = {mx.float32: 1e-3, mx.float64: 1e-3}  # of the size of a value: what rounding may do to it
NEAR_IN_HALF = 5e-2
LITTLE = 1e-6  # of the size of a value: a part of it that is none


class Ends(NamedTuple):
    """Modules whose outputs make a site's value, up to a number for each position.

    Attributes:
        paths: of the modules, or none.
        adds: whether a constant added to the one of them is added to the site's value.
    """

    paths: tuple[str, ...]
    adds: bool = False


def ends_of(plain: Any, inputs: tuple, sites: Iterable[str]) -> dict[str, Ends]:
    """The ends of each site.  Raises: NeverCalledError for a site that the forward never calls."""
    sites = list(dict.fromkeys(sites))
    with plain.trace(*inputs, compile=False) as trace:
        values = {site: first_array(plain[site].output) for site in sites}
        whole = {s: v.save() for s, v in values.items() if isinstance(v, mx.array) and v.ndim > 1}
    names = [plain[name].path for name in trace.activations]
    found = {site: Ends(()) for site in sites if site not in whole}
    modules = dict(plain.named_modules())
    linear = [name for name in dict.fromkeys(names) if is_stored(modules[name])]
    for site in [site for site in whole if site in linear]:
        found[site] = Ends((site,), adds=True)
    left = [site for site in whole if site not in found]
    for group in _apart(left):
        found |= _Trial(plain, inputs, {s: whole[s] for s in group}, linear).ends()
    return found


def _apart(sites: Iterable[str]) -> list[list[str]]:
    """The sites in groups, none of which holds a module and one inside of it."""
    groups: list[list[str]] = []
    for site in sites:
        for group in groups:
            if not any(_inside(site, other) or _inside(other, site) for other in group):
                group.append(site)
                break
        else:
            groups.append([site])
    return groups


def _inside(path: str, other: str) -> bool:
    return not other or path.startswith(f"{other}.")


class _Trial:
    """Some sites, none in another, that are tried in the same forwards."""

    def __init__(self, plain: Any, inputs: tuple, clean: Mapping[str, Any], linear: list[str]):
        self._plain, self._inputs, self._clean = plain, inputs, clean
        self._maps = {site: _mixing(value.shape[-1]) for site, value in clean.items()}
        self._below = {site: [n for n in linear if _inside(n, site)] for site in clean}

    def ends(self) -> dict[str, Ends]:
        """The ends of each site."""
        found: dict[str, Ends] = {}
        wide = self._as_wide()
        self._below = {s: [n for n in names if n in wide[s]] for s, names in self._below.items()}
        last = {site: (names[-1],) for site, names in self._below.items() if names}
        whole = self._whole(last)
        left = [site for site in self._clean if site not in whole and self._below[site]]
        whole |= self._whole(self._parts(left))
        adding = self._adding({s: paths for s, paths in whole.items() if len(paths) == 1})
        for site in self._clean:
            found[site] = Ends(whole.get(site, ()), site in adding)
        return found

    def _as_wide(self) -> dict[str, set[str]]:
        """Below each site, the modules that give vectors of its width."""
        found: dict[str, set[str]] = {}
        with self._plain.trace(*self._inputs, compile=False):
            for site, names in self._below.items():
                width = self._clean[site].shape[-1]
                found[site] = {n for n in names if _width(self._plain, n) == width}
        return found

    def _whole(self, ends: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """Those sites whose value is mixed as what these modules give is."""
        changes = {site: (paths, self._maps[site]) for site, paths in ends.items() if paths}
        got = self._run(changes)
        return {
            site: ends[site]
            for site, value in got.items()
            if _close(value, self._maps[site](self._clean[site]))
        }

    def _parts(self, sites: list[str]) -> dict[str, tuple[str, ...]]:
        """The modules each of which makes a part of its site's value, linear in what it gives."""
        found: dict[str, tuple[str, ...]] = {site: () for site in sites}
        for number in range(max((len(self._below[site]) for site in sites), default=0)):
            tried = {s: (self._below[s][number],) for s in sites if number < len(self._below[s])}
            without = self._run({s: (paths, mx.zeros_like) for s, paths in tried.items()})
            mixed = self._run({s: (paths, self._maps[s]) for s, paths in tried.items()})
            for site, paths in tried.items():
                part = self._clean[site] - without[site]
                want = without[site] + self._maps[site](part)
                if _size(part) > LITTLE * _size(self._clean[site]) and _close(mixed[site], want):
                    found[site] += paths
        return found

    def _adding(self, ends: Mapping[str, tuple[str, ...]]) -> set[str]:
        """Those sites to whose value is added what is added to the one module's."""
        added = {site: _some(self._clean[site]) for site in ends}
        got = self._run({s: (paths, _adds(added[s])) for s, paths in ends.items()})
        return {s for s, value in got.items() if _close(value, self._clean[s] + added[s])}

    def _run(self, changes: Mapping[str, Change]) -> dict[str, mx.array]:
        """Each site's value where its modules are changed, and all else is as it was."""
        if not changes:
            return {}
        found = {}
        with self._plain.trace(*self._inputs, compile=False):
            for site, (paths, change) in changes.items():
                for path in paths:
                    handle = self._plain[path]
                    handle.output = change(handle.output)
                own = first_array(self._plain[site].output)
                found[site] = own.save()
                own[...] = self._clean[site]
        return found


def _width(plain: Any, name: str) -> int:
    try:
        value = first_array(plain[name].output)
    except NeverCalledError:  # a call that runs by another path
        return 0
    return int(value.shape[-1]) if isinstance(value, mx.array) and value.ndim else 0


def _mixing(width: int) -> Map:
    """A linear map of vectors that nothing commutes with but numbers."""
    draw = np.random.default_rng(width)
    signs = draw.choice([-1.0, 1.0], width)
    factors = mx.array((draw.uniform(4.0, 16.0, width) * signs).astype(np.float32))
    return lambda y: mx.roll(y * factors.astype(y.dtype), 1, axis=-1)


def _some(value: mx.array) -> mx.array:
    """A constant (width,) about as large as a value's entries."""
    draw = np.random.default_rng(value.shape[-1] + 1)
    spread = float(mx.sqrt(mx.mean(mx.square(value.astype(mx.float32)))).item()) or 1.0
    return mx.array((spread * draw.normal(size=value.shape[-1])).astype(np.float32))


def _adds(constant: mx.array) -> Map:
    return lambda y: y + constant.astype(y.dtype)


def _size(value: mx.array) -> float:
    return float(mx.mean(mx.abs(value.astype(mx.float32))).item())


def _close(got: mx.array, want: mx.array) -> bool:
    """Whether two values are the same up to rounding."""
    near = NEAR.get(got.dtype, NEAR_IN_HALF)
    apart = _size(got.astype(mx.float32) - want.astype(mx.float32))
    return apart <= near * _size(want)
