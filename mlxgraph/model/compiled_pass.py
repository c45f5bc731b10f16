"""Graphs as functions: `model.run(g, x)` and `model.compile(g)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import ref

from mlxgraph.errors import MissingParamError, UnknownNameError
from mlxgraph.errors.tracebacks import with_edges
from mlxgraph.graph.deferred import is_resolved
from mlxgraph.graph.graph import Graph, HasGraph, graph_of
from mlxgraph.graph.node import Node
from mlxgraph.mlx_facts import random_state
from mlxgraph.record.param import filled, holes
from mlxgraph.record.saved_values import SavedValues
from mlxgraph.run.cache import Recent
from mlxgraph.run.call import Call
from mlxgraph.run.engine import Engine
from mlxgraph.trace.execute import Job, Options, execute, execute_beside, output_of, wanted_of
from mlxgraph.trace.inputs import check_keywords, prepare
from mlxgraph.trace.open_block import refreshed
from mlxgraph.trace.reuse import reused
from mlxgraph.trace.trace import Trace

MOST_KINDS = 32


class _Result(NamedTuple):
    saves: Any
    output: Any = None


@with_edges
class Result(_Result):
    """What one pass gave: `saves` by name, and `output`, the model's output, edits included.

    Beside saves the output is computed when looked at, by the same run once more.
    """

    saves: dict[str, Any]  # to mypy a NamedTuple's `[name]` is any of its fields
    _later: Callable[[], Any] | None = None
    _known: Any = None

    @property
    def output(self) -> Any:  # type: ignore[override]
        """The model's output in this run, lazy."""
        if self._later is None:
            return tuple.__getitem__(self, 1)
        if self._known is None:
            self._known = self._later()
        return self._known

    def __repr__(self) -> str:
        waits = self._later is not None and self._known is None
        output = "<computed when looked at>" if waits else repr(self.output)
        return f"Result(saves={self.saves!r}, output={output})"

    def __reduce__(self) -> Any:
        return _result, (self.saves, self.output)

    def __getitem__(self, name: str) -> Any:  # type: ignore[override]
        if name not in self.saves:
            raise UnknownNameError("save", str(name), self.saves)
        return self.saves[name]

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.saves)


def _result(saves: dict[str, Any], output: Any) -> Result:
    return Result(SavedValues(saves), output)


class Resolved(NamedTuple):
    """A graph without deferred edits, what is wanted of it, and the params that need values."""

    graph: Graph
    wanted: tuple[Node, ...]
    holes: dict[str, Node]


@with_edges
class CompiledPass:
    """A graph on a model, as a function of inputs and of the graph's params.

    Weights are live: training, loading and exchanging modules are seen at the next call.
    """

    def __init__(self, engine: Engine, graph: Graph | HasGraph, options: Options):
        self.graph = engine.after_edits(graph_of(graph))
        self._engine = engine
        self._options = options
        self._always = _resolved(self.graph) if is_resolved(self.graph) else None
        self._by_kind: Recent[Any, Resolved] = Recent(MOST_KINDS)
        self._named = self.graph.params
        self._is_param = param_names(self._named, bool(self.graph.then), engine)

    def __call__(self, *inputs: Any, **kwargs: Any) -> Result:
        """Run the pass.

        Args: inputs: as for `model.trace`; kwargs: the graph's params by name, and the model's
            own keyword arguments.
        Returns: a Result, lazy.
        Raises: MissingParamError for a param without a value, UnknownNameError for a value
            without a param, ParamError for a value that does not fit.
        """
        resolved, call, params = self._given(inputs, kwargs)
        key = random_state.current()
        again = Job(resolved.graph, call.again(), params, self._options)
        values = self._values(resolved, call, params)
        if not resolved.graph.saves:
            return Result(SavedValues(), values[0])

        def output() -> Any:
            return execute_beside(self._engine, again, [output_of(resolved.graph)], key)[0]

        names = [name for name, _ in resolved.graph.saves]
        result = Result(SavedValues(zip(names, values, strict=True)))
        result._later = output
        return result

    def _given(self, inputs: tuple, kwargs: dict[str, Any]) -> tuple[Resolved, Call, dict]:
        given = {name: kwargs.pop(name) for name in list(kwargs) if self._is_param(name)}
        resolved, call = self.resolve(inputs, kwargs)
        return resolved, call, filled(resolved.holes, given)

    def _values(self, resolved: Resolved, call: Call, params: dict[str, Any]) -> list[Any]:
        for name in resolved.holes:
            if name not in params:
                raise MissingParamError(name)
        job = Job(resolved.graph, call, params, self._options)
        if self._options.reuse:
            values = reused(self._engine, job, resolved.wanted)
            if values is not None:
                return values
        return execute(self._engine, job, resolved.wanted)

    def resolve(self, inputs: tuple, kwargs: dict[str, Any]) -> tuple[Resolved, Call]:
        """The graph as a run with these inputs sees it, and the run's call; nothing runs.

        Args: kwargs: the model's own keyword arguments; the graph's params among them are ignored.
        """
        own = {name: value for name, value in kwargs.items() if not self._is_param(name)}
        check_keywords(self._engine.root, own, self._named)
        call = prepare(inputs, self._engine, own)
        engine = refreshed(self._engine)
        if self._always is not None:
            return self._always, call
        key = (call.key, call.ragged_lengths, ref(engine.names.tree))  # weakly: it keeps weights
        known = self._by_kind.get(key)
        if known is None:
            trace = Trace(engine.with_edits(Graph()), call, graph=self.graph)
            known = self._by_kind.put(key, _resolved(trace.recorded()))
        return known, call

    def __reduce__(self) -> Any:
        return CompiledPass, (self._engine.with_edits(Graph()), self.graph, self._options)

    def __repr__(self) -> str:
        model = f"InterpretableModel({type(self._engine.root).__name__})"
        return f"<CompiledPass of {self.graph!r} on {model}>"


def edited_output(engine: Engine, inputs: tuple, kwargs: dict[str, Any]) -> Any:
    """The output of a model with the edits that stay on it, whatever these save."""
    edits = CompiledPass(engine, Graph(), Options())
    resolved, call, params = edits._given(inputs, kwargs)
    return edits._values(_resolved(resolved.graph.replace(saves=())), call, params)[0]


def _resolved(graph: Graph) -> Resolved:
    return Resolved(graph, wanted_of(graph), holes(graph))


def param_names(names: tuple[str, ...], deferred: bool, engine: Engine) -> Callable[[str], bool]:
    """Which keywords of a call are params.

    A deferred edit may show its params only once it is resolved, so there whatever the model's own
    call does not take is one.
    """
    named = frozenset(names)
    if not deferred:
        return named.__contains__
    own = inspect.signature(type(engine.root).__call__).parameters
    if any(p.kind is p.VAR_KEYWORD for p in own.values()):
        return named.__contains__
    return lambda name: name in named or name not in own
