"""The last layer at few positions: whether its queries can run at those alone.

Where only some positions of the output are wanted, nothing after the last block's attention needs
the others, and its attention needs no more of them than keys and values (`run.two_passes`).

    tree, census, call, start, stop  --  LastLayer(tree).at(census, call, start, stop)
                                             an AtPositions, or None where it is not sure
    original, args, kwargs           --  AtPositions.run: the block's output at start..stop

It is sure of a model of mlx-lm whose last block takes a cache, is called once and with none, and
hands one array (batch, length, width) to the final norm.  Which axes of its arguments are those of
queries and of keys is found by a census of a token more.  Then both ways are tried, and compared
(`run.last_layer_check`).  In doubt: None.
"""

from __future__ import annotations

import inspect
from bisect import bisect_right
from typing import Any

import mlx.core as mx

from mlxgraph.graph.census import Census
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.site import INPUTS, OUTPUT, SKIP, Site
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.originals import ARRAY, zeros
from mlxgraph.mlx_facts.probes import says_followed
from mlxgraph.run.cache import Recent
from mlxgraph.run.call import Call, call_model, describe_call
from mlxgraph.run.census import take_census
from mlxgraph.run.last_layer_check import gives_the_same, keeps_shapes, lengths_that_matter
from mlxgraph.run.plan import Reach
from mlxgraph.run.pushdown import WHOLE, is_mlx_lms, stream_entry
from mlxgraph.run.tree import ModuleTree
from mlxgraph.run.two_passes import VALUES, AtPositions, kinds_of, named

NAME = "last_layer"
MOST = 64


def left_alone(seen: Reach, census: Census, path: str) -> bool:
    """Whether no read and no write falls between a block's input and the model's output."""
    start = census.order[Site(path, INPUTS)]
    touched = {*seen.read, *seen.writes} - {WHOLE}
    skipped = [site.path for site in seen.writes if site.port == SKIP]
    return not any(census.position(site) > start for site in touched) and not any(
        f"{path}.".startswith(f"{above}." if above else "") for above in skipped
    )


def without_cut(graph: Graph, at: AtPositions) -> Graph:
    """A graph that was pushed down, whose stream arrives at the norm with the wanted positions."""
    return graph.replace(writes=[(site, node) for site, node in graph.writes if site != at.norm])


# -- whether it holds -----------------------------------------------------------------------------


class LastLayer:
    """What was worked out about the last block of one tree; it is to be forgotten with the tree."""

    def __init__(self, tree: ModuleTree):
        self.tree = tree
        self._known: Recent[Any, tuple[AtPositions | None]] = Recent(MOST)
        self._sure: Recent[Any, bool] = Recent(MOST)
        self._axes: Recent[Any, dict[str, tuple[int, ...]]] = Recent(MOST)
        self._steps: dict[str, list[int]] = {}

    def at(self, census: Census, call: Call, start: int, stop: int) -> AtPositions | None:
        """How the last block can be run at positions `start` to `stop` alone; None if not surely.

        Args: census: the call's; call: token ids (batch, length), in rows of one length, with
            no cache.

        Asked once for each kind of call.  Inside transformations that follow the weights it is
        None, and asked again.
        """
        key = (call.key, self.tree.root.training, start, stop)
        known = self._known.get(key)
        if known is not None:
            return known[0]
        found = self._described(census, call, start, stop)
        if found is not None and not keeps_shapes(found, census, self.tree, call):
            found = None
        if found is not None:
            sure = self._agrees(found, call)
            if sure is None:
                return None
            found = found if sure else None
        return self._known.put(key, (found,))[0]

    def _described(self, census: Census, call: Call, start: int, stop: int) -> AtPositions | None:
        """The way to run the block, as far as the census shows that there is one."""
        if call.forward is not call_model or call.turned or call.is_ragged or not call.plain:
            return None
        if len(call.arrays) != 1 or call.arrays[0] is not (call.args or (None,))[0]:
            return None
        if census.draws or census.changes or not census.traceable:
            return None
        ids = call.arrays[0]
        if ids.ndim != 2 or not mx.issubdtype(ids.dtype, mx.integer):
            return None
        norm, path = stream_entry(census, self.tree), self.block(census)
        if norm is None or path is None:
            return None
        length = ids.shape[1]
        if census.values[WHOLE].shape[:2] != ids.shape or not 1 < stop <= length:
            return None
        if not 0 <= start < stop or 2 * (stop - start) > length:
            return None
        names = parameters(self.tree.modules[path])
        if names is None or "cache" not in names[1:]:
            return None
        given = named(names, *census.values[Site(path, INPUTS)])
        stream = census.values[Site(path, OUTPUT)]
        if given is None or not isinstance(stream, ARRAY) or stream.ndim != 3:
            return None
        if getattr(given[names[0]], "shape", None) != stream.shape:
            return None
        if any(not isinstance(v, (ARRAY, *VALUES)) for v in given.values()):
            return None
        axes = self._long_axes(path, names, given, call)
        if not axes:
            return None
        found = AtPositions(path, norm, start, stop, length, names, kinds_of(given), axes)
        return found if found.fits(*census.values[Site(path, INPUTS)]) else None

    def block(self, census: Census) -> str | None:
        """The path of the last of a list of blocks, whose one call comes right before the final
        norm's; None where there is none."""
        norm = stream_entry(census, self.tree)
        if norm is None:
            return None
        sites = census.of_modules()
        path, port, number = sites[sites.index(norm) - 1]
        above, _, last = path.rpartition(".")
        blocks = self.tree.containers.get(above)
        if port != OUTPUT or number or census.calls(path) != 1 or not isinstance(blocks, list):
            return None
        if not last.isdigit() or int(last) != len(blocks) - 1:
            return None
        return path if is_mlx_lms(self.tree.modules[path]) else None

    def _long_axes(
        self, path: str, names: tuple[str, ...], given: dict[str, Any], call: Call
    ) -> dict[str, tuple[int, ...]]:
        """Which axes grow with a token more, asked once for each kind of arguments: the stream's
        positions, a mask's queries and keys, and the positions of what else has some.  Nothing
        where other axes grow."""
        key = path, tuple(kinds_of(given).items())
        known = self._axes.get(key)
        if known is None:  # a token less where another begins a new kind: a window is full
            known = self._grown(path, names, given, call, 1)
            known = known or self._grown(path, names, given, call, -1) or {}
            if known:
                self._axes.put(key, known)
        return known

    def _grown(
        self, path: str, names: tuple[str, ...], given: dict[str, Any], call: Call, by: int
    ) -> dict[str, tuple[int, ...]] | None:
        rows, length = call.arrays[0].shape
        more = describe_call((zeros((rows, length + by), call.arrays[0].dtype),), call.kwargs)
        try:
            longer = named(names, *take_census(self.tree, more).values[Site(path, INPUTS)])
        except Exception:  # whatever the model has against it
            return None
        if longer is None or kinds_of(longer) != kinds_of(given):
            return None
        found = {}
        for name, value in given.items():
            if not isinstance(value, ARRAY):
                continue
            sizes = zip(value.shape, longer[name].shape, strict=True)
            axes = tuple(k - value.ndim for k, (a, b) in enumerate(sizes) if b == a + by)
            allowed = [(-2,)] if name == names[0] else [(), (-2, -1), (-2,), (-3,)]
            if axes not in allowed:
                return None
            if axes:
                found[name] = axes
        return found

    def _agrees(self, at: AtPositions, call: Call) -> bool | None:
        """Whether the block gives the same numbers both ways; None where nothing can be computed.

        Asked once for texts between which no length lies at which the block may change its ways.
        """
        steps = self._steps.get(at.path)
        if steps is None:
            steps = self._steps[at.path] = lengths_that_matter(self.tree, at.path)
        lengths = (at.length, at.start, at.stop, at.stop - at.start)
        near = [bisect_right(steps, number) for number in lengths]
        kinds = tuple(at.kinds.items()), tuple(at.axes.items())
        key = (at.path, self.tree.root.training, kinds, at.stop == at.length, *near)
        sure = self._sure.get(key)
        if sure is None:
            before = random_state.current()
            try:
                sure = self._sure.put(key, gives_the_same(at, self.tree, call))
            except Exception as error:
                if says_followed(error):
                    return None
                sure = self._sure.put(key, False)
            finally:
                random_state.restore(before)
        return sure


def parameters(module: Any) -> tuple[str, ...] | None:
    """The names of what a module's call takes; None where it takes any number."""
    own = [*inspect.signature(type(module).__call__).parameters.values()][1:]
    kinds = {one.kind for one in own}
    if not own or kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        return None
    return tuple(one.name for one in own)
