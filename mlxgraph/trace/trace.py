"""One trace, from the user's inputs to saved arrays.

Joins the rooms: prepares inputs, asks for the census, opens a recording, and when the block ends
hands the graph to the runner and the results to the proxies.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlxgraph.errors import (
    EscapedError,
    OutsideTraceError,
    UnboundParamError,
    UnknownNameError,
)
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import PARAM, SITE, Node, walk
from mlxgraph.graph.site import OUTPUT, Site
from mlxgraph.mlx_facts import random_state
from mlxgraph.record.apply import apply, apply_intervention
from mlxgraph.record.handle import HANDLES
from mlxgraph.record.intercept import intercepted
from mlxgraph.record.param import filled, holes
from mlxgraph.record.recording import Recording
from mlxgraph.record.stack import paused, stack
from mlxgraph.run.call import again, describe_call
from mlxgraph.run.ops import Values, bind_leaves
from mlxgraph.run.runner import CompileMode
from mlxgraph.tools import ModelTools
from mlxgraph.trace.activations import Activations
from mlxgraph.trace.inputs import Inputs
from mlxgraph.trace.resolve import take_in

if TYPE_CHECKING:
    from mlxgraph.model.model import InterpretableModel
    from mlxgraph.trace.module_handle import ModuleHandle

Interventions = Mapping[str, Callable[[Any], Any]]


METHODS_ELSEWHERE = {  # PyTorch's methods, and what they are in MLX
    "clone": "mx.array(h)",
    "detach": "mx.stop_gradient(h)",
    "unsqueeze": "mx.expand_dims(h, axis)",
    "permute": "h.transpose(...)",
    "view": "h.reshape(...)",
    "to": "h.astype(dtype)",
    "float": "h.astype(mx.float32)",
    "numpy": "np.array(h)",
    "cpu": "h",
    "norm": "mx.linalg.norm(h)",
}


class StopBlock(Exception):  # noqa: N818 - not an error: the way out of a block
    """Raised by `t.stop()` and held by the block's end."""


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
        model: InterpretableModel,
        inputs: Inputs,
        interventions: Interventions | None,
        graph: Graph | None,
        compile: CompileMode,
        kwargs: dict[str, Any],
        params: dict[str, Any] | None = None,
        run: bool = True,
        passes: frozenset[str] | None = None,
    ):
        self.tokens = inputs.tokens
        self.lengths = inputs.lengths
        self.saved_values: dict[str, Any] = {}
        self._model = model
        self._tools = ModelTools(model)
        self._inputs = inputs
        self._interventions = interventions
        self._given = graph
        self._logged: list[list[Any]] = []
        self._runs = run
        self._compile = compile
        self._passes = passes
        self._params = {
            name: kwargs.pop(name) for name in (graph.params if graph else ()) if name in kwargs
        } | (params or {})
        self._call = describe_call(inputs.args, kwargs)
        self._as_given = again(self._call)  # a cache among the inputs is advanced by the block
        self._recording: Recording | None = None
        self._graph: Graph | None = None
        self._open: intercepted | None = None
        self._key: mx.array | None = None
        self._looked: tuple[Any, Values] | None = None
        self._activations: Activations | None = None

    # -- the block -------------------------------------------------------------------------------

    def __enter__(self) -> Trace:
        model, runner = self._model, self._model._runner
        model._refresh_names()
        with paused():
            census = runner.census(self._call, self._inputs.forward, self._inputs.kind)
        self._recording = recording = Recording(census, self._tools)
        if self._runs:
            self._tools.look = self.look  # type: ignore[method-assign]
        recording.owner = model
        self._open = intercepted(recording)
        self._paused = stack.paused
        try:
            self._open.__enter__()
            if model._edits is not None:
                take_in(recording, model._edits, model, self.lengths)
            if self._given is not None:
                take_in(recording, self._given, model, self.lengths)
            for name, fn in (self._interventions or {}).items():
                apply_intervention(recording, model._names.site(name), fn)
        except BaseException:
            recording.close()
            self._open.__exit__()
            raise
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        recording = self._recording
        assert recording is not None and self._open is not None
        try:
            self._open.__exit__()
        finally:
            recording.close()
            self._looked = None
            vars(self._tools).pop("look", None)
            stack.paused = self._paused  # whatever an interrupt in mid-run has left
        if error is not None and kind is not StopBlock:
            _explain_escape(error)
            return False
        self._finish(recording)
        return kind is StopBlock

    def _finish(self, recording: Recording) -> None:
        """Run what was recorded and hand the results to the saved proxies."""
        recording.check_escapes()
        self._graph = graph = recording.graph()
        self._key = random_state.current()
        if recording.params or self._params:
            wanted = holes(graph)
            self._params = filled({**recording.params, **wanted}, self._params)
            recording.unbound = tuple(name for name in wanted if name not in self._params)
        if recording.unbound or not self._runs:
            return
        if recording.saves:
            results = self._run(graph, None)
            logged = {id(value) for values in self._logged for value in values}
            recording.finish(results)
            self.saved_values = {
                name: handle if isinstance(handle, mx.array) else handle.value
                for (name, _), (_, handle) in zip(graph.saves, recording.saves, strict=True)
                if id(handle) not in logged
            }
        for values in self._logged:
            sys.stdout.write(" ".join(map(str, values)) + "\n")

    def recorded(self, body: Callable[[], None] | None = None) -> Graph:
        """The graph of a trace whose block is `body`, if any: nothing is run."""
        self.__enter__()
        recording = self._recording
        assert recording is not None and self._open is not None
        try:
            if body is not None:
                body()
                recording.check_escapes()
            return recording.graph()
        finally:
            self._open.__exit__()
            recording.close()

    def _run(self, graph: Graph, saves: list[Node] | None, beside: bool = False) -> list[Any]:
        """Run a graph: as the block's own run, or beside it, eagerly and leaving no mark."""
        with paused():
            return self._model._runner.run(
                graph,
                again(self._as_given) if beside else self._call,
                saves,
                params=self._params,
                compile=False if beside else self._compile,
                forward=self._inputs.forward,
                kind=self._inputs.kind,
                census=self._recording.census if self._recording is not None else None,
                passes=self._passes,
            )

    # -- looks inside the block --------------------------------------------------------------

    def look(self, recording: Recording, node: Node) -> Any:
        """The real value of a node: one lazy run of what was recorded serves all looks until the
        next write."""
        recording.check_escapes()
        graph = recording.graph()
        missing = [n for n in graph.params if n not in self._params]
        missing += [
            n.args[0] for n in walk([node]) if n.op == PARAM and n.args[0] not in self._params
        ]
        if missing:
            raise UnboundParamError(dict.fromkeys(missing))
        if self._looked is None or self._looked[0] != frozenset(graph.writes):
            before = random_state.current()
            drawn = [n for n in graph.nodes() if n.op.startswith("mx.random.")]
            sites = [Node(SITE, tuple(site)) for site in recording.census.order]
            values = self._run(graph, [*sites, *drawn], beside=True)
            known = dict(zip([*sites, *drawn], values, strict=True))
            self._looked = (frozenset(graph.writes), Values(known, self._tools.evaluate))
            random_state.restore(before)
        values_now = self._looked[1]
        leaves = walk([*graph.roots, node])
        values_now.known.update(bind_leaves(leaves, recording.constants, self._params))
        with paused():
            return values_now[node]

    # -- results ---------------------------------------------------------------------------------

    @property
    def graph(self) -> Graph:
        """What has been recorded, as a value: so far inside the block, all of it after."""
        if self._graph is not None:
            return self._graph
        return self._recording_or_raise("trace.graph").graph()

    @property
    def output(self) -> Any:
        """The model's output: a proxy inside the block; after it the result of the edited run."""
        if self._is_open():
            return self._model.output
        return self._value_at(Site("", OUTPUT))

    @output.setter
    def output(self, value: Any) -> None:
        self._recording_or_raise("trace.output").replace(Site("", OUTPUT), value)

    @property
    def activations(self) -> Activations:
        """Every module's output by name, in forward order; listing names computes nothing."""
        if self._activations is None:
            self._activations = Activations(self)
        return self._activations

    def get(self, name: str) -> Any:
        """A saved value by the name it was saved under, or by any form of its site's name.

        Returns: the array.  A site that was not saved is computed from the same run's recipe.
        Raises: UnknownNameError, UnknownSiteError.
        """
        if name in self.saved_values:
            return self.saved_values[name]
        if self._is_open():
            raise UnknownNameError(
                "finished value", name, [], "Values are known after the block; save it there."
            )
        site = self._model._names.site(name)
        return (
            self.saved_values.get(str(site), None)
            if str(site) in self.saved_values
            else (self._value_at(site))
        )

    def get_activation(self, name: str) -> Any:
        """A module's output in the edited run, by any form of its name."""
        return self.activations[name]

    def _value_at(self, site: Site) -> Any:
        """The value that a site had at the end of the block, computed now."""
        graph = self.graph
        node = dict(graph.writes).get(site) or Node(SITE, tuple(site))
        return self._again(graph, [node])[0]

    def _again(self, graph: Graph, nodes: list[Node]) -> list[Any]:
        """Values of the finished run that nobody had saved, with the same random draws."""
        now = random_state.current()
        assert self._key is not None
        random_state.restore(self._key)
        try:
            return self._run(graph, nodes, beside=True)
        finally:
            random_state.restore(now)

    # -- habits from nnsight -------------------------------------------------------------------

    def stop(self) -> None:
        """Leave the block here.  What was recorded runs; nothing that it does not need does."""
        self._recording_or_raise("trace.stop")
        raise StopBlock

    def cache(self, *patterns: str) -> dict[str, Any]:
        """Save every matching module's output: by name, each an array after the block.

        Args: patterns: names or patterns as for `mg.edit`; every called module if left out.
        """
        recording, names = self._recording_or_raise("trace.cache"), self._model._names
        if patterns:
            paths = [path for pattern in patterns for path in names.matching(pattern)]
        else:
            paths = [site.path for site in recording.census.outputs()]
        return {path: recording.save(recording.read(Site(path)), None)
                for path in dict.fromkeys(paths)}  # fmt: skip

    apply = staticmethod(apply)

    def log(self, *values: Any) -> None:
        """Write values to standard output when the block has run."""
        recording = self._recording_or_raise("trace.log")
        self._logged.append([recording.save(v, "log") if type(v) in HANDLES else v for v in values])

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
        recording = self._recording_or_raise("trace.grad")
        if isinstance(at, (list, tuple)):
            return [recording.gradient(loss, handle) for handle in at]
        return recording.gradient(loss, at)

    # -- state -----------------------------------------------------------------------------------

    def _is_open(self) -> bool:
        return self._recording is not None and self._recording.open

    def _recording_or_raise(self, what: str) -> Recording:
        if self._recording is None or not self._recording.open:
            raise OutsideTraceError(what)
        return self._recording

    def __getattr__(self, name: str) -> ModuleHandle:
        """The model's tree, bound to this trace: for blocks inside blocks."""
        if name.startswith("_"):
            raise AttributeError(name)
        handle = self._model._handle("", self)
        return self._model._layers(self) if name == "layers" else getattr(handle, name)

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("a Trace is not a sequence; its values are in .saved_values")

    def __repr__(self) -> str:
        state = "open" if self._is_open() else "new" if self._recording is None else "done"
        return f"<Trace ({state}) of {self._model!r}: {len(self.saved_values)} saved values>"


def _explain_escape(error: BaseException) -> None:
    """`softmax(h).save()` with an escaped softmax fails as 'array has no attribute save'."""
    array = getattr(error, "obj", None)
    if not isinstance(error, AttributeError) or not isinstance(array, mx.array):
        return
    if type(array) in HANDLES:  # a method that arrays do not have
        hint = METHODS_ELSEWHERE.get(error.name or "")
        if hint:
            error.add_note(f"Write `{hint}`.")
        return
    try:
        mx.async_eval(array)
    except RuntimeError as reason:
        if "without a primitive" in str(reason):
            frame = error.__traceback__
            while frame is not None and frame.tb_next is not None:
                frame = frame.tb_next
            line = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else ""
            raise EscapedError(line) from error
