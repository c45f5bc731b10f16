"""`model.pass_`: a Python function of the proxied model as a compiled pass.

The function is called once per kind of input with proxies in place of its arguments, and from
then on its graph runs.  What it branches on (texts, flags, strings) is part of the kind.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxgraph.graph.graph import Graph
from mlxgraph.graph.nested import leaves, map_nested, unflatten
from mlxgraph.record.freeze import dtype_name
from mlxgraph.record.handle import HANDLES
from mlxgraph.record.param import Param
from mlxgraph.record.stack import paused
from mlxgraph.run.call import describe_call
from mlxgraph.run.runner import CompileMode, Recent
from mlxgraph.trace.inputs import Inputs, prepare
from mlxgraph.trace.resolve import rows_of
from mlxgraph.trace.trace import Trace

if TYPE_CHECKING:
    from mlxgraph.model.model import InterpretableModel

MOST_KINDS = 32


SAVED = -1


class _Recorded(NamedTuple):
    """What a kind of arguments recorded.

    `sources` says where each leaf of the result comes from: a save, the argument of a number, or
    (None) the template itself.
    """

    graph: Graph
    template: Any
    sources: list[int | None]


class PassFunction:
    """A function of `(inputs, *args)` that runs the model with the function's edits.

    Arrays and floats among the arguments are inputs of the compiled pass: new values never
    recompile, and `mx.grad`, `mx.value_and_grad` and `mx.vmap` go through them.  Everything else
    is part of the pass: another layer number, position or flag is recorded as another pass.
    """

    def __init__(
        self,
        model: InterpretableModel,
        function: Callable[..., Any],
        compile: CompileMode,
        passes: frozenset[str] | None = None,
    ):
        update_wrapper(self, function)
        self._model = model
        self._function = function
        self._compile = compile
        self._passes = passes
        self._recorded: Recent[Any, _Recorded] = Recent(MOST_KINDS)

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the pass.

        Args: inputs: as for `model.trace`; a tuple for a model of several inputs.  The rest as
            the function takes it, after the model.
        Returns: what the function returns, with arrays in place of proxies.
        """
        model = self._model
        model._refresh_names()
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        prepared = prepare(given, model.tokenizer)
        call = describe_call(prepared.args, {})
        args, kwargs = map_nested((args, kwargs), _plain)
        values = leaves((args, kwargs))
        given_as = (_shape((args, kwargs)), tuple([_kind(value) for value in values]))
        key = (call.key, prepared.kind, rows_of(prepared.lengths), model._names.tree, given_as)
        made = self._recorded.get(key)
        if made is None:
            made = self._recorded.put(key, self._record(prepared, args, kwargs))
        params = {f"p{k}": v for k, v in enumerate(values) if _is_input(v)}
        nodes = [node for _, node in made.graph.saves]
        with paused():
            results = iter(
                model._runner.run(
                    made.graph,
                    call,
                    nodes,
                    params,
                    self._compile,
                    prepared.forward,
                    prepared.kind,
                    passes=self._passes,
                )
            )
        filled = [
            value if source is None else next(results) if source == SAVED else values[source]
            for source, value in zip(made.sources, leaves(made.template), strict=True)
        ]
        return unflatten(made.template, filled)

    def graph(self, inputs: Any, *args: Any, **kwargs: Any) -> Graph:
        """The graph that these arguments record; nothing is run."""
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        self._model._refresh_names()
        args, kwargs = map_nested((args, kwargs), _plain)
        return self._record(prepare(given, self._model.tokenizer), args, kwargs).graph

    def _record(self, prepared: Inputs, args: tuple, kwargs: dict[str, Any]) -> _Recorded:
        """Call the function on proxies."""
        count = iter(range(len(leaves((args, kwargs)))))
        trace = Trace(self._model, prepared, None, None, self._compile, {}, run=False)
        result: Any = None
        first = 0

        def body() -> None:
            nonlocal result, first
            holes = map_nested((args, kwargs), lambda value: _hole(next(count), value))
            result = self._function(self._model, *holes[0], **holes[1])
            recording = trace._recording_or_raise("the pass")
            first = len(recording.saves)
            for value in leaves(result):
                if _source(value) == SAVED:
                    recording.save(value, f"result{len(recording.saves) - first}")

        graph = trace.recorded(body)
        template = map_nested(result, lambda v: v if _source(v) is None else None)
        sources = [_source(value) for value in leaves(result)]
        return _Recorded(graph.replace(saves=graph.saves[first:]), template, sources)

    def __repr__(self) -> str:
        return f"<pass {inspect.unwrap(self._function).__name__} of {self._model!r}>"


def _is_input(value: Any) -> bool:
    """Whether an argument is an input of the pass; whole numbers choose layers and positions."""
    return isinstance(value, (mx.array, float))


def _plain(value: Any) -> Any:
    """numpy's arrays and numbers as MLX's and Python's."""
    if isinstance(value, np.ndarray):
        return mx.array(value)
    return value.item() if isinstance(value, np.generic) else value


def _source(value: Any) -> int | None:
    """Where a leaf of the function's result comes from."""
    if type(value) is Param and value._shape is None:
        return int(value.name[1:])
    return SAVED if type(value) in HANDLES else None


class _Itself:
    """An argument that cannot be hashed, known by what it is and kept as long as its key."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is _Itself and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def _kind(value: Any) -> Any:
    if isinstance(value, mx.array):
        return (value.shape, value.dtype)
    if isinstance(value, float):
        return float
    return (type(value), value if value.__hash__ is not None else _Itself(value))


def _shape(value: Any) -> str:
    """The nesting of the arguments, as text."""
    return repr(map_nested(value, lambda _: None))


def _hole(index: int, value: Any) -> Any:
    if isinstance(value, mx.array):
        return Param(f"p{index}", value.shape, dtype_name(value.dtype))._proxy()
    if isinstance(value, float):
        return Param(f"p{index}", None, None)
    return value
