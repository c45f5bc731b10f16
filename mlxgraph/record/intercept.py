"""Interception: while a block is open, the functions of MLX notice proxies.

`mx.softmax(h)` would accept a proxy as the array it is, and compute with its placeholder.  So for
as long as any block is open in any thread, the functions of `mlx.core`, of its submodules and of
`mlx.nn` are replaced by ones that look at their arguments first: with a proxy among them they
record, without one they do what they always did.  With the last open block MLX's own come back.

Never: changes what a call without proxies returns.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

import mlx.core as mx

from mlxgraph.errors import EscapedError, LookError
from mlxgraph.errors.source_line import here
from mlxgraph.graph import ops
from mlxgraph.mlx_facts.exchange import (
    EVALUATE,
    FILES,
    PLACES,
    TRANSFORM,
    blocks,
    functions_in,
    set_recording,
    want,
    want_no_more,
)
from mlxgraph.mlx_facts.functions import holders
from mlxgraph.mlx_facts.modules import attach, twin_of
from mlxgraph.mlx_facts.modules import enter as enter_item
from mlxgraph.record import einops_backend, on_the_left  # noqa: F401 - guards plain arrays
from mlxgraph.record.apply import apply
from mlxgraph.record.array_type import STAND_IN
from mlxgraph.record.handle import handle_in
from mlxgraph.record.no_value import refuse_modules
from mlxgraph.record.proxy import Proxy
from mlxgraph.record.stack import current, enter, leave
from mlxgraph.record.view_functions import view_call


def _recorder(op: str, real: Callable[..., Any]) -> Callable[..., Any]:
    lifting = op in ops.LIFTS_NUMBERS

    def record(*args: Any, **kwargs: Any) -> Any:
        proxy = handle_in(args)
        if proxy is None and (not kwargs or (proxy := handle_in(kwargs.values())) is None):
            try:
                return real(*args, **kwargs)
            except (TypeError, ValueError):
                refuse_modules((*args, *kwargs.values()), op)
                raise
        recording = proxy._recording
        if recording is None:  # a nested value whose block is over: its arrays are real
            return real(*args, **kwargs)
        if lifting and not kwargs:
            return recording.arithmetic(op, args)
        return recording.call(op, args, kwargs)

    return record


def _viewer(op: str, real: Callable[..., Any]) -> Callable[..., Any]:
    record = _recorder(op, real)

    def view(*args: Any, **kwargs: Any) -> Any:
        if args and type(args[0]) is Proxy:
            return view_call(op, args[0], args[1:], kwargs)
        return record(*args, **kwargs)

    return view


def _drawer(op: str, real: Callable[..., Any]) -> Callable[..., Any]:
    at = ops.key_position(op)

    def draw(*args: Any, **kwargs: Any) -> Any:
        proxy = handle_in(args)
        if proxy is None:
            proxy = handle_in(kwargs.values())
        recording = proxy._recording if proxy is not None else current()
        if recording is None or (proxy is None and recording.is_compiling()):
            return real(*args, **kwargs)
        if len(args) > at and args[at] is not None:  # by name, as no number of a draw is
            named = {"key": args[at], **dict(zip(("stream",), args[at + 1 :], strict=False))}
            args, kwargs = args[:at], {**kwargs, **named}
        if kwargs.get("key") is not None:
            return recording.call(op, args, kwargs) if proxy is not None else real(*args, **kwargs)
        return recording.draw(op, args, kwargs)

    return draw


def _transformer(op: str, real: Callable[..., Any]) -> Callable[..., Any]:
    """`mx.grad` and its like, opened in a block: what they make may be called on proxies, which
    runs it as it is; a function that reaches for a proxy from inside is refused."""

    def transform(*args: Any, **kwargs: Any) -> Any:
        if current() is None or not args or not callable(args[0]):
            return real(*args, **kwargs)
        if handle_in(args[1:]) is not None:  # vjp and jvp take their arguments at once
            return apply(real, *args, **kwargs)
        made = real(_refusing(args[0], op), *args[1:], **kwargs)
        if not callable(made):
            return made

        def transformed(*inputs: Any, **named: Any) -> Any:
            if handle_in(inputs) is None and handle_in(named.values()) is None:
                return made(*inputs, **named)
            return apply(real(*args, **kwargs), *inputs, **named)

        return transformed

    return transform


def _refusing(function: Callable[..., Any], op: str) -> Callable[..., Any]:
    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if handle_in((result,)) is not None:
            raise EscapedError(
                str(here()),
                f"{op} cannot follow a value that is only recorded. Open the trace inside the"
                " function, take `t.grad(loss, h)`, or give the value as an argument.",
            )
        return result

    return checked


def _evaluator(real: Callable[..., Any]) -> Callable[..., Any]:
    def evaluate(*args: Any) -> None:
        """Proxies are left out: they are computed when the block is over."""
        real(*[value for value in args if handle_in((value,)) is None])

    return evaluate


def _refuser(op: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        if handle_in(args) is not None or handle_in(kwargs.values()) is not None:
            raise LookError(
                f"{op} needs values, and nothing has run yet.\n  at {here()}\n"
                "  Save the value with `.save()` and write it to disk after the block."
            )
        return real(*args, **kwargs)

    return refuse


def _wrapped(prefix: str, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    op = f"{prefix}.{name}"
    if prefix == "mx" and name in EVALUATE:
        wrapper = _evaluator(real)
    elif prefix == "mx" and name in TRANSFORM:
        wrapper = _transformer(op, real)
    elif prefix == "mx" and name in FILES:
        wrapper = _refuser(op, real)
    elif op in ops.DRAWS:
        wrapper = _drawer(op, real)
    elif op in ops.VIEWS:
        wrapper = _viewer(op, real)
    else:
        wrapper = _recorder(op, real)
    wrapper.__name__ = name
    wrapper.__qualname__ = op
    wrapper.__doc__ = real.__doc__
    wrapper.__wrapped__ = real  # type: ignore[attr-defined]
    return wrapper


_OURS: dict[int, Callable[..., Any]] = {}  # by the identity of MLX's own


def _tables() -> list[tuple[ModuleType, dict[str, Any]]]:
    """MLX's modules, and what stands for the names in each while a block is open."""
    wrappers = _OURS
    tables = []
    for namespace, prefix in PLACES:
        table: dict[str, Any] = {}
        for name, real in functions_in(namespace, prefix).items():
            if id(real) not in wrappers:
                wrappers[id(real)] = _wrapped(prefix, name, real)
            table[name] = wrappers[id(real)]
        if namespace is mx:
            table["array"] = STAND_IN
        tables.append((namespace, table))
    return tables


def _with_ours(real: Callable[..., Any]) -> Callable[..., Any]:
    """The call of a module that was given a function of MLX when it was made: on recorded values,
    of a copy that has ours in its place."""

    @wraps(real)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if handle_in(args) is None and handle_in(kwargs.values()) is None:
            return real(self, *args, **kwargs)
        twin = twin_of(self)
        for key, value in self.items():
            enter_item(twin, key, value)
        for name, value in list(vars(twin).items()):
            if id(value) in _OURS:
                attach(twin, name, _OURS[id(value)])
        return real(twin, *args, **kwargs)

    return call


_TABLES = _tables()
set_recording(_TABLES, [(kind, _with_ours(vars(kind)["__call__"])) for kind in holders()])
einops_backend.register()


class intercepted:  # noqa: N801 - used as a statement: `with intercepted(recording):`
    """Record into `recording` for as long as this is open, in this context.

    Args: statement: a weak reference to the user's `with` statement (`record.stack.Block`), where
        there is one: when it is over so is this, whatever kept `__exit__` from saying so.
    """

    __slots__ = ("_recording", "_watch")

    def __init__(self, recording: Any, statement: Any = None):
        self._recording = recording
        running = None if statement is None else statement()
        self._watch = None if running is None else weakref.ref(running, self._over)

    def __enter__(self) -> None:
        want(blocks, id(self._recording), self._recording)
        enter(self._recording)

    def __exit__(self, *error: Any) -> None:
        recording = self._recording
        recording.open = False
        want_no_more(blocks, id(recording))
        leave(recording)
        self._watch = None

    def _over(self, _: Any) -> None:
        self.__exit__()
        self._recording.close()
