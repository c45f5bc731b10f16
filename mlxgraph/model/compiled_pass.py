"""Graphs as functions: `model.run(g, x)` and `model.compile(g)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from mlxgraph.errors import MissingParamError, UnknownNameError
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node, site_node
from mlxgraph.graph.site import Site
from mlxgraph.record.param import filled, holes
from mlxgraph.record.stack import paused
from mlxgraph.run.call import Call, describe_call
from mlxgraph.run.runner import CompileMode, Recent
from mlxgraph.trace.inputs import Inputs, prepare
from mlxgraph.trace.resolve import rows_of
from mlxgraph.trace.trace import Trace

if TYPE_CHECKING:
    from mlxgraph.model.model import InterpretableModel

MOST_KINDS = 32


class Result(NamedTuple):
    """What one pass gave: `saves` by name; `output`, the model's output, if there are no saves."""

    saves: dict[str, Any]
    output: Any = None

    def __getitem__(self, name: str) -> Any:  # type: ignore[override]
        if name not in self.saves:
            raise UnknownNameError("save", str(name), self.saves)
        return self.saves[name]


class CompiledPass:
    """A graph on a model, as a function of inputs and of the graph's params.

    Weights are live: training, loading and exchanging modules are seen at the next call.
    """

    def __init__(
        self,
        model: InterpretableModel,
        graph: Graph,
        compile: CompileMode = True,
        passes: frozenset[str] | None = None,
    ):
        self.model = model
        self.graph = model._edits >> graph if model._edits is not None else graph
        self._compile = compile
        self._passes = passes
        self._ready = None if self.graph.then else _ready(self.graph)
        self._resolved: Recent[Any, _Ready] = Recent(MOST_KINDS)
        self._params = _param_names(self.graph, model)

    def __call__(self, *inputs: Any, **kwargs: Any) -> Result:
        """Run the pass.

        Args: inputs: as for `model.trace`; kwargs: the graph's params by name, and the model's
            own keyword arguments.
        Returns: a Result, lazy.
        Raises: MissingParamError for a param without a value, UnknownNameError for a value
            without a param, ParamError for a value that does not fit.
        """
        model = self.model
        prepared = prepare(inputs, model.tokenizer)
        given = {name: kwargs.pop(name) for name in list(kwargs) if self._params(name)}
        call = describe_call(prepared.args, kwargs)
        model._refresh_names()
        graph, nodes, wanted = self._ready or self._resolve(prepared, kwargs, call.key)
        params = filled(wanted, given)
        for name in wanted:
            if name not in params:
                raise MissingParamError(name)
        with paused():
            values = model._runner.run(
                graph,
                call,
                nodes,
                params,
                self._compile,
                prepared.forward,
                prepared.kind,
                passes=self._passes,
            )
        if not graph.saves:
            return Result({}, values[0])
        return Result(dict(zip([name for name, _ in graph.saves], values, strict=True)))

    def resolved(self, *inputs: Any, **kwargs: Any) -> tuple[Graph, Inputs, Call]:
        """The graph as a run with these inputs sees it, and the run's call; nothing runs."""
        prepared = prepare(inputs, self.model.tokenizer)
        own = {name: value for name, value in kwargs.items() if not self._params(name)}
        call = describe_call(prepared.args, own)
        self.model._refresh_names()
        ready = self._ready or self._resolve(prepared, own, call.key)
        return ready[0], prepared, call

    def _resolve(self, prepared: Inputs, kwargs: dict[str, Any], call: Any) -> _Ready:
        """The graph with its patterns resolved for inputs of this kind."""
        key = (call, prepared.kind, rows_of(prepared.lengths), self.model._names.tree)
        known = self._resolved.get(key)
        if known is None:
            plain = self.model.without_edits()
            trace = Trace(plain, prepared, None, self.graph, False, dict(kwargs), run=False)
            known = self._resolved.put(key, _ready(trace.recorded()))
        return known

    def __repr__(self) -> str:
        return f"<CompiledPass of {self.graph!r} on {self.model!r}>"


class _Ready(NamedTuple):
    """A resolved graph, what to compute, and the params that need values."""

    graph: Graph
    nodes: list[Node]
    holes: dict[str, Node]


def _ready(graph: Graph) -> _Ready:
    output = dict(graph.writes).get(Site("")) or site_node("")
    return _Ready(graph, [node for _, node in graph.saves] or [output], holes(graph))


def _param_names(graph: Graph, model: InterpretableModel) -> Callable[[str], bool]:
    """Which keywords of a call are params.

    An edit by pattern may show its params only once it is resolved, so there whatever the
    model's own call does not take is one.
    """
    named = frozenset(graph.params)
    if not graph.then:
        return named.__contains__
    own = inspect.signature(type(model.module).__call__).parameters
    if any(p.kind is p.VAR_KEYWORD for p in own.values()):
        return named.__contains__
    return lambda name: name in named or name not in own
