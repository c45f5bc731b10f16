"""Graphs as functions: `model.run(g, x)` and `model.compile(g)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mlxgraph.errors import UnknownNameError
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import site_node
from mlxgraph.record.stack import paused
from mlxgraph.run.runner import CompileMode
from mlxgraph.run.signature import describe_call
from mlxgraph.text import prepare

if TYPE_CHECKING:
    from mlxgraph.model import InterpretableModel


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

    def __init__(self, model: InterpretableModel, graph: Graph, compile: CompileMode = True):
        self.model = model
        self.graph = graph
        self._compile = compile

    def __call__(self, *inputs: Any, **kwargs: Any) -> Result:
        """Run the pass.

        Args: inputs: as for `model.trace`; kwargs: the graph's params by name, and the model's
            own keyword arguments.
        Returns: a Result, lazy.
        """
        graph = self.graph
        params = {}
        for name in graph.params:
            if name not in kwargs:
                raise UnknownNameError("value for the param", name, kwargs,
                                       f"Write fast(x, {name}=...).")
            params[name] = kwargs.pop(name)
        prepared = prepare(inputs, self.model.tokenizer)
        call = describe_call(prepared.args, kwargs)
        names = [name for name, _ in graph.saves]
        nodes = [node for _, node in graph.saves]
        if not nodes:
            nodes = [dict(graph.writes).get(("", "output", 0)) or site_node("")]
        self.model._refresh_names()
        with paused():
            values = self.model._runner.run(
                graph, call, nodes, params, self._compile, prepared.forward, prepared.kind
            )
        if not names:
            return Result({}, values[0])
        return Result(dict(zip(names, values, strict=True)))

    def __repr__(self) -> str:
        return f"<CompiledPass of {self.graph!r} on {self.model!r}>"
