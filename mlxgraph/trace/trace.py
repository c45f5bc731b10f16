"""One trace, from the user's inputs to saved arrays.

Joins the rooms: asks for the census, opens a recording, and when the block ends hands the graph on
to be run and the results to the saved handles.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import mlx.core as mx

from mlxgraph.errors import LookError, OutsideTraceError, UnknownNameError, UnknownSiteError
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import trim, with_edges
from mlxgraph.graph.graph import Graph, of_graph
from mlxgraph.graph.node import Node, site_node
from mlxgraph.graph.site import OUTPUT, Site
from mlxgraph.graph.stream import is_middle
from mlxgraph.mlx_facts import random_state
from mlxgraph.record.apply import apply
from mlxgraph.record.handle import is_handle
from mlxgraph.record.intercept import intercepted
from mlxgraph.record.recording import Recording
from mlxgraph.record.saved_values import SavedValues
from mlxgraph.record.stack import exit_of_block, paused
from mlxgraph.record.sums import lowered_node
from mlxgraph.run.call import Call
from mlxgraph.run.engine import Engine
from mlxgraph.run.names import NamedSite
from mlxgraph.trace.activations import Activations, Seen
from mlxgraph.trace.escapes import explain_escape
from mlxgraph.trace.execute import Job, Options, execute_beside, finish
from mlxgraph.trace.gradients import check_gradients
from mlxgraph.trace.ids import check_ids
from mlxgraph.trace.looks import Looks
from mlxgraph.trace.module_handle import ModuleHandle, children_of, layers_of
from mlxgraph.trace.open_block import refreshed
from mlxgraph.trace.own_process import deep, refuse_pickle, shallow
from mlxgraph.trace.resolve import first_of, intervene, meant, read_named, take_in
from mlxgraph.trace.spread import let_others_know
from mlxgraph.trace.text_axes import axes_of

Interventions = Mapping[Any, Callable[[Any], Any]]  # by name or handle: its keys are invariant


class StopBlock(Exception):  # noqa: N818 - not an error: the way out of a block
    """Raised by `t.stop()` and held by the block's end."""


def _none() -> None:
    """A reference to nothing yet."""


@with_edges
class Trace:
    """One block of recorded edits and saves.  Made by `InterpretableModel.trace`.

    Attributes after the block:
        graph: what was recorded, as an immutable value.
        output: the model's output in this run, edits included, computed when looked at.
        saved_values: saved arrays by name.
        activations: every module's output by name, from the edited run, each computed when
            looked at.
        tokens: the token ids that the model was given, (batch, length), padding included.
        lengths: the number of real tokens in each row.
    """

    def __init__(
        self,
        engine: Engine,
        call: Call,
        interventions: Interventions | None = None,
        graph: Graph | None = None,
        params: Mapping[str, Any] | None = None,
        options: Options | None = None,
    ):
        """`options` are None for a block that is recorded and not run."""
        self.tokens = call.tokens
        self.lengths = call.lengths
        self.saved_values: dict[str, Any] = SavedValues()
        self._engine = engine
        self._call = call
        self._as_given = call.again()  # a cache among the inputs is advanced by the block
        self._interventions = interventions or {}
        self._given = graph
        self._params = dict(params or {})
        self._options = options
        self._logged: list[list[Any]] = []
        self._recording: Recording | None = None
        self._graph: Graph | None = None
        self._open: intercepted | None = None
        self._statement: Any = None  # the `with` statement, while it runs (`record.stack`)
        self._recorded_only = False
        self._key: mx.array | None = None
        self._weights: tuple[Any, Any] | None = None
        self._seen = Seen()
        self._activations: Callable[[], Activations | None] = _none

    # -- the block -------------------------------------------------------------------------------

    def __enter__(self) -> Trace:
        engine = refreshed(self._engine)
        with paused():
            census = engine.runner.census(self._call)
            check_ids(census.rows, self._call)
        looks = None if self._options is None else Looks(engine, self._beside).look
        self._recording = recording = Recording(census, engine.root, engine.runner.modules, looks)
        self._open = intercepted(recording, self._statement)
        try:
            self._open.__enter__()
            for graph in (engine.edits, self._given):
                if graph is not None:
                    find = axes_of(engine, self._call) if graph.then else None
                    take_in(recording, graph, engine.names, self.lengths, find)
            if self._interventions:
                intervene(recording, engine.names, self._interventions)
        except BaseException:
            self._close()
            raise
        return self

    @exit_of_block
    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool | None:
        self._close()
        if self._recorded_only:
            return False
        try:
            if error is None or kind is StopBlock:
                self._finish()
                return kind is StopBlock
        except BaseException as late:
            let_others_know(self._engine, late)
            raise
        finally:
            if self._recording is not None:
                self._recording.let_go()
        assert error is not None
        let_others_know(self._engine, error)
        trim(error)
        explain_escape(error)
        return False

    def _close(self) -> None:
        """Record no more, whatever ended the block."""
        if self._open is not None:
            self._open.__exit__()
        if self._recording is not None:
            self._recording.close()

    def _finish(self) -> None:
        """Run what was recorded and hand the results to the saved handles."""
        recording = self._recording
        assert recording is not None
        recording.check_escapes()
        self._graph = graph = recording.graph()
        if recording.takes_gradients:
            check_gradients(graph, recording.census)
        tree = self._engine.runner.tree
        self._weights = (tree, tree.seen)
        self._key = random_state.current()
        self._params = recording.bind(graph, self._params)
        if self._options is None or recording.unbound:
            return
        self.saved_values = finish(self._engine, recording, self._job(graph))
        for values in self._logged:
            sys.stdout.write(" ".join(map(str, values)) + "\n")

    def recorded(self, body: Callable[[Recording], None] | None = None) -> Graph:
        """The graph of a trace whose block is `body`, if any: nothing is run."""
        self._recorded_only = True
        with self:
            recording = self._open_recording("trace.recorded")
            try:
                if body is not None:
                    body(recording)
                    recording.check_escapes()
                return recording.graph()
            finally:
                recording.let_go()

    def _job(self, graph: Graph) -> Job:
        census = self._recording.census if self._recording is not None else None
        return Job(graph, self._call, self._params, self._options or Options(), census, True)

    def _beside(self, graph: Graph) -> Job:
        """A run of a graph beside the block's own, on the inputs as they were given."""
        return self._job(graph)._replace(call=self._as_given).beside()

    # -- results ---------------------------------------------------------------------------------

    @property
    def graph(self) -> Graph:
        """What has been recorded, as a value: so far inside the block, all of it after."""
        if self._graph is not None:
            return self._graph
        return self._open_recording("trace.graph").graph()

    @property
    def output(self) -> Any:
        """The model's output: a proxy inside the block; after it the result of the edited run."""
        if self._is_open:
            return self._open_recording("trace.output").read(Site("", OUTPUT))
        return self._values_at([Site("", OUTPUT)])[0]

    @output.setter
    def output(self, value: Any) -> None:
        self._open_recording("trace.output").replace(Site("", OUTPUT), value)

    @property
    def activations(self) -> Activations:
        """Every module's output by name, in forward order; listing names computes nothing."""
        known = self._activations()
        if known is None:
            run, seen = self._values_at, self._seen
            known = Activations(self._engine.names, self._recording, run, seen)
            self._activations = weakref.ref(known)  # it knows the trace
        return known

    def get(self, name: str | ModuleHandle) -> Any:
        """A saved value by its name, or a module's output by any form of its name.

        Returns: the array.  A site that was not saved is computed from the same run's recipe.
        Raises: UnknownNameError, UnknownSiteError.
        """
        if name in self.saved_values:
            return self.saved_values[str(name)]
        if self._is_open:
            raise UnknownNameError(
                "finished value", str(name), [], "Values are known after the block; save it there."
            )
        named = self._engine.names.site(name)
        site = named.site
        if self._recording is not None:
            site = self._recording.census.meant(site)
        whole = site.spoken
        if whole in self.saved_values:
            value = self.saved_values[whole]
        else:
            value = self._values_at([site])[0]
        return first_of(named, value) if named.first else value

    def get_activation(self, name: str | ModuleHandle) -> Any:
        """A module's output in the edited run, by any form of its name."""
        return self.activations[name]

    def _values_at(self, sites: list[Site]) -> list[Any]:
        """The values that sites had at the end of the block, computed now.

        Nobody had saved them; the random draws are those of the finished run.
        """
        graph = self.graph
        if self._weights is not None:
            tree, weights = self._weights
            same = tree.are_weights(weights)
            if not (same and tree.holds()):
                raise LookError(
                    f"{', '.join(map(str, sites[:3]))}: the model's"
                    f" {'modules or settings' if same else 'weights'} have changed since this"
                    f" run, and what was not saved in it cannot be told any more.\n  at {here()}\n"
                    "  Save it inside the block, or look at it before the model changes."
                )
        written = dict(graph.writes)
        nodes: list[Node] = [self._node_at(site, written) for site in sites]
        assert self._key is not None
        if self._recording is not None:  # a sum may have brought a number of its own
            graph = graph.replace(constants=self._recording.constants)
        job = self._job(graph)._replace(call=self._as_given)
        return execute_beside(self._engine, job, nodes, self._key)

    def _node_at(self, site: Site, written: Mapping[Site, Node]) -> Node:
        """What a site held at the end of the block."""
        recording = self._recording
        if recording is None or not is_middle(site.path):
            return written.get(site) or site_node(*site)
        return lowered_node(recording, recording.node_at(site))

    # -- habits from nnsight -------------------------------------------------------------------

    def stop(self) -> None:
        """Leave the block here.  What was recorded runs; nothing that it does not need does."""
        self._open_recording("trace.stop")
        raise StopBlock

    def cache(self, *patterns: str | ModuleHandle) -> dict[str, Any]:
        """Save every matching module's output: by name, each an array after the block.

        Args: patterns: names, patterns or module handles, as for `mg.edit`; every called module
            if left out.
        """
        recording, names = self._open_recording("trace.cache"), self._engine.names
        if patterns:
            found = [named for pattern in patterns for named in names.sites(pattern)]
            found = meant(recording, list(dict.fromkeys(found)))
        else:
            found = [NamedSite(site) for site in recording.census.outputs() if not site.call]
        return {
            named.name: recording.save(read_named(recording, named))
            for named in dict.fromkeys(found)
        }

    apply = staticmethod(apply)
    __copy__, __deepcopy__, __reduce_ex__ = shallow, deep, refuse_pickle

    def log(self, *values: Any) -> None:
        """Write values to standard output when the block has run."""
        recording = self._open_recording("trace.log")
        self._logged.append(
            [recording.save(v, "log", listed=False) if is_handle(v) else v for v in values]
        )

    @staticmethod
    def barrier(*_: Any) -> Callable[[], None]:
        """Nothing to wait for: sites may be read in any order.  Calling the result does nothing."""
        return lambda: None

    # -- gradients ------------------------------------------------------------------------

    def grad(self, loss: Any, at: Any) -> Any:
        """The gradient of a scalar loss at one value, or at several in one backward pass.

        Args: loss: a recorded scalar; at: a proxy, or a list of them.
        Returns: a proxy (a list of them) of the same shape, to be saved like any other.
        """
        return self._open_recording("trace.grad").gradients(loss, at)

    # -- state -----------------------------------------------------------------------------------

    @property
    def _is_open(self) -> bool:
        return self._recording is not None and self._recording.open

    def _open_recording(self, what: str) -> Recording:
        if self._recording is None or not self._recording.open:
            raise OutsideTraceError(what)
        return self._recording

    def __getattr__(self, name: str) -> ModuleHandle:
        """The model's tree, bound to this trace: for blocks inside blocks."""
        if name.startswith("_"):
            raise AttributeError(name)
        if name == "layers":
            return layers_of(self._engine, self._open_recording)
        try:
            return getattr(ModuleHandle(self._engine, "", self._open_recording), name)
        except UnknownSiteError:
            own = [own for own in (*dir(type(self)), *vars(self)) if own[0] != "_"]
            known = children_of(self._engine, "")
        graph = of_graph(name)
        raise UnknownSiteError(
            name, known, "the trace", also=own, kind="module or method", advice=graph,
            near=[] if graph else None,
        )  # fmt: skip

    def __getitem__(self, name: Any) -> Any:
        advice = f"Write t.saved_values[{name!r}] for what was saved, t.get({name!r}) for a site."
        raise UnknownNameError("entry of a trace", str(name), self.saved_values, advice)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), "layers", *children_of(self._engine, "")})

    def __rshift__(self, other: Any) -> Graph:
        return self.graph >> other

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("a Trace is not a sequence; its values are in .saved_values")

    def __repr__(self) -> str:
        state = "open" if self._is_open else "new" if self._recording is None else "done"
        model = f"InterpretableModel({type(self._engine.root).__name__})"
        return f"<Trace ({state}) of {model}: {len(self.saved_values)} saved values>"
