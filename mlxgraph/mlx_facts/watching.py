"""Watching: who calls MLX's functions while a forward runs.

For as long as any forward is watched in any thread, the functions of `mlx.core` and `mlx.nn` tell
the watch of their own thread that they were called, and let it answer; in a thread without one
they do what they always did.  Beside MLX's own places more are reached: names in the modules of a
model's own code (`from mlx.core import softmax`, and helpers under `@mx.compile`), and what modules
and their classes hold as attributes; there in lists, tuples, dicts and `partial` as well.

A helper that a model compiles is one function, and what it calls inside is not told: its Python
runs only when MLX traces it, and what was answered there would stay in it.  Nor is what a function
under `mx.vmap` calls: its arrays are of one row, and gone when it is over.

Whether a forward is watched is looked up on the call stack, so an interrupt leaves nothing behind.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, Protocol

import mlx.nn as nn

from mlxgraph.mlx_facts import exchange
from mlxgraph.mlx_facts.compiling import compiled_codes
from mlxgraph.mlx_facts.exchange import EVALUATE, FILES, PLACES, TRANSFORM, functions_in
from mlxgraph.mlx_facts.functions import is_compiled
from mlxgraph.mlx_facts.modules import attach, enter
from mlxgraph.mlx_facts.originals import vmap as _vmap
from mlxgraph.mlx_facts.turns import Turns

ATTENTION = "fast.scaled_dot_product_attention"
QUANTIZED_ATTENTION = "quantized_scaled_dot_product_attention"
_NOT_OPERATIONS = EVALUATE | FILES | TRANSFORM
_OWN = ("mlx", "mlxgraph", "builtins")  # packages whose names are left alone
_NAMED = (tuple,)  # of the containers that a module of Python holds: they cannot change
_FEW = 64  # entries of a list or a dict that may be a table of functions


class Watch(Protocol):
    """What is told of the calls of its thread."""

    def operation(
        self, name: str, real: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        """What the call of a function gives."""


class _Watching(threading.local):
    frame: FrameType | None = None  # from there down the watched forward runs
    watch: Any = None


_here = _Watching()
_compiled: set[CodeType] = set()  # of functions that were compiled, wherever they are kept
_turns = Turns()
_by_real: dict[int, Callable[..., Any]] = {}  # by the identity of MLX's own, or of a helper
_helpers: list[Any] = []  # kept, so that their identities stay theirs
_seen_modules: set[str] = set()


def operation_names() -> dict[int, str]:
    """What MLX's functions are called as operations, by their identity.

    `mx.softmax` is `softmax`, `mx.fast.rope` is `fast.rope`, `nn.silu` is `silu`; a function of
    `nn` whose name one of `mx` has is `nn.softmax`.  One that has several names goes by its own.
    """
    return {known: names[0] for known, names in _names().items()}


@lru_cache(maxsize=1)
def other_names() -> dict[str, str]:
    """Names of operations that are listed under others: `concat` is `concatenate`."""
    return {other: first for first, *others in _names().values() for other in others}


@lru_cache(maxsize=1)
def _names() -> dict[int, list[str]]:
    """The names of each function, the one that it is listed under first."""
    found: dict[int, list[str]] = {}
    taken: set[str] = set()
    for namespace, prefix in PLACES:
        inner = prefix.partition(".")[2]
        for name, real in functions_in(namespace, prefix).items():
            if prefix == "mx" and name in _NOT_OPERATIONS:
                continue
            full = f"{inner}.{name}" if inner else name
            mine = found.setdefault(id(real), [])
            if not {full, f"nn.{full}"} & {*mine}:
                full = f"nn.{full}" if full in taken else full
                is_own = name == getattr(real, "__name__", "")
                mine.insert(0 if is_own else len(mine), full)
                taken.add(full)
    return found


def _watched(name: str, real: Any, below: Callable[..., Any]) -> Callable[..., Any]:
    """A function that tells the watch.  Args: below: what is called where nobody watches."""

    def call(*args: Any, **kwargs: Any) -> Any:
        watch = _here.watch
        if watch is None or not _is_on_stack():
            return below(*args, **kwargs)
        return watch.operation(name, real, args, kwargs)

    call.__name__ = name.rpartition(".")[2]
    call.__qualname__ = name
    call.__doc__ = getattr(real, "__doc__", None)
    call.__wrapped__ = real  # type: ignore[attr-defined]
    return call


def is_in_compiled(frame: FrameType | None, end: CodeType) -> bool:
    """Whether a compiled function runs between a frame and the next one of some code."""
    while frame is not None and frame.f_code is not end:
        if frame.f_code in _compiled:
            return True
        frame = frame.f_back
    return False


def is_in_vmap(frame: FrameType | None) -> bool:
    """Whether a function runs for one row, somewhere above a frame of the watched forward."""
    while frame is not None and frame is not _here.frame:
        if frame.f_code is _ONE_ROW:
            return True
        frame = frame.f_back
    return False


def _seen_in_vmap(below: Callable[..., Any]) -> Callable[..., Any]:
    """`mx.vmap`, of functions that are seen on the stack while they run for one row."""

    def vmap(fun: Any, *args: Any, **kwargs: Any) -> Any:
        return below(partial(_of_one_row, fun) if callable(fun) else fun, *args, **kwargs)

    vmap.__wrapped__ = below  # type: ignore[attr-defined]
    return vmap


def _of_one_row(fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return fun(*args, **kwargs)


_ONE_ROW = _of_one_row.__code__


def _is_on_stack() -> bool:
    watching = _here.frame
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame is watching:
            return True
        frame = frame.f_back
    _here.frame = _here.watch = None
    return False


def _prepare() -> None:
    """Once for the process: what every function of MLX is while a forward is watched."""

    def prepare() -> None:
        if _by_real:
            return
        names = operation_names()
        made: dict[int, Callable[..., Any]] = {}

        def watching(own: Any, recording: Any) -> Any:
            name = names.get(id(own))
            if own is _vmap:
                return made.setdefault(id(own), _seen_in_vmap(recording))
            if name is None:
                return recording
            if id(own) not in made:
                made[id(own)] = _watched(name, own, recording)
            return made[id(own)]

        exchange.set_matmul(lambda own: _watched("matmul", own, own))
        exchange.set_watching(watching)
        _by_real.update(made)

    _turns.alone(prepare)


def reach(packages: Iterable[str]) -> None:
    """Reach the functions that the loaded modules of some packages hold by name, from now on, and
    know those that are compiled."""
    _prepare()
    _compiled.update(compiled_codes())
    tops = {name.partition(".")[0] for name in packages} - {*_OWN}

    def look() -> None:
        found: list[tuple[dict, dict]] = []
        for name, module in [*sys.modules.items()]:
            if name in _seen_modules or name.partition(".")[0] not in tops:
                continue
            _seen_modules.add(name)
            if isinstance(module, ModuleType):
                dicts = [value for value in [*vars(module).values()] if type(value) is dict]
                found += [(held, _held_by(held)) for held in (vars(module), *dicts)]
        if any(names for _, names in found):
            exchange.exchange_too([(held, names) for held, names in found if names])

    _turns.alone(look)


def _held_by(held: dict[Any, Any]) -> dict[Any, Any]:
    """The keys under which functions of MLX stand, or what `mx.compile` made of a model's own.

    What it gives stands there until the next one is open, so that lists and dicts, which may
    change, are left out: dicts are asked for on their own account.
    """
    found = {}
    for name, value in [*held.items()]:
        told = _telling(value, str(name), _NAMED)
        if told is not None:
            found[name] = told
    return found


def _telling(value: Any, name: str, kinds: Any = (tuple, list, dict), depth: int = 0) -> Any:
    """A value with functions in it that tell the watch; None for one that has none.

    Args: name: what it goes by, for a function without a name; kinds: of containers to look into.
    """
    if id(value) in _by_real:
        return _by_real[id(value)]
    if is_compiled(value) or _is_attention(value):
        return _helper(value, name, keep=kinds is _NAMED)
    if type(value) is partial:
        function = _telling(value.func, name, kinds)
        return function and partial(function, *value.args, **value.keywords)
    if type(value) not in kinds or depth > 1 or len(value) > _FEW:
        return None
    items = value.values() if type(value) is dict else value
    told = [_telling(item, name, kinds, depth + 1) for item in items]
    if not any(one is not None for one in told):
        return None
    parts = [own if one is None else one for own, one in zip(items, told, strict=True)]
    return dict(zip(value, parts, strict=True)) if type(value) is dict else type(value)(parts)


def _is_attention(value: Any) -> bool:
    """mlx-lm's attention on a quantised cache is written in Python, and is a kernel to a model."""
    named = type(value) is FunctionType and value.__name__ == QUANTIZED_ATTENTION
    return named and value.__module__ == "mlx_lm.models.base"


def _helper(compiled: Any, given: str, keep: bool) -> Callable[..., Any]:
    """A compiled function of a model's own, as one operation by its name.

    Args: keep: of what a module of Python holds by name.  What a model holds goes with the model.
    """
    name = getattr(compiled, "__name__", "")
    if not name.isidentifier():  # a lambda
        name = given if given.isidentifier() else "compiled"
    if name in operation_names().values():
        name = f"{getattr(compiled, '__module__', '').rpartition('.')[2] or 'own'}.{name}"
    made = _watched(name, compiled, compiled)
    if keep:
        _helpers.append(compiled)
        _by_real[id(compiled)] = made
    return made


def reach_attributes(modules: Iterable[nn.Module]) -> None:
    """Reach the functions of MLX that modules hold as attributes.  They are to be copies."""
    for module in modules:
        own = {**_of_class(type(module)), **vars(module)}  # type: ignore[arg-type]
        for name, value in own.items():
            told = _telling(value, name)
            if told is not None:
                attach(module, name, told)
        for name, value in [*module.items()]:
            told = _telling(value, name)
            if told is not None:
                enter(module, name, told)


def _of_class(kind: type) -> dict[str, Any]:
    """What a model's own classes hold and their objects do not get as methods."""
    found: dict[str, Any] = {}
    for base in kind.__mro__[::-1]:
        if base.__module__.partition(".")[0] not in _OWN:
            for name, value in vars(base).items():
                value = value.__func__ if type(value) is staticmethod else value
                if not name.startswith("__") and type(value) is not FunctionType:
                    found[name] = value
    return found


def _end(key: int) -> None:
    exchange.want_no_more(exchange.watches, key)
    _over.pop(key, None)


_over: dict[int, Any] = {}  # weak references to what is open, to be told when it is gone


class watched:  # noqa: N801 - used as a statement: `with watched(watch):`
    """Tell a watch of every call in this thread, for as long as this is open."""

    __slots__ = ("_watch", "_before", "__weakref__")

    def __init__(self, watch: Watch):
        self._watch = watch

    def __enter__(self) -> None:
        key = id(self)
        self._before = (_here.frame, _here.watch)
        # The statement keeps this: when it is over so is the exchange, whatever ended it.
        _over[key] = weakref.ref(self, lambda _: _end(key))
        exchange.want(exchange.watches, key, True)
        _here.frame, _here.watch = sys._getframe(1), self._watch

    def __exit__(self, *error: object) -> None:
        _here.frame, _here.watch = self._before
        exchange.want_no_more(exchange.watches, id(self))
