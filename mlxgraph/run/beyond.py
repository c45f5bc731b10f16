"""Beyond the objects: what a model's code reaches by itself, and all copies of a module share.

Attributes of classes, defaults of methods, globals, and what `functools.lru_cache` keeps.  Of these
no forward gets a copy.  So what a forward changes there is put back when it is over; what they hold
is looked at before every run, as the modules' own settings are; and a forward that finds a module
there is not compiled, for no compiled run could be given that module's weights.

In: the classes and functions that a model holds.  Out: places to watch, `as_it_was()`, `reason()`.
Never: runs code of the user's.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import RLock
from types import FunctionType, ModuleType
from typing import Any

import mlx.nn as nn

from mlxgraph.mlx_facts.compiling import function_of
from mlxgraph.mlx_facts.functions import is_compiled
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.run.code import reads_of
from mlxgraph.run.moving import (
    CHANGEABLE,
    CONTAINERS,
    copied,
    is_iterator,
    items_of,
    put_back,
    state_of,
)
from mlxgraph.run.places import SlotsOf
from mlxgraph.run.twins import ATOMS, CACHED, SHARED, Twins

_BEFORE = frozenset("__init__ __new__ __init_subclass__ __post_init__ __repr__ __eq__".split())
_OF_CLASSES = frozenset(
    "__module__ __qualname__ __doc__ __dict__ __weakref__ __annotations__".split()
)
DEEPEST = 4  # of nested results in a cache
_LOCK = RLock()  # what is shared is one forward's at a time
_NOTHING: AbstractContextManager[None] = nullcontext()
_MISSING = object()
_OUTSIDE = "is no part of the model, and its weights may change"


class Beyond:
    """What a model's code reaches past its objects.

    Attributes:
        settings: `(owner, key, value)` of values that are the same as long as the model is.
        constants: `(owner, key)` of arrays.
        holders: containers whose lengths count too.
        moving: what moves on where it stands (`run.moving`).
    """

    def __init__(self, kinds: Iterable[type], functions: Iterable[Any], caches: Iterable[Any]):
        self.settings: list[tuple[Any, Any, Any]] = []
        self.constants: list[tuple[Any, Any]] = []
        self.holders: list[Any] = []
        self._module = ""  # where one was found
        self._caches = list(caches)
        self._seen: set[int] = set()
        self._kept: list[Any] = []  # what an id was taken of
        self._classes: list[type] = []
        self._spoken: set[str] = set()
        self._writes_classes = False
        self._written: dict[tuple[int, str], dict[str, Any]] = {}  # globals
        self._members: list[tuple[type, str, Any]] = []
        self._found = Twins()
        self._captured = Twins()  # by methods: whoever watches a class counts and notes there
        self._iterators: list[tuple[Any, str]] = []
        for kind in kinds:
            self._class(kind)
        for function in functions:
            self._function(function, copied=True)
        self._data()
        self.moving = [
            *self._found.moved,
            *(_names(owner)[name] for owner, name in self._iterators),
        ]
        self._changeable = [*_changeable(self._found)]
        self._notes = [v for v in _changeable(self._captured) if isinstance(v, CONTAINERS)]
        self._moves = bool(
            self._changeable
            or self._notes
            or self._writes_classes
            or self._written
            or self._iterators
        )

    # -- the walk ---------------------------------------------------------------------------------

    def _once(self, value: Any) -> bool:
        if id(value) in self._seen:
            return False
        self._seen.add(id(value))
        self._kept.append(value)
        return True

    def _class(self, kind: type) -> None:
        for base in kind.__mro__:
            if not _is_foreign(base.__module__) and self._once(base):
                self._classes.append(base)
                fields = vars(base).get("__dataclass_fields__", ())
                self._members += [
                    (base, name, member)
                    for name, member in vars(base).items()
                    if name not in _BEFORE and name not in _OF_CLASSES and name not in fields
                ]

    def _function(self, value: Any, copied: bool = False) -> None:
        """Args: copied: whether each forward has its own, with what it captured."""
        if is_compiled(value):
            value = function_of(value)
        if type(value) is CACHED:
            if self._once(value):
                self._caches.append(value)
            value = value.__wrapped__
        if type(value) is not FunctionType or _is_foreign(value.__module__ or ""):
            return
        if not self._once(value):
            return
        names, reads = value.__globals__, reads_of(value.__code__)
        self._spoken |= reads.spoken
        self._written |= {(id(names), name): names for name in reads.stored}
        loaded = [(names, name) for name in reads.loaded if name in names]
        owners = (names.get(name) for name in reads.owners)
        if reads.of_classes or any(isinstance(owner, type) for owner in owners):
            self._writes_classes = True
        for owner, name in loaded:
            self._global(owner, name, reads.spoken)
        if copied:
            return
        for given in (value.__defaults__ or (), (value.__kwdefaults__ or {}).values()):
            for item in given:
                self._value(item, f"a default of {value.__name__}")
        for cell in value.__closure__ or ():
            try:
                captured = f"what {value.__name__} captured"
                self._value(cell.cell_contents, captured, self._captured)
            except ValueError:  # a name that was never assigned
                continue

    def _global(self, owner: dict[str, Any], name: str, spoken: frozenset[str]) -> None:
        value = owner[name]
        if isinstance(value, ModuleType):
            if value.__name__.partition(".")[0] == owner["__name__"].partition(".")[0]:
                for inner in spoken & vars(value).keys():
                    if not isinstance(vars(value)[inner], ModuleType):
                        self._global(vars(value), inner, spoken)
        elif isinstance(value, type):
            self._class(value)
        elif type(value) is FunctionType or type(value) is CACHED or is_compiled(value):
            self._function(value)
        else:
            self._held(owner, name, value, f"the global {name}")

    def _member(self, kind: type, name: str, value: Any) -> None:
        functions = [*_functions_in(value)]
        for function in functions:
            self._function(function)
        if functions:
            self.settings.append((vars(kind), name, value))
        elif not name.startswith("__"):
            self._held(kind, name, value, f"{kind.__name__}.{name}")

    def _held(self, owner: Any, name: str, value: Any, what: str) -> None:
        """A value that classes or modules of Python hold by name."""
        names = vars(owner) if isinstance(owner, type) else owner
        if isinstance(value, ARRAY):
            self.constants.append((names, name))
        elif is_iterator(type(value)):
            self._iterators.append((owner, name))
            return
        else:
            self.settings.append((names, name, value))
        self._value(value, what)

    def _value(self, value: Any, what: str, found: Twins | None = None) -> None:
        if type(value) in ATOMS or isinstance(value, (type, ModuleType)):
            return
        if isinstance(value, (FunctionType, CACHED)):
            self._function(value)
            return
        found = self._found if found is None else found
        before = len(found.kinds)
        found.of(value)
        if len(found.kinds) > before and not self._module:
            if any(issubclass(kind, nn.Module) for kind in found.kinds):
                self._module = what

    def _data(self) -> None:
        """The attributes that the code speaks of, and the code of what is found there."""
        while True:
            spoken = [m for m in self._members if m[1] in self._spoken or m[1].startswith("__")]
            for member in spoken:
                self._members.remove(member)
                self._member(*member)
            before = len(self._seen)
            for kind in list(self._found.kinds):
                self._class(kind)
            for function in list(self._found.functions):
                self._function(function, copied=True)
            if not spoken and len(self._seen) == before:
                break
        if self._writes_classes:  # one that is new is seen by their number
            self.holders += map(vars, self._classes)
        for holder in self._found.holders:
            self.holders.append(holder)
            items = holder.items() if hasattr(holder, "items") else enumerate(holder)
            for key, item in items:
                if isinstance(item, ARRAY):
                    self.constants.append((holder, key))
                else:
                    self.settings.append((holder, key, item))

    # -- what comes of it -------------------------------------------------------------------------

    def reason(self) -> str:
        """Why no forward may be compiled; nothing where one may."""
        if self._module:
            return f"{self._module} {_OUTSIDE}"
        for cache in self._caches:
            if _keeps_modules(cache):
                name = getattr(cache, "__name__", "a function")
                return f"a module in the cache of {name} {_OUTSIDE}"
        return ""

    def as_it_was(self) -> AbstractContextManager[None]:
        """A block after which everything here is as it was before."""
        return self._put_back() if self._moves else _NOTHING

    @contextmanager
    def _put_back(self) -> Iterator[None]:
        with _LOCK:
            states = [(value, state_of(value)) for value in self._changeable]
            notes = [(value, state_of(value)) for value in self._notes]
            classes = self._classes if self._writes_classes else []
            members = [(kind, dict(vars(kind))) for kind in classes]
            named = [(s, n, s.get(n, _MISSING)) for (_, n), s in self._written.items()]
            moving = [(o, n, copied(_names(o)[n], _itself)) for o, n in self._iterators]
            try:
                yield
            finally:
                for value, state in states:
                    put_back(value, state)
                for value, state in notes:
                    if any(map(_is_array, items_of(value))):  # tracers, maybe
                        put_back(value, state)
                for kind, held in members:
                    _restore(kind, held)
                for owner, name, value in (*named, *moving):
                    _put(owner, name, value)


def _is_foreign(module: str) -> bool:
    package = module.partition(".")[0]
    return package in SHARED or package in sys.stdlib_module_names


def _functions_in(member: Any) -> Iterator[Any]:
    """The functions that an attribute of a class is, or is made of."""
    inner = (getattr(member, name, None) for name in ("__func__", "fget", "fset", "func"))
    for value in (member, *inner):
        if type(value) in (FunctionType, CACHED) or is_compiled(value):
            yield value


def _changeable(found: Twins) -> Iterator[Any]:
    """What may be changed in place, of all that was found."""
    for value in found.copied():
        if isinstance(value, (*CHANGEABLE, ARRAY)):
            yield value
        if isinstance(value, nn.Module):
            yield vars(value)
    for holder in found.holders:
        if isinstance(holder, SlotsOf) or not isinstance(holder, nn.Module):
            yield holder


def _keeps_modules(cache: Any) -> bool:
    """Python's garbage collector is told what a cached function keeps."""
    kept = gc.get_referents(cache)
    return any(_holds_module(one, 0) for one in kept if type(one) is not FunctionType)


def _holds_module(value: Any, depth: int) -> bool:
    if isinstance(value, nn.Module):
        return True
    items = value.values() if type(value) is dict else value
    return (
        depth < DEEPEST
        and type(value) in (dict, list, tuple)
        and any(_holds_module(item, depth + 1) for item in items)
    )


def _is_array(value: Any) -> bool:
    return isinstance(value, ARRAY)


def _itself(value: Any) -> Any:
    return value


def _names(owner: Any) -> Any:
    return vars(owner) if isinstance(owner, type) else owner


def _put(owner: Any, name: str, value: Any) -> None:
    if isinstance(owner, type):
        type.__setattr__(owner, name, value)
    elif value is not _MISSING:
        owner[name] = value
    else:
        owner.pop(name, None)


def _restore(kind: type, held: dict[str, Any]) -> None:
    """Give a class the attributes that it had, and its stand-ins none."""
    for own in (kind, *type.__subclasses__(kind)):
        if own is kind or Silent in own.__bases__:
            before = held if own is kind else {}
            for name, value in list(vars(own).items()):
                if not name.startswith("__") and before.get(name, _MISSING) is not value:
                    if name in before:
                        type.__setattr__(own, name, before[name])
                    elif not name.startswith("_abc_"):
                        type.__delattr__(own, name)
            for name in before.keys() - vars(own).keys():
                type.__setattr__(own, name, before[name])


class Silent:
    """A base that keeps a subclass's making from the class that it is made of."""

    __slots__ = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        pass
