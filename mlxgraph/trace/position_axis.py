"""Which axis of a site's value is that of the positions.

Inside an attention it is known: heads come before.  Anywhere else a forward on one token more shows
it, where axis 1, as long as the text, could be another one: heads before positions, or experts.

In: a census, a site.  Out: an axis, or None.  Never: guesses.
"""

from __future__ import annotations

from mlxgraph.graph.census import Census
from mlxgraph.graph.inside import ATTENTION, PATTERN, SCORES, parted
from mlxgraph.graph.nested import leaves
from mlxgraph.graph.site import Site
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record.stack import paused
from mlxgraph.run.along import axes_of

QUERIES_AXIS = 2  # of whatever is inside an attention


def is_of_attention(census: Census, site: Site) -> bool:
    """Whether a site is a value of an attention."""
    return (parted(site.path) or ("", ""))[1] in ATTENTION and census.is_inside(site)


def has_two_axes(site: Site) -> bool:
    """Whether a value of an attention has an axis of queries and one of keys."""
    return (parted(site.path) or ("", ""))[1] in (SCORES, PATTERN)


def axis_of_positions(census: Census, site: Site) -> int | None:
    """The axis of the positions in a site's value, of several arrays in the first; None where there
    is none beside that of the rows, where there are several, and where it cannot be told."""
    if is_of_attention(census, site):
        return QUERIES_AXIS
    values = leaves(census.values.get(site))
    number = next((k for k, value in enumerate(values) if isinstance(value, ARRAY)), None)
    if number is None:
        return None
    with paused():
        found = census.longer()
    if found is None:
        return None
    length, longer = found
    if site not in longer.values:
        return None
    axis = leaves(axes_of(site, length, census, longer))[number]
    return axis % values[number].ndim or None if isinstance(axis, int) else None
