"""Benchmarking: what a graph costs on a model, against the bare model, compiled and not.

In: a model, a graph, inputs.  Out: a `Benchmark`, a table that is a value.
Four ways are measured: the bare model, eager and under `mx.compile`; a block that replays the
graph, as a user would write it; and the compiled pass.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.analysis.benchmark_table import Benchmark, First, Row, measured
from mlxgraph.analysis.in_turns import in_turns, once, peak_memory
from mlxgraph.analysis.inputs import arrays_in, check_model, whole_number
from mlxgraph.analysis.traceable import Benchmarked, TraceLike
from mlxgraph.errors import InputError
from mlxgraph.errors.tracebacks import at_the_edge

EAGER, COMPILED, BLOCK, PASS = "bare eager", "bare compiled", "traced block", "compiled pass"
SECONDS = 3.0  # what the rounds take together, if nobody says how many there are to be
FEWEST, MOST = 10, 200
_UNTIL_WARM = 3  # calls of one way: a block runs eagerly, is compiled, and is replayed
_STATE = "an input carries state"  # what `model.explain` says of a cache
_LEFT_OUT = ("leave out", "stop at", "run no forward")  # how it begins to say what does not run
_ALL = "the whole forward is needed"
_REWRITE = re.compile(r"^after (\w+):", re.M)


class Case(NamedTuple):
    """What is measured.

    Attributes:
        inputs: as for `model.trace`, texts encoded.
        bare: the arguments that the bare model is called with.
        own: the model's own keyword arguments.
        has_saves: whether the graph saves something; a run of one that does not gives the output.
        left_out: what `model.explain` says does not run.
    """

    graph: Any
    inputs: tuple
    bare: tuple
    own: dict[str, Any]
    params: dict[str, Any]
    has_saves: bool
    left_out: tuple[str, ...]


@at_the_edge
def benchmark(
    model: Benchmarked,
    graph: Any,
    *inputs: Any,
    params: Mapping[str, Any] | None = None,
    repeat: int | None = None,
    **forward_kwargs: Any,
) -> Benchmark:
    """What a graph costs on a model, measured in turns with the bare model.

    All that was worked out about the model, compiled passes included, is let go of, so that first
    calls are first calls.  Texts are encoded before anything is measured.

    Args:
        graph: a graph, or a finished trace.
        inputs: as for `model.trace`.
        params: values of the graph's params, by name.
        repeat: rounds; if left out, as many as take some seconds, from 10 to 200.
        forward_kwargs: keyword arguments of the model, and values of the graph's params.
    Returns: a Benchmark.  A way that cannot be run (a forward that cannot be compiled) has a row
        that says why.
    Raises: NotAGraphError, MissingParamError, UnknownNameError, InputError for no inputs, for a
        cache among them and for a `repeat` below 1; whatever a run of the graph raises.

    Example:
        >>> table = mg.benchmark(model, graph, "The capital of France is", repeat=3)
        >>> [row.way for row in table.rows]
        ['bare eager', 'bare compiled', 'traced block', 'compiled pass']
    """
    rounds = 0 if repeat is None else _number(repeat)
    case = case_of(model, graph, inputs, params, forward_kwargs)
    traced: list[str] = []
    ways = ways_of(model, case, traced)

    def compilations() -> int:
        return model.compilations + len(traced)

    first: dict[str, First] = {}
    failed: dict[str, str] = {}
    for name, way in ways.items():
        model.refresh()
        before = compilations()
        try:
            seconds = sum(once(way))
            in_turns({name: way}, 0, _UNTIL_WARM - 1)
        except Exception as error:  # the forward's own, while it is compiled
            if name not in (COMPILED, PASS):
                raise
            failed[name] = str(error).split("\n")[0] or type(error).__name__
        else:
            first[name] = First(seconds, compilations() - before)
    ready = {name: ways[name] for name in first}
    warm = in_turns(ready, 0 if rounds else 3)  # each way let go of the ones before
    if not rounds:
        a_round = sum(min(times.together) for times in warm.values())
        rounds = max(FEWEST, min(MOST, int(SECONDS / a_round)))
    before = compilations()
    times = in_turns(ready, rounds, 0)
    anew = compilations() - before
    base = COMPILED if COMPILED in times else EAGER
    rows = [
        Row(name, note=failed[name])
        if name in failed
        else measured(
            name,
            first[name],
            times[name],
            None if name == base else times[base],
            peak_memory(ways[name]),
        )
        for name in ways
    ]
    return Benchmark(tuple(rows), base, rounds, anew, case.left_out, _about(model, case))


def _number(repeat: Any) -> int:
    rounds = 0 if isinstance(repeat, bool) else whole_number(repeat, "repeat")
    if rounds < 1:
        raise InputError(
            f"repeat={repeat!r} is no number of rounds.\n  Write repeat=20, or leave it out."
        )
    return rounds


def case_of(
    model: Benchmarked,
    graph: Any,
    inputs: tuple,
    params: Mapping[str, Any] | None,
    kwargs: dict[str, Any],
) -> Case:
    """What is to be measured, once it is known to run."""
    check_model(model)
    run = model.compile(graph)
    if not inputs and not kwargs:
        raise InputError("a benchmark needs inputs.\n  Write mg.benchmark(model, graph, text).")
    values, own = _named(params), dict(kwargs)
    resolved, _ = run.resolve(inputs, own)  # what a function of mg.edit uses shows itself here
    for name in resolved.holes:
        if name in own:
            values[name] = own.pop(name)
    told = str(model.explain(graph, *inputs, **own, **values))
    if _STATE in told:
        raise InputError(
            "a benchmark calls the model with the same inputs again and again, and a cache is"
            " another one after each call.\n  Give the token ids alone."
        )
    found = model.run(graph, *inputs, **own, **values)
    mx.eval(list(arrays_in(found)))  # raises what is wrong
    has_saves = bool(found.saves)
    bare = model.without_edits()
    with bare.trace(*inputs, **own) as trace:
        given = bare.inputs.save()
    left_out = _left_out(told)
    if trace.tokens is None:
        args, own = given.value
        return Case(graph, args, args, own, values, has_saves, left_out)
    return Case(graph, (_rows(trace),), (trace.tokens,), own, values, has_saves, left_out)


def _left_out(told: str) -> tuple[str, ...]:
    """What does not run, in the words of `model.explain`."""
    lines = map(str.strip, told.rpartition("\nthe run\n")[2].split("\n"))
    found = [line for line in lines if line.startswith(_LEFT_OUT) and not line.endswith(_ALL)]
    used = _REWRITE.findall(told)
    return (*([f"rewritten by {', '.join(used)}"] if used else []), *found)


def _named(params: Any) -> dict[str, Any]:
    if params is None:
        return {}
    if not isinstance(params, Mapping) or not all(isinstance(name, str) for name in params):
        raise InputError(
            f"params= takes values by the params' names, not a {type(params).__name__}.\n"
            "  Write mg.benchmark(model, graph, x, params={'alpha': 0.5})."
        )
    return dict(params)


def _rows(trace: TraceLike) -> Any:
    """The token ids that a trace was given: as an array, or rows of several lengths."""
    assert trace.tokens is not None and trace.lengths is not None
    if len(set(trace.lengths)) == 1:
        return trace.tokens
    rows = zip(trace.tokens.tolist(), trace.lengths, strict=True)  # type: ignore[arg-type]
    return [row[len(row) - length :] for row, length in rows]  # type: ignore[index, misc]


def ways_of(model: Benchmarked, case: Case, traced: list[str]) -> dict[str, Callable[[], Any]]:
    """The ways by name.  Args: traced: grows whenever `mx.compile` traces the bare model."""
    module = model.module
    run = model.compile(case.graph)

    def block() -> Any:
        with model.trace(*case.inputs, graph=case.graph, params=case.params, **case.own) as trace:
            output = None if case.has_saves else model.output.save()
        return trace.saved_values if case.has_saves else output

    return {
        EAGER: lambda: module(*case.bare, **case.own),
        COMPILED: _bare_compiled(module, case, traced),
        BLOCK: block,
        PASS: lambda: run(*case.inputs, **case.own, **case.params),
    }


def _bare_compiled(module: Any, case: Case, traced: list[str]) -> Callable[[], Any]:
    """The module under `mx.compile`, its weights inputs as they are of any other compiled run.

    A trace that fails leaves tracers in the weights that it was told of, so it is tried first with
    the weights as constants; what cannot be compiled raises when it is called.
    """
    try:
        mx.compile(lambda *args, **kwargs: module(*args, **kwargs))(*case.bare, **case.own)
    except Exception as error:
        failure = error

        def failing() -> Any:
            raise failure

        return failing

    def counted(*args: Any, **kwargs: Any) -> Any:
        traced.append(COMPILED)
        return module(*args, **kwargs)

    compiled = mx.compile(counted, inputs=module.state)
    return lambda: compiled(*case.bare, **case.own)


def _about(model: Benchmarked, case: Case) -> dict[str, str]:
    """What was measured, and where."""
    given = ", ".join(str(value.shape) for value in arrays_in([*case.bare, case.own]))
    return {
        "model": type(model.module).__name__,
        "graph": repr(model.compile(case.graph).graph),
        "inputs": given or "no arrays",
        "device": str(mx.default_device().type.name),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "mlx": mx.__version__,
    }
