"""Sites inside a module that are not there: why not, and what is.

In: a census and a site that it does not have.  Out: the error to raise.
"""

from __future__ import annotations

from collections import Counter

from mlxgraph.errors import NeverCalledError, numbered
from mlxgraph.errors.base import close_matches, suggest
from mlxgraph.errors.source_line import here
from mlxgraph.graph.census import Census
from mlxgraph.graph.inside import ATTENTION, OPS, parted
from mlxgraph.graph.site import Site
from mlxgraph.graph.stream import is_middle

MOST_SHOWN = 12


def nothing_there(census: Census, site: Site, where: str = "") -> NeverCalledError:
    """The error for a site inside a module that the forward does not come to."""
    if is_middle(site.path):
        return _in_a_graph(site, where)
    module, tail = parted(site.path) or ("", site.path)
    called = operations_of(census, module)
    times = census.calls(site.path)
    owner = module or "the model"
    if not census.calls(module):
        reason = f"the forward never calls {owner} with these inputs."
    elif tail in ATTENTION:
        reason = census.unknown.get(module) or (
            f"it computes {numbered('attentions', times)} in this forward."
            if times
            else f"{owner} computes no attention in its own forward." + _below(census, module, tail)
        )
        reason += f"\n  {_listed(called)}"
    else:
        name = tail.removeprefix(f"{OPS}.")
        if times:
            reason = f"the own forward of {owner} calls it {times} time{'s' * (times > 1)}."
        else:
            reason = f"the own forward of {owner} calls no {name!r}."
            reason += suggest(close_matches(name, called)) + f"\n  {_listed(called)}"
    return NeverCalledError(site.spoken, where or str(here()), (), reason=reason)


def _in_a_graph(site: Site, where: str) -> NeverCalledError:
    """A graph that runs as it stands has no `resid_mid`: a block makes it the sum that it is."""
    reason = (
        "it is the sum of other sites, and which ones, is found when a graph meets a model in"
        " a block.\n  Write `with model.trace(x, graph=g)`, or model.run(g, x)."
    )
    return NeverCalledError(site.spoken, where or str(here()), (), reason=reason)


def _below(census: Census, module: str, tail: str) -> str:
    """The modules in a module that compute an attention, to be named in its place."""
    prefix = f"{module}." if module else ""
    found = [s.path for s in census.inside if s.path.startswith(prefix) and s.path != prefix + tail]
    sites = list(dict.fromkeys(p for p in found if (parted(p) or ("", ""))[1] == tail))
    if not sites:
        return ""
    more = f", ... ({len(sites)} in all)" if len(sites) > 1 else ""
    return f"\n  A module in it does: {sites[0]}{more}."


def operations_of(census: Census, module: str) -> Counter[str]:
    """What the own forward of a module calls, by name, and how often."""
    tails = [(parted(site.path) or ("", ""))[1] for site in census.inside_of(module)]
    ops = [tail.removeprefix(f"{OPS}.") for tail in tails if tail.startswith(f"{OPS}.")]
    return Counter(ops)


def _listed(called: Counter[str]) -> str:
    if not called:
        return "Its own forward calls no function of MLX: the modules in it may."
    shown = [f"{name} ({times} times)" if times > 1 else name for name, times in called.items()]
    more = ", ..." if len(shown) > MOST_SHOWN else ""
    return f"Its .ops are: {', '.join(shown[:MOST_SHOWN])}{more}."
