"""`trace.activations`: every module's output by name, each computed when somebody looks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mlxgraph.errors import UnknownSiteError
from mlxgraph.graph.node import SITE, Node
from mlxgraph.graph.site import MODEL_OUTPUT, Site
from mlxgraph.run.names import ROOT

if TYPE_CHECKING:
    from mlxgraph.trace.trace import Trace


class Activations(Mapping):
    """Module name -> output in the edited run, in forward order.

    Names are listed with the root prefix (`model.model.layers.3.mlp` for an mlx-lm model) and
    every form of a name is accepted.  Listing costs nothing.  Inside the block a lookup is a
    proxy that is saved; after it, a lookup of something unsaved runs the same recipe again: the
    first one alone, and from the second on all modules in one lazy forward of which only what is
    looked at is computed.
    """

    def __init__(self, trace: Trace):
        self._trace = trace
        self._values: dict[Site, Any] = {}
        self._inside: dict[tuple[Site, Node], Any] = {}
        self._looked = False

    def _sites(self) -> dict[str, Site]:
        recording = self._trace._recording
        if recording is None:
            return {}
        found = {}
        for site in recording.census.outputs():
            if not site.call:
                name = f"{ROOT}.{site.path}" if site.path else MODEL_OUTPUT
                found[name] = site
        return found

    def __getitem__(self, name: str) -> Any:
        trace = self._trace
        site = self._site(name)
        if trace._is_open():
            recording = trace._recording_or_raise("trace.activations")
            key = (site, recording.cell(site).node)
            if key not in self._inside:
                handle = recording.read(site)
                self._inside[key] = recording.save(handle, None)
            return self._inside[key]
        for (known, node), value in self._inside.items():
            if known == site and node is self._node(site):
                return value if not hasattr(value, "_template") else value.value
        if site not in self._values:
            self._compute(site)
        return self._values[site]

    def _site(self, name: str) -> Site:
        site = self._trace._model._names.site(name)
        if site not in self._trace._recording.census.order:  # type: ignore[union-attr]
            raise UnknownSiteError(name, self._sites(), "this run")
        return site

    def _node(self, site: Site) -> Node:
        return dict(self._trace.graph.writes).get(site) or Node(SITE, tuple(site))

    def _compute(self, site: Site) -> None:
        wanted = list(self._sites().values()) if self._looked else [site]
        wanted = [s for s in wanted if s not in self._values]
        self._looked = True
        values = self._trace._again(self._trace.graph, [self._node(s) for s in wanted])
        self._values.update(zip(wanted, values, strict=True))

    def __contains__(self, name: object) -> bool:
        try:
            self._site(str(name))
        except UnknownSiteError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites())

    def __len__(self) -> int:
        return len(self._sites())

    def __repr__(self) -> str:
        return f"<{len(self)} activations>"
