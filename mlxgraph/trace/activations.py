"""`trace.activations`: every module's output by name, each computed when somebody looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mlxgraph.errors import UnknownSiteError
from mlxgraph.errors.tracebacks import with_edges
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import MODEL_OUTPUT, ROOT_PREFIX, Site
from mlxgraph.record.handle import result_of
from mlxgraph.record.recording import Recording
from mlxgraph.record.stack import paused
from mlxgraph.run.names import NamedSite, Names
from mlxgraph.trace.module_handle import ModuleHandle
from mlxgraph.trace.own_process import deep, refuse_pickle, shallow
from mlxgraph.trace.resolve import first_of, read_named


class Seen:
    """What was looked up so far among a trace's activations: all that the trace keeps of them."""

    __slots__ = ("values", "inside", "after")

    def __init__(self) -> None:
        self.values: dict[Site, Any] = {}
        self.inside: dict[tuple[NamedSite, Node], Any] = {}
        self.after = False  # whether a value was computed once the block was over


@with_edges
class Activations(Mapping):
    """Module name -> output in the edited run, in forward order.

    Names are listed with the root prefix (`model.model.layers.3.mlp` for an mlx-lm model) and
    every form of a name is accepted.  Listing costs nothing.  Inside the block a lookup is a
    proxy that is saved; after it, a lookup of something unsaved runs the same recipe again: the
    first one alone, and from the second on all modules in one lazy forward of which only what is
    looked at is computed.
    """

    def __init__(
        self,
        names: Names,
        recording: Recording | None,
        compute: Callable[[list[Site]], list[Any]],
        seen: Seen,
    ):
        """`compute` gives the values of sites at the end of the block; it keeps the trace."""
        self._names = names
        self._recording = recording
        self._run = compute
        self._seen = seen

    def _sites(self) -> dict[str, Site]:
        if self._recording is None:
            return {}
        found = {}
        for site in self._recording.census.outputs():
            if not site.call:
                name = f"{ROOT_PREFIX}{site.path}" if site.path else MODEL_OUTPUT
                found[name] = site
        return found

    def __getitem__(self, name: str | ModuleHandle) -> Any:
        named = self._named(name)
        site = named.site
        recording = self._recording
        assert recording is not None
        inside = self._seen.inside
        if not recording.open and not inside:
            return self._after(named)
        key = (named, recording.node_at(site))
        if not recording.open:
            return result_of(inside[key]) if key in inside else self._after(named)
        if key not in inside:
            inside[key] = recording.save(read_named(recording, named))
        return inside[key]

    def _after(self, named: NamedSite) -> Any:
        """A value that was not saved, once the block is over: computed now."""
        if named.site not in self._seen.values:
            self._compute(named.site)
        value = self._seen.values[named.site]
        return first_of(named, value) if named.first else value

    def _named(self, name: Any) -> NamedSite:
        named = self._names.site(name)
        if self._recording is not None:
            named = named._replace(site=self._recording.census.meant(named.site))
            with paused():
                if self._recording.census.visits(named.site):
                    return named
        raise UnknownSiteError(str(name), self._sites(), "this run")

    def _compute(self, site: Site) -> None:
        wanted = [site, *(self._sites().values() if self._seen.after else ())]
        wanted = [s for s in dict.fromkeys(wanted) if s not in self._seen.values]
        self._seen.after = True
        self._seen.values.update(zip(wanted, self._run(wanted), strict=True))

    def _ipython_key_completions_(self) -> list[str]:
        """The names as they are listed, and as people write them."""
        here = {named for named in self._sites().values()}
        spoken = [n for n in self._names.spoken() if n in self and self._named(n).site in here]
        return [*spoken, *self]

    __copy__, __deepcopy__, __reduce_ex__ = shallow, deep, refuse_pickle

    def __contains__(self, name: object) -> bool:
        try:
            self._named(name)
        except UnknownSiteError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites())

    def __len__(self) -> int:
        return len(self._sites())

    def __repr__(self) -> str:
        return f"<{len(self)} activations>"
