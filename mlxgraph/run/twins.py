"""Twins: copies of all that a forward may go through or change, so that nothing of the user's is.

A model reaches its modules, arrays and state in many ways besides its tree: by helper objects,
closures, bound methods, weak references, caches of functions.  Whatever is reached from the copied
modules is copied with them, once each, and refers to the copies; arrays are other array objects on
the same data.  What a copy could not stand in for is shared: classes, modules of Python, functions
and immutable values that hold nothing of this, objects of the standard library and of C.

In: arrays to use in place of the live ones.  Out: `of(value)`.  Never: runs code of the user's.
"""

from __future__ import annotations

import sys
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from enum import Enum
from functools import lru_cache, partial
from types import (
    BuiltinMethodType,
    CellType,
    FunctionType,
    MappingProxyType,
    MethodType,
    SimpleNamespace,
)
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxgraph.mlx_facts.arrays import same_data
from mlxgraph.mlx_facts.compiling import function_of
from mlxgraph.mlx_facts.functions import COMPILED
from mlxgraph.mlx_facts.modules import NO_GRAD, enter, twin_of
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.run.moving import BUFFERS, DRAWING, copied, is_iterator
from mlxgraph.run.places import CellOf, SlotsOf, place, slots

LARGEST_COPIED = 10_000  # entries of a container that holds nothing but numbers and texts
ATOMS = frozenset({int, float, bool, complex, str, bytes, type(None), type, type(Ellipsis)})
_MAPPINGS = (OrderedDict, defaultdict, dict)
_SEQUENCES = (list, deque, set)
CACHED = type(lru_cache(abs))
# Packages whose objects are shared: of these none is state of a forward, and some are large.
SHARED = frozenset("mlxgraph transformers tokenizers huggingface_hub numpy torch mlx".split())
_OF_PYTHON = frozenset({"collections", "types"})


class Twins:
    """The copies for one forward.

    Args: weights: `((owner, key), array)` for the arrays to use in place of the live ones.
    """

    def __init__(self, weights: Iterable[tuple[tuple[Any, Any], mx.array]] = ()):
        self._twins: dict[int, Any] = {}
        self._kept: list[Any] = []  # what an id was taken of must live as long as the id counts
        self.held: list[Any] = []  # what only weak references may lead to
        self.places: list[tuple[Any, Any]] = []  # where arrays are: an owner and a key
        self.holders: list[Any] = []  # the owners that are no modules
        self.kinds: set[type] = set()  # of modules and of objects of the user's classes
        self.functions: list[FunctionType] = []
        self.caches: list[Any] = []  # those that are shared
        self.moved: list[Any] = []  # what moves on where it stands (`run.moving`)
        self._weights: dict[tuple[int, Any], mx.array] = {}
        for (owner, key), array in weights:  # by place: two places may hold one array for now
            array = same_data(array)  # one tracer may serve several forwards of one pass
            self._weights[place(owner), key] = array
            live = owner[key]
            if id(live) not in self._twins:
                self._keep(live, array)

    def known(self, value: Any) -> Any:
        """The copy that was made of a value.  Raises: KeyError where none was."""
        return self._twins[id(value)]

    def copied(self) -> list[Any]:
        """What copies were made of."""
        return list(self._kept)

    def of(self, value: Any) -> Any:
        """A value's copy; the value itself where there is nothing to copy."""
        kind = type(value)
        if kind in ATOMS:
            return value
        twin = self._twins.get(id(value), self)
        if twin is not self:
            return twin
        make = _maker(kind)  # type: ignore[arg-type]
        return value if make is None else make(self, value)

    def _keep(self, value: Any, twin: Any) -> Any:
        self._twins[id(value)] = twin
        self._kept.append(value)
        return twin

    def _entry(self, owner: Any, key: Any, value: Any) -> Any:
        if not isinstance(value, ARRAY):
            return self.of(value)
        self.places.append((owner, key))
        given = self._weights.get((place(owner), key)) if self._weights else None
        return self.of(value) if given is None else given

    # -- how each kind is copied ------------------------------------------------------------------

    def array(self, value: mx.array) -> mx.array:
        return self._keep(value, same_data(value))

    def module(self, value: nn.Module) -> Any:
        self.kinds.add(type(value))
        twin = self._keep(value, twin_of(value))
        for key, item in value.items():
            enter(twin, key, self._entry(value, key, item))
        own = twin.__dict__
        for name, item in value.__dict__.items():
            if name != NO_GRAD and type(item) not in ATOMS:
                # past `nn.Module.__setattr__`: shared with whoever put it there, as a rule
                shared = type(item) in (list, dict)
                own[name] = (
                    self.reaching(item) if shared else self._entry(value.__dict__, name, item)
                )
        self._fill_slots(value, twin)
        return twin

    def mapping(self, value: Any) -> Any:
        if is_plain_data(dict.values(value)):
            return value
        self.holders.append(value)
        base = next(base for base in _MAPPINGS if isinstance(value, base))
        twin = self._keep(value, base.__new__(type(value)))
        if base is defaultdict:
            twin.default_factory = self.of(value.default_factory)
        for key, item in dict.items(value):
            base.__setitem__(twin, self.of(key), self._entry(value, key, item))
        self._fill(value, twin)
        return twin

    def sequence(self, value: Any) -> Any:
        if is_plain_data(value):
            return value
        base = next(base for base in _SEQUENCES if isinstance(value, base))
        if base is not set:
            self.holders.append(value)
        twin = self._keep(value, base.__new__(type(value)))
        if base is deque and value.maxlen is not None:
            deque.__init__(twin, maxlen=value.maxlen)
        items = list(base.__iter__(value))
        if base is set:
            items = [self.of(item) for item in items]
        else:
            items = [self._entry(value, k, item) for k, item in enumerate(items)]
        fill: Any = set.update if base is set else base.extend  # type: ignore[union-attr]
        fill(twin, items)
        self._fill(value, twin)
        return twin

    def tuple(self, value: Any) -> Any:
        items = [self._entry(value, k, item) for k, item in enumerate(tuple.__iter__(value))]
        if all(map(_is, items, tuple.__iter__(value))):
            return value
        return self._keep(value, tuple.__new__(type(value), items))

    def frozenset(self, value: Any) -> Any:
        items = [self.of(item) for item in value]
        same = all(map(_is, items, value))
        return value if same else self._keep(value, frozenset.__new__(type(value), items))

    def object(self, value: Any) -> Any:
        self.kinds.add(type(value))
        base = SimpleNamespace if isinstance(value, SimpleNamespace) else object
        twin = self._keep(value, base.__new__(type(value)))
        self._fill(value, twin)
        return twin

    def _fill(self, value: Any, twin: Any) -> None:
        own = getattr(value, "__dict__", None)
        if own is not None:
            self.holders.append(own)
            filled = twin.__dict__
            for name, item in own.items():
                filled[name] = self._entry(own, name, item)
        self._fill_slots(value, twin)

    def _fill_slots(self, value: Any, twin: Any) -> None:
        if slots(type(value)):  # type: ignore[arg-type]
            held = SlotsOf(value)
            self.holders.append(held)
            for slot, item in held.items():
                slot.__set__(twin, self._entry(held, slot, item))

    def moving(self, value: Any) -> Any:
        self.moved.append(value)
        return self._keep(value, copied(value, self.of))

    # -- functions and references: copied where what they hold is ---------------------------------

    def reaching(self, value: Any) -> Any:
        """A container's copy if anything in it has one: else it is shared."""
        if type(value) is dict:
            items = {key: self.reaching(item) for key, item in value.items()}
            return value if all(map(_is, items.values(), value.values())) else items
        if type(value) is list:
            listed = [self.reaching(item) for item in value]
            return value if all(map(_is, listed, value)) else listed
        return (
            value if isinstance(value, ARRAY) and id(value) not in self._twins else self.of(value)
        )

    def _captured(self, owner: Any, key: Any, value: Any) -> Any:
        """What a function holds: an array in a place of its own, whatever else holds it too."""
        return self._entry(owner, key, value) if isinstance(value, ARRAY) else self.reaching(value)

    def function(self, value: FunctionType) -> Any:
        self.functions.append(value)
        if not (value.__closure__ or value.__defaults__ or value.__kwdefaults__ or value.__dict__):
            return value
        cells = [CellType() for _ in value.__closure__ or ()]
        twin = self._keep(
            value,
            FunctionType(
                value.__code__, value.__globals__, value.__name__, None, tuple(cells) or None
            ),
        )
        old, new = [value], [value]
        for cell, own in zip(cells, value.__closure__ or (), strict=True):
            try:
                content = own.cell_contents
            except ValueError:  # a name that was never assigned
                continue
            cell.cell_contents = self._captured(CellOf(own), 0, content)
            old.append(content)
            new.append(cell.cell_contents)
        given, named = value.__defaults__, value.__kwdefaults__
        twin.__defaults__ = given and tuple(
            [self._captured(given, k, item) for k, item in enumerate(given)]
        )
        twin.__kwdefaults__ = named and {
            name: self._captured(named, name, item) for name, item in named.items()
        }
        twin.__dict__.update({name: self.reaching(item) for name, item in vars(value).items()})
        twin.__qualname__, twin.__doc__ = value.__qualname__, value.__doc__
        for one, other in ((value, old), (twin, new)):
            other += one.__defaults__ or ()
            other += (one.__kwdefaults__ or {}).values()
            other += vars(one).values()
        if all(b is a or b is twin for a, b in zip(old, new, strict=True)):
            self._twins[id(value)] = value
            return value
        return twin

    def method(self, value: MethodType) -> Any:
        function, owner = self.of(value.__func__), self.of(value.__self__)
        if function is value.__func__ and owner is value.__self__:
            return value
        return MethodType(function, owner)

    def builtin(self, value: BuiltinMethodType) -> Any:
        owner = value.__self__
        twin = owner if owner is None or isinstance(owner, type(sys)) else self.of(owner)
        return value if twin is owner else getattr(twin, value.__name__)

    def partial(self, value: partial) -> Any:
        items = (value.func, *value.args, *value.keywords.values())
        mine = [self.reaching(item) for item in items]
        if all(map(_is, mine, items)):
            return value
        positional = mine[1 : 1 + len(value.args)]
        named = dict(zip(value.keywords, mine[1 + len(value.args) :], strict=True))
        return self._keep(value, type(value)(mine[0], *positional, **named))

    def cached(self, value: Any) -> Any:
        """`functools.lru_cache`: without what it holds, which is of other arrays."""
        function = value.__wrapped__
        twin = self.of(function)
        if twin is function:
            self.caches.append(value)
            return value
        return self._keep(value, lru_cache(**value.cache_parameters())(twin))

    def compiled(self, value: Any) -> Any:
        """What `mx.compile` made of a function that holds modules: the function, not compiled, for
        no value could get out of it."""
        function = function_of(value)
        twin = self.of(function)
        return value if twin is function else self._keep(value, twin)

    def reference(self, value: weakref.ref) -> Any:
        aim = value()
        twin = aim if aim is None else self.of(aim)
        self.held.append(twin)
        return value if twin is aim else self._keep(value, weakref.ref(twin))

    def proxy(self, value: Any) -> Any:
        aim = aim_of(value)
        if aim is value:
            return value
        twin = self.of(aim)
        self.held.append(twin)
        return value if twin is aim else self._keep(value, weakref.proxy(twin))

    def read_only(self, value: MappingProxyType) -> Any:
        return self._keep(value, MappingProxyType(self.of(dict(value))))

    def weak_values(self, value: weakref.WeakValueDictionary) -> Any:
        items = {key: self.of(item) for key, item in value.items()}
        self.held += items.values()
        twin = weakref.WeakValueDictionary(items)
        return self._keep(value, twin)


PROXIES = (weakref.ProxyType, weakref.CallableProxyType)


def aim_of(proxy: Any) -> Any:
    """What a weak proxy stands for; itself where that is gone."""
    try:
        return proxy.__repr__.__self__
    except ReferenceError:
        return proxy


def _is(a: Any, b: Any) -> bool:
    return a is b


def is_plain_data(values: Any) -> bool:
    """Whether a container is large and holds nothing but numbers and texts, as vocabularies do."""
    return len(values) > LARGEST_COPIED and set(map(type, values)) <= ATOMS


_MAKERS: tuple[tuple[Any, Callable[[Twins, Any], Any]], ...] = (
    (nn.Module, Twins.module),
    (ARRAY, Twins.array),
    (dict, Twins.mapping),
    (_SEQUENCES, Twins.sequence),
    (tuple, Twins.tuple),
    (frozenset, Twins.frozenset),
    (MethodType, Twins.method),
    (BuiltinMethodType, Twins.builtin),
    (partial, Twins.partial),
    (CACHED, Twins.cached),
    (weakref.ref, Twins.reference),
    (PROXIES, Twins.proxy),
    (weakref.WeakValueDictionary, Twins.weak_values),
    (MappingProxyType, Twins.read_only),
    ((*BUFFERS, *DRAWING), Twins.moving),
)


@lru_cache(maxsize=4096)
def _maker(kind: type) -> Callable[[Twins, Any], Any] | None:
    """How values of a type are copied; None for what is shared."""
    if kind is FunctionType:  # a compiled function passes for an instance of it
        return Twins.function
    if kind is COMPILED:
        return Twins.compiled
    for kinds, make in _MAKERS:
        if issubclass(kind, kinds):
            return make
    if is_iterator(kind):
        return Twins.moving
    return Twins.object if _is_of_the_user(kind) else None


def _is_of_the_user(kind: type) -> bool:
    package = kind.__module__.partition(".")[0]
    if package in SHARED or (package in sys.stdlib_module_names and package not in _OF_PYTHON):
        return False
    if issubclass(kind, (type, BaseException, Enum)) or hasattr(kind, "__del__"):
        return False
    for base in (object, SimpleNamespace):
        try:
            made = base.__new__(kind)
        except TypeError:
            continue
        return hasattr(made, "__dict__") or bool(slots(kind))  # type: ignore[arg-type]
    return False
