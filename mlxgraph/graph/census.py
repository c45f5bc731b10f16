"""Census: which sites one forward visits, in what order, with what values' shapes.

A noun only: `run` takes it, `record` checks against it, `run` plans by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from mlxgraph.errors import NeverCalledError, UnknownSiteError, numbered
from mlxgraph.errors.source_line import here
from mlxgraph.graph.inside import below, may_be_inside, parted
from mlxgraph.graph.nested import entry_at
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import BY_NAME, INPUTS, OUTPUT, SKIP, Site
from mlxgraph.graph.stream import Sum, is_middle, no_middle, owner_of

STEP = 2.0**-20  # from one site inside a module to the next, where 1 is that of modules


class Info(NamedTuple):
    """What is known of a node under one census."""

    value: Any  # a placeholder, or a nested value of them
    when: float  # the census position from which on it can be computed; -1 if at once


class Whole(NamedTuple):
    """A value that holds arrays and that nobody can take apart: its type's name, and why not."""

    kind: str
    reason: str


class Census:
    """The sites of one forward in the order in which their values appear.

    `order[site]` is a position, `values[site]` the value there with every array replaced by a
    placeholder of its shape and dtype (`Whole` for what cannot be taken apart). `traceable` is
    False where the forward branches on values, `draws` is True where it uses the random state.
    `changes` is True where it changes lists, dicts or arrays among its inputs (a cache).
    `drawing` says how often modules draw that are called by hand, `rows` which arrays among the
    inputs number the rows of an embedding: `{array: (path, how many rows)}`, `embeddings` how
    many rows each embedding has that is called. Of modules with several paths, `aliases` says
    which path counts the calls, and `first` the number of the first call by each path.
    `turns` says which axes of a site's arrays are turned where rows are padded on the right.
    `checked` is for the recordings on it: the arrays from outside that were found to be arrays.
    `sums` has the streams between the parts of layers that were asked for (`graph.stream`), and
    `find_sums` gives those of a list of layers, or why there is none.

    The sites inside modules (`graph.inside`) are entered when one is first asked for: `look` takes
    another census that has them, from this one.  Their positions lie between those of the modules,
    which stay as they are.  `inside` has the output of each, with the line of the model's code that
    calls it.  `written` has, by module, the attentions that are written out by hand (as `run` finds
    them), `unknown` why one that a module seems to compute is not certain.
    """

    __slots__ = (
        "order",
        "values",
        "infos",
        "traceable",
        "draws",
        "drawing",
        "changes",
        "rows",
        "embeddings",
        "aliases",
        "first",
        "turns",
        "checked",
        "inside",
        "unknown",
        "written",
        "look",
        "sums",
        "find_sums",
        "_within",
        "_since",
        "_modules",
        "__weakref__",
    )

    def __init__(self, traceable: bool = True):
        self.order: dict[Site, float] = {}
        self.values: dict[Site, Any] = {}
        self.infos: dict[Node, Info] = {}
        self.traceable = traceable
        self.draws = False
        self.changes = False
        self.drawing: dict[Node, int] = {}
        self.rows: dict[int, tuple[str, int]] = {}
        self.embeddings: dict[str, int] = {}
        self.aliases: Mapping[str, str] = {}
        self.first: dict[str, int] = {}
        self.turns: dict[Site, list[Any]] = {}
        self.checked: set[Any] = set()
        self._within = self._since = 0  # sites inside modules: all, and since the last of a module
        self._modules: tuple[Any, ...] = ({}, (0, 0), [], frozenset())
        self.inside: dict[Site, str] = {}
        self.unknown: dict[str, str] = {}
        self.written: dict[str, list[Any]] = {}
        self.look: Callable[[Census], Census] | None = None
        self.sums: dict[Site, Sum] = {}
        self.find_sums: Callable[[str], Mapping[str, tuple[Sum | None, str]]] | None = None

    def visit(self, site: Site, value: Any, within: bool = False) -> None:
        """Enter the next site of the forward.  Args: within: whether it is inside a module."""
        self._within += within
        self._since = self._since + 1 if within else 0
        modules = len(self.order) - self._within + within
        self.order[site] = modules - 1 + self._since * STEP if within else modules
        self.values[site] = value

    # -- sites inside modules ---------------------------------------------------------------------

    def look_inside(self) -> None:
        """Enter the sites inside modules, if that was not done yet."""
        if self.look is None:
            return
        fuller = self.look(self)
        self.values = {**fuller.values, **self.values}
        self.inside, self.unknown = fuller.inside, fuller.unknown
        self.written = fuller.written
        self.turns = {**fuller.turns, **self.turns}
        self.first = {**fuller.first, **self.first}
        self.turns = {**fuller.turns, **self.turns}
        self.order = fuller.order  # last: whoever finds a site there finds the rest of it
        self.look = None

    def is_inside(self, site: Site) -> bool:
        """Whether a site is one inside a module of this forward, of those that were asked for."""
        return bool(self.inside) and site._replace(port=OUTPUT) in self.inside

    def of_modules(self) -> list[Site]:
        """The sites of modules, in forward order."""
        return [*self.order] if not self.inside else [*self._listed()[2]]

    def called(self) -> frozenset[str]:
        """The modules that the forward calls."""
        paths: frozenset[str] = self._listed()[3]
        return paths

    def _listed(self) -> tuple[Any, ...]:
        """The sites of modules and their paths, once: every plan with sites inside asks anew."""
        order, sizes = self.order, (len(self.order), len(self.inside))
        if self._modules[0] is not order or self._modules[1] != sizes:
            found = [site for site in order if not self.is_inside(site)]
            self._modules = order, sizes, found, frozenset([site.path for site in found])
        return self._modules

    def inside_of(self, path: str) -> list[Site]:
        """The outputs of the sites inside one module, in forward order."""
        self.look_inside()
        return [site for site in self.inside if (parted(site.path) or ("", ""))[0] == path]

    def _canonical(self, path: str) -> str:
        """The path that counts the calls."""
        inside = parted(path) if path not in self.aliases else None
        if inside is None:
            return self.aliases.get(path, path)
        return below(self.aliases.get(inside[0], inside[0]), inside[1])

    # -- the residual stream between the parts of a layer -----------------------------------------

    def sum_at(self, site: Site) -> Sum:
        """What a `resid_mid` is the sum of.  Raises: UnknownSiteError where none is certain."""
        known = self.sums.get(site)
        if known is not None:
            return known
        layer = owner_of(site.path)
        reason = "it goes by the layer's name alone"
        if (site.port, site.call) == (OUTPUT, 0) and self.find_sums is not None:
            reason = f"{layer} is no layer that this forward calls"
            found, reason = self.find_sums(layer.rpartition(".")[0]).get(layer, (None, reason))
            if found is not None and all(term.site in self.order for term in found.terms):
                return self.enter_sum(site, found)
        raise no_middle(layer, reason)

    def enter_sum(self, site: Site, found: Sum) -> Sum:
        """Give a sum its place in this forward: right after its last part."""
        values = [entry_at(self.values[term.site], term.keys) for term in found.terms]
        value = values[0]
        for other in values[1:]:
            value = value if value.dtype == other.dtype else value + other
        last = max(self.order[term.site] for term in found.terms)
        placed = self.sums[site] = found._replace(value=value, when=last + STEP / 2)
        return placed

    # -- questions --------------------------------------------------------------------------------

    def meant(self, site: Site) -> Site:
        """The site with the number of its call: the first that the forward makes by that path.

        Raises: NeverCalledError where it makes several, and none of them by it.
        """
        if site.call != BY_NAME:
            return site
        path = self._canonical(site.path)
        if may_be_inside(site.path) and not is_middle(site.path):
            self.look_inside()
        number = self.first.get(site.path)
        if number is None:
            number, count = 0, self.calls(path)
            if count > 1:
                raise NeverCalledError(
                    site.path,
                    str(here()),
                    (),
                    reason=f"{path} is the same module and is called {count} times, and which of"
                    f" them is made by the name {site.path} cannot be told.\n"
                    f"  Write {path}.calls[{count - 1}] for the last, or another number.",
                )
        return site._replace(path=path, call=number)

    def position(self, site: Site) -> float:
        """When a site is reached; a module is skipped where it would take its inputs.

        Raises: KeyError for a site that the forward does not visit.
        """
        if site.port == SKIP:
            site = site._replace(port=INPUTS)
        found = self.order.get(site)
        return self.sums[site].when if found is None else found

    def value(self, site: Site) -> Any:
        """The value of a site that the forward visits, with placeholders for its arrays."""
        return self.sums[site].value if site in self.sums else self.values[site]

    def visits(self, site: Site) -> bool:
        """Whether the forward comes to a site."""
        site = site._replace(port=INPUTS) if site.port == SKIP else site
        if site in self.order or not may_be_inside(site.path):
            return site in self.order
        if is_middle(site.path):
            try:
                return bool(self.sum_at(site))
            except UnknownSiteError:
                return False
        self.look_inside()
        return site in self.order

    def calls(self, path: str) -> int:
        """How often the forward calls a module."""
        count = 0
        while Site(path, OUTPUT, count) in self.order:
            count += 1
        return count

    def outputs(self) -> Iterator[Site]:
        """The output site of every module's call, in forward order."""
        return (site for site in self.of_modules() if site.port == OUTPUT)


def check_number(site: Site, called: Iterable[str], where: str) -> None:
    """Raises: NeverCalledError for a layer beyond those that the forward calls, by their paths."""
    parts = site.path.split(".")
    for k, part in enumerate(parts[1:], 1):
        if not part.isdigit():
            continue
        above = ".".join(parts[:k]) + "."
        below = (one.removeprefix(above).partition(".")[0] for one in called if above in one)
        numbers = {int(name) for name in below if name.isdigit()}
        if numbers and numbers == {*range(len(numbers))} and int(part) >= len(numbers):
            there = numbered(parts[k - 1], len(numbers))
            raise NeverCalledError(site.spoken, where, (), reason=f"the forward calls {there}.")
