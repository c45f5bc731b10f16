"""`model.pass_`: a Python function of the proxied model as a compiled pass.

The function is called once for each kind of input with proxies in place of its arguments, and from
then on its graph runs.  What it branches on (texts, flags, strings) is part of the kind.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar, cast, overload
from weakref import ref

import mlx.core as mx
import numpy as np

from mlxgraph.errors import InputError
from mlxgraph.errors.tracebacks import with_edges
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.nested import leaves, map_nested, unflatten
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.model.optimize import Optimize, options_of
from mlxgraph.record.handle import is_handle
from mlxgraph.record.param import hole_for, is_number
from mlxgraph.record.recording import Recording
from mlxgraph.run.cache import Recent
from mlxgraph.run.call import Call
from mlxgraph.run.engine import Engine
from mlxgraph.run.runner import CompileMode
from mlxgraph.trace.execute import Job, Options, execute
from mlxgraph.trace.inputs import prepare
from mlxgraph.trace.open_block import refreshed
from mlxgraph.trace.trace import Trace

MOST_KINDS = 32
MOST_OF_OBJECTS = 4  # kinds of functions and other objects: they live as long, with all they hold
SAVED = -1
_FLAT = frozenset({ARRAY, float, int, bool, str, type(None)})  # arguments that hold no others
P = ParamSpec("P")  # the arguments of a user's function after the model
R = TypeVar("R")


class _Recorded(NamedTuple):
    """What a kind of arguments recorded.

    `sources` says where each leaf of the result comes from: a save, the argument of a number, or
    (None) the template itself.
    """

    graph: Graph
    template: Any
    sources: list[int | None]


@with_edges
class TracedFunction(Generic[P, R]):
    """A function of `(inputs, *args)` that runs the model with the function's edits.

    Arrays and floats among the arguments are inputs of the compiled pass: new values never
    trigger recompilation, and `mx.grad`, `mx.value_and_grad` and `mx.vmap` go through them.
    Everything else is part of the pass: another layer number, position or flag is recorded as
    another pass.
    """

    def __init__(
        self,
        model: Any,
        engine: Engine,
        function: Callable[Concatenate[Any, P], R],
        options: Options,
    ):
        """`model` is what the function is given as its first argument."""
        if not callable(function):
            raise InputError(
                f"a pass is a function of the model, not a {type(function).__name__}.\n"
                "  Write it with `m` first: `@model.pass_`, `def f(m, alpha): ...`."
            )
        update_wrapper(self, function)
        self._model = model
        self._engine = engine
        self._function = function
        self._options = options
        self._recorded: Recent[Any, _Recorded] = Recent(MOST_KINDS)
        self._of_objects: Recent[Any, _Recorded] = Recent(MOST_OF_OBJECTS)

    def __call__(self, inputs: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the pass.

        Args: inputs: as for `model.trace`; a tuple for a model of several inputs.  The rest as
            the function takes it, after the model.
        Returns: what the function returns, with arrays in place of proxies.
        """
        call, own, named = self._given(inputs, args, kwargs)
        flat = not named and _FLAT.issuperset(map(type, own))
        values = own if flat else leaves((own, named))
        shape = "" if flat else _shape((own, named))
        given_as = (shape, tuple([_kind(value) for value in values]))
        tree = ref(self._engine.names.tree)  # weakly: it keeps weights
        key = (call.key, call.ragged_lengths, tree, given_as)
        kinds = self._recorded if all(map(_is_plain, values)) else self._of_objects
        made = kinds.get(key)
        if made is None:
            made = kinds.put(key, self._record(call, own, named))
        params = {f"p{k}": v for k, v in enumerate(values) if _is_input(v)}
        job = Job(made.graph, call, params, self._options, checked=True)
        values_of_saves = execute(self._engine, job)
        if made.template is None and made.sources == [SAVED]:
            return cast(R, values_of_saves[0])
        results = iter(values_of_saves)
        filled = [
            value if source is None else next(results) if source == SAVED else values[source]
            for source, value in zip(made.sources, leaves(made.template), strict=True)
        ]
        return unflatten(made.template, filled)

    def graph(self, inputs: Any, *args: P.args, **kwargs: P.kwargs) -> Graph:
        """The graph that these arguments record; nothing is run."""
        return self._record(*self._given(inputs, args, kwargs)).graph

    def _given(self, inputs: Any, args: tuple, kwargs: dict) -> tuple[Call, tuple, dict[str, Any]]:
        """The call, and the function's own arguments with MLX's arrays for numpy's."""
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        call = prepare(given, refreshed(self._engine))
        if not kwargs and _FLAT.issuperset(map(type, args)):
            return call, args, kwargs
        return call, *map_nested((args, kwargs), _plain)

    def _record(self, call: Call, args: tuple, kwargs: dict[str, Any]) -> _Recorded:
        """Call the function on proxies."""
        self._check_arguments(args, kwargs)
        count = iter(range(len(leaves((args, kwargs)))))
        result: Any = None
        first = 0

        def body(recording: Recording) -> None:
            nonlocal result, first
            holes = map_nested((args, kwargs), lambda value: _hole(next(count), value))
            result = self._function(self._model, *holes[0], **holes[1])
            first = recording.saves
            for value in leaves(result):
                if _source(value) == SAVED:
                    recording.save(value, f"result{recording.saves - first}")

        graph = Trace(self._engine, call).recorded(body)
        template = map_nested(result, lambda v: v if _source(v) is None else None)
        sources = [_source(value) for value in leaves(result)]
        return _Recorded(graph.replace(saves=graph.saves[first:]), template, sources)

    def _check_arguments(self, args: tuple, kwargs: dict[str, Any]) -> None:
        """Raise InputError unless the function takes these, after the model."""
        try:
            signature = inspect.signature(self._function)
        except (TypeError, ValueError):
            return  # of C, for one
        try:
            signature.bind(self._model, *args, **kwargs)
        except TypeError as error:
            name = getattr(self._function, "__name__", "the function")
            raise InputError(
                f"{name}{signature} does not take these arguments: {error}.\n  A pass is called"
                f" with inputs in place of its model, and the rest as it is: {name}(inputs, ...)."
            ) from None

    def __repr__(self) -> str:
        return f"<pass {inspect.unwrap(self._function).__name__} of {self._model!r}>"


@overload
def pass_(
    self: Any,
    function: Callable[Concatenate[Any, P], R],
    *,
    compile: CompileMode = "auto",
    optimize: Optimize = True,
) -> TracedFunction[P, R]: ...


@overload
def pass_(
    self: Any, function: None = None, *, compile: CompileMode = "auto", optimize: Optimize = True
) -> Callable[[Callable[Concatenate[Any, P], R]], TracedFunction[P, R]]: ...


def pass_(
    self: Any, function: Any = None, *, compile: CompileMode = "auto", optimize: Optimize = True
) -> Any:
    """A function of the proxied model as a compiled pass: `@model.pass_`.

    Example:
        >>> @model.pass_
        ... def steered(m, alpha, v):
        ...     m.layers[5].output[:, -1] += alpha * v
        ...     return m.output[:, -1]
        >>> logits = steered("The capital of France is", 2.0, v)
    """
    if function is None:
        return lambda function: self.pass_(function, compile=compile, optimize=optimize)
    return TracedFunction(self, self._engine, function, options_of(compile, optimize))


def _is_input(value: Any) -> bool:
    """Whether an argument is an input of the pass; whole numbers choose layers and positions."""
    return isinstance(value, (mx.array, float))


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (mx.array, str, int, float, complex, bytes))


def _plain(value: Any) -> Any:
    """numpy's arrays and numbers as MLX's and Python's."""
    if isinstance(value, np.ndarray):
        return mx.array(value)
    return value.item() if isinstance(value, np.generic) else value


def _source(value: Any) -> int | None:
    """Where a leaf of the function's result comes from."""
    if is_number(value):
        return int(value.name[1:])
    return SAVED if is_handle(value) else None


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
    if isinstance(value, complex):
        return (complex, repr(value))
    return (type(value), value if value.__hash__ is not None else _Itself(value))


def _shape(value: Any) -> str:
    """The nesting of the arguments, as text."""
    return repr(map_nested(value, lambda _: None))


def _hole(index: int, value: Any) -> Any:
    return hole_for(f"p{index}", value) if _is_input(value) else value
