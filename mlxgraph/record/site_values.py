"""What the sites of one recording hold, in program order, and whose sites they are.

Where there are several prompts each has its own sites, told apart by a scope (`@0:layers.3`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlxgraph.errors import NeverCalledError, OperationError, OutsideTraceError
from mlxgraph.errors.source_line import here
from mlxgraph.graph import ops
from mlxgraph.graph.census import Census, Whole, check_number
from mlxgraph.graph.inside import may_be_inside
from mlxgraph.graph.node import Node
from mlxgraph.graph.nothing_inside import nothing_there
from mlxgraph.graph.site import BY_NAME, SCOPE, SKIP, Site
from mlxgraph.graph.stream import Sum, is_middle
from mlxgraph.record.stack import paused
from mlxgraph.record.views import Build
from mlxgraph.record.write_through import Cell

EVERY_PROMPT = ""  # the scope of a recording that has one prompt, or one batch of them


class SiteValues:
    """The cells of one recording: a site's value, made when it is first asked for."""

    def __init__(self, census: Census):
        self.census = self.visited = census
        self.scope: str | None = EVERY_PROMPT
        self._cells: dict[Site, Cell] = {}
        self._prompts = 0  # `visited` is that of the prompt that is open
        self._first: Census | None = None  # that of the first prompt
        self._skipped: dict[str, Any] = {}
        self.sums: dict[Site, Sum] = {}  # those of `resid_mid` (`record.sums`)
        self.scales: dict[float, Node] = {}

    def cell(self, site: Site, build: Build) -> Cell:
        """The site's cell.  Raises: NeverCalledError where the forward does not come to it."""
        site = self.scoped(site)
        cell = self._cells.get(site)
        if cell is None:
            if self._skipped or site not in self.census.order:
                self.check_visited(site)
            cell = self._cells[site] = Cell(site, build(ops.SITE, tuple(site)))
        return cell

    def writes(self) -> list[tuple[Site, Node]]:
        """Every site that holds something else than what the model computes there."""
        return [
            (site, cell.node)
            for site, cell in self._cells.items()
            if cell.node.op != ops.SITE or cell.node.args != tuple(site)
        ]

    def check_visited(self, site: Site) -> None:
        """Raises: NeverCalledError where the forward does not come to a site."""
        for prefix, line in self._skipped.items():
            if site.path.startswith(prefix):
                reason = f"{prefix[:-1]} was skipped at {line}, and nothing in it runs."
                raise NeverCalledError(site.spoken, str(here()), (), reason=reason)
        if site not in self.census.order and not self._is_inside(site):
            called = dict.fromkeys(s.path for s in self.census.order)
            check_number(site, called, str(here()))
            times = self.census.calls(site.path)
            raise NeverCalledError(site.spoken, str(here()), called, times)

    def _is_inside(self, site: Site) -> bool:
        """Whether it is a site inside a module, now that the census is asked for these too."""
        if not may_be_inside(site.path):
            return False
        if is_middle(site.path):
            return self._enter_sum(site)
        if not self.visited.visits(site.unscoped):
            raise nothing_there(self.visited, site.unscoped)
        if site.path.startswith(SCOPE):
            self._enter_scoped()
        return site in self.census.order

    def _enter_sum(self, site: Site) -> bool:
        """Raises: UnknownSiteError where no forward shows such a sum."""
        with paused():
            found = self.visited.sum_at(site.unscoped)
        if site.path.startswith(SCOPE):
            scope = site.path.partition(":")[0] + ":"
            found = self.census.enter_sum(site, found.moved(scope))
        self.sums[site] = found
        return True

    def skip(self, site: Site, node: Node) -> None:
        """The module of an output site is not run: `node` is its output."""
        skipped = site._replace(port=SKIP)
        self._cells.setdefault(skipped, Cell(skipped, node)).node = node

    def close_inside(self, site: Site) -> None:
        """Nothing inside the module of a site can be named from here on."""
        self._skipped[site.path + "."] = here()

    # -- steps of a generation --------------------------------------------------------------------

    @contextmanager
    def at_steps(self, steps: Any, build: Build) -> Iterator[list[Node]]:
        """What is written in this block is written at some steps alone (see `graph.steps`).

        Gives: the values that sites were left with inside, which outside are not theirs.
        """
        before = {site: cell.node for site, cell in self._cells.items()}
        inside: list[Node] = []
        yield inside
        for site, cell in self._cells.items():
            was = before.get(site) or build(ops.SITE, tuple(site))
            if cell.node is not was:
                inside.append(cell.node)
                cell.node = build(ops.AT_STEPS, (steps, was, cell.node))

    # -- several prompts --------------------------------------------------------------------------

    @contextmanager
    def prompt(self, census: Census) -> Iterator[None]:
        """Sites named in this block are those of the next prompt, which alone visits `census`."""
        if self.scope is not None:
            raise OutsideTraceError("t.invoke")
        self.scope = scope = f"{SCOPE}{self._prompts}:"
        self.visited = census
        self._prompts += 1
        self.census.traceable = self.census.traceable and census.traceable
        self._enter_scoped()
        for path, rows in census.embeddings.items():
            self.census.embeddings[scope + path] = rows
        try:
            yield
        finally:
            self.scope, self.visited = None, self.census

    def _enter_scoped(self) -> None:
        """The sites of the prompt that is open, by their scoped names.

        Where a forward on another length calls its modules another number of times, a site's
        position is that of the same site in the first prompt's.
        """
        if self._first is None:
            self._first = self.visited
        first, at = self._first.order, -1.0
        for site, position in self.visited.order.items():
            at = position if first is self.visited.order else max(first.get(site, at), at)
            scoped = site._replace(path=f"{self.scope}{site.path}")
            self.census.order[scoped] = at
            self.census.values[scoped] = self.visited.values[site]

    def scoped(self, site: Site) -> Site:
        """The site that a name means here: its call, and the prompt that is open, if any is."""
        if site.call == BY_NAME:
            site = self.visited.meant(site)
        if self.scope == EVERY_PROMPT:
            return site
        if self.scope is None:
            raise OutsideTraceError(f"{site.spoken}, outside of `with t.invoke(...)`,")
        return site if site.path.startswith(SCOPE) else site._replace(path=self.scope + site.path)


def no_parts(site: Site, value: Whole) -> OperationError:
    """The error for reading a value that cannot be taken apart."""
    return OperationError(
        "reading",
        f"{site}, a {value.kind}",
        str(here()),
        f"{value.reason}.\n  Read and edit the modules that give its arrays; or make it a"
        " dataclass, a value that is read and written by attribute",
    )
