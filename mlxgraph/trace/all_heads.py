"""The heads of a sharded attention by their numbers in the whole model.

In: an attention of which each rank has some heads.  Out: all of them, to be edited, and put back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mlxgraph.graph.inside import ATTENTION, HEADS, below, parted
from mlxgraph.graph.site import OUTPUT, Site
from mlxgraph.record.gather import gather, part
from mlxgraph.record.recording import Recording
from mlxgraph.run.names import Names
from mlxgraph.run.parts import is_part


class AllHeads(NamedTuple):
    """All heads of an attention on every rank.  Attributes: value: (batch, heads, length, ...)."""

    recording: Recording
    site: Site
    value: Any

    def put_back(self) -> None:
        """This rank's heads of what they are now go on."""
        self.recording.replace(self.site, part(self.value))


def heads_of_all(recording: Recording, names: Names, site: Site) -> AllHeads | None:
    """The heads that a site has, of all ranks; None where this rank has all of them."""
    if not names.tree.is_spread:
        return None
    census = recording.visited
    inside = site
    if (parted(site.path) or ("", ""))[1] not in ATTENTION:
        inside = census.meant(Site(below(site.path, HEADS), OUTPUT, site.call))
    if not census.visits(census.meant(inside)) or not is_part(names.tree, inside):
        return None
    return AllHeads(recording, inside, gather(recording.read(inside)))
