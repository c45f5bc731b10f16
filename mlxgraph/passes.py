"""Graphs as functions: `model.run(g, x)` and `model.compile(g)`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

from mlxgraph.errors import UnknownNameError
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import site_node
from mlxgraph.graph.site import Site
from mlxgraph.record.stack import paused
from mlxgraph.resolve import rows_of
from mlxgraph.run.runner import CompileMode, Recent
from mlxgraph.run.signature import describe_call
from mlxgraph.text import Inputs, prepare
from mlxgraph.trace import Trace

if TYPE_CHECKING:
    from mlxgraph.model import InterpretableModel

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
        self._resolved: Recent[Any, Graph] = Recent(MOST_KINDS)

    def __call__(self, *inputs: Any, **kwargs: Any) -> Result:
        """Run the pass.

        Args: inputs: as for `model.trace`; kwargs: the graph's params by name, and the model's
            own keyword arguments.
        Returns: a Result, lazy.
        Raises: UnknownNameError for a param without a value.
        """
        model = self.model
        prepared = prepare(inputs, model.tokenizer)
        params = self._params(kwargs)
        call = describe_call(prepared.args, kwargs)
        model._refresh_names()
        graph = self._resolve(prepared, kwargs, call.key)
        for name in graph.params:
            if name not in params:
                raise UnknownNameError(
                    "value for the param", name, params, f"Write fast(x, {name}=...)."
                )
        nodes = [node for _, node in graph.saves] or [
            dict(graph.writes).get(Site("")) or site_node("")
        ]
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

    def _params(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Take the graph's params out of the keywords.

        An edit by pattern shows its params only once it is resolved, so there whatever the
        model's own call does not name is a param.
        """
        names = set(self.graph.params)
        if self.graph.then:
            signature = inspect.signature(type(self.model.module).__call__)
            names |= {name for name in kwargs if name not in signature.parameters}
        return {name: kwargs.pop(name) for name in list(kwargs) if name in names}

    def _resolve(self, prepared: Inputs, kwargs: dict[str, Any], call: Any) -> Graph:
        """The graph with its patterns resolved for inputs of this kind."""
        if not self.graph.then:
            return self.graph
        key = (call, prepared.kind, rows_of(prepared.lengths), self.model._names.tree)
        known = self._resolved.get(key)
        if known is None:
            plain = self.model.without_edits()
            trace = Trace(plain, prepared, None, self.graph, False, dict(kwargs), run=False)
            known = self._resolved.put(key, trace.recorded())
        return known

    def __repr__(self) -> str:
        return f"<CompiledPass of {self.graph!r} on {self.model!r}>"
