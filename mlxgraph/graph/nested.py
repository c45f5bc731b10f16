"""Nested values: the tuples, lists, dicts and objects that hold the arrays modules take and return.

Pure shape work.  The type of a value decides what it is, and this page knows nothing of arrays but
that they have a shape and a dtype:

    a container   tuples, lists, dicts and their subclasses; dataclasses and SimpleNamespaces;
                  objects of a plain class, once one of them was seen to hold arrays
    a leaf        everything else: arrays and numbers, modules (dicts to Python), and objects of
                  a plain class that can be called or change themselves by methods, as caches do
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from functools import cached_property
from inspect import getattr_static
from types import SimpleNamespace
from typing import Any, NamedTuple

from mlxgraph.graph.stateful import changes_itself

MOST_TYPES = 2048
# What a class of plain values has no use for: it says that an object does something.
_DOES = "__call__ __setitem__ __next__ __enter__ __aenter__ __del__ __array__ __get__".split()


class Form(NamedTuple):
    """How the values of one type are taken apart and put together again."""

    entries: Callable[[Any], list[tuple[Any, Any]]]
    rebuilt: Callable[[Any, list[Any]], Any]
    is_object: bool = False
    is_value: bool = True  # not an object that may be somebody's state


# -- the forms ------------------------------------------------------------------------------------


def _numbered(value: Any) -> list[tuple[Any, Any]]:
    return list(enumerate(tuple.__iter__(value) if isinstance(value, tuple) else value))


def _keyed(value: Any) -> list[tuple[Any, Any]]:
    return list(dict.items(value))


def _attributes(value: Any) -> list[tuple[Any, Any]]:
    """What an object was given; what it worked out from that by itself is worked out anew."""
    kind = type(value)
    names = [name for name in _slots(kind) if hasattr(value, name)]
    names += [name for name in getattr(value, "__dict__", ()) if not _is_cached(kind, name)]
    return [(name, getattr(value, name)) for name in names]


def _slots(kind: type) -> list[str]:
    found: list[str] = []
    for base in reversed(kind.__mro__):
        slots = vars(base).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                private = name.startswith("__") and not name.endswith("__")
                found.append(f"_{base.__name__.lstrip('_')}{name}" if private else name)
    return found


def _is_cached(kind: type, name: str) -> bool:
    return isinstance(getattr_static(kind, name, None), cached_property)


def _as_tuple(original: Any, items: list[Any]) -> Any:
    twin = tuple.__new__(type(original), items)
    if hasattr(original, "__dict__"):
        vars(twin).update(vars(original))
    return twin


def _as_dict(original: Any, items: list[Any]) -> Any:
    return type(original)(zip(original, items, strict=True))


def _as_sublist(original: Any, items: list[Any]) -> Any:
    twin = list.__new__(type(original))
    getattr(twin, "__dict__", {}).update(getattr(original, "__dict__", {}))
    list.extend(twin, items)
    return twin


def _as_subdict(original: Any, items: list[Any]) -> Any:
    """A dict of a class of its own, which may keep its entries as attributes too."""
    kind = type(original)
    base = next(base for base in (OrderedDict, defaultdict, dict) if issubclass(kind, base))
    twin = base.__new__(kind)
    if base is defaultdict:
        twin.default_factory = original.default_factory
    also = getattr(twin, "__dict__", {})
    also.update(getattr(original, "__dict__", {}))
    for key, item in zip(dict.keys(original), items, strict=True):
        base.__setitem__(twin, key, item)
        if key in also:
            also[key] = item
    return twin


def _as_object(original: Any, items: list[Any]) -> Any:
    """An object of the same class with these attributes; none of the class's code runs."""
    base = SimpleNamespace if isinstance(original, SimpleNamespace) else object
    twin = base.__new__(type(original))  # type: ignore[arg-type]
    own = getattr(twin, "__dict__", None)
    for (name, _), item in zip(_attributes(original), items, strict=True):
        if own is not None and name in original.__dict__:
            own[name] = item
        else:
            object.__setattr__(twin, name, item)
    return twin


_TUPLE = Form(_numbered, _as_tuple)
_OBJECT = Form(_attributes, _as_object, is_object=True)
_STATE = Form(_attributes, _as_object, is_object=True, is_value=False)
_PLAIN_OBJECT = Form(_attributes, _as_object, is_object=True, is_value=False)
_KNOWN: dict[type, Form | None] = {
    tuple: _TUPLE,
    list: Form(_numbered, lambda original, items: items),
    dict: Form(_keyed, _as_dict),
    OrderedDict: Form(_keyed, _as_dict),
}
_forms = dict(_KNOWN)


def is_a_leaf(kind: type) -> None:
    """From here on the values of a type are leaves, whatever the type looks like."""
    _KNOWN[kind] = _forms[kind] = None


# -- which form a value has -----------------------------------------------------------------------


def form_of(value: Any) -> Form | None:
    """How a value is taken apart; None for a leaf."""
    try:
        return _forms[type(value)]
    except KeyError:
        return _learned(value)


def _learned(value: Any) -> Form | None:
    kind = type(value)
    form = _form(kind)
    if form is _PLAIN_OBJECT and not _holds_arrays(value, set()):
        return None  # another object of this class may
    if len(_forms) > MOST_TYPES:
        _forms.clear()
        _forms.update(_KNOWN)
    _forms[kind] = form
    return form


def _form(kind: type) -> Form | None:
    if issubclass(kind, (tuple, list, dict)):
        return _form_of_subclass(kind)
    as_values = is_dataclass(kind) or issubclass(kind, SimpleNamespace)
    if not as_values and not any("__dict__" in vars(base) or _slots(base) for base in kind.__mro__):
        return None
    if not _is_made_like(kind, (object, SimpleNamespace)):
        return None
    does_something = _defines(kind, _DOES) or changes_itself(kind)
    if as_values:  # whatever else it does, it was declared as the values that it holds
        return _STATE if does_something else _OBJECT
    return None if does_something else _PLAIN_OBJECT


def _form_of_subclass(kind: type) -> Form | None:
    if _defines(kind, ("__call__", "named_modules")) or changes_itself(kind):
        return None
    if issubclass(kind, tuple):
        return _TUPLE if _is_made_like(kind, (tuple,)) else None
    return Form(_numbered, _as_sublist) if issubclass(kind, list) else Form(_keyed, _as_subdict)


def _defines(kind: type, names: Sequence[str]) -> bool:
    return any(name in vars(base) for base in kind.__mro__ for name in names)


def _is_made_like(kind: type, bases: tuple[Any, ...]) -> bool:
    """Whether Python can make an empty one without running the class's own code."""
    for base in bases:
        try:
            base.__new__(kind)
        except TypeError:
            continue
        return True
    return False


def _holds_arrays(value: Any, seen: set[int]) -> bool:
    """Whether an object, or what it contains, holds an array; not what contains itself."""
    if hasattr(type(value), "shape") and hasattr(type(value), "dtype"):
        return True
    form = _forms.get(type(value)) or _form(type(value))
    if form is None or id(value) in seen:
        return False
    seen.add(id(value))
    return any(_holds_arrays(item, seen) for _, item in form.entries(value))


def hides_arrays(value: Any) -> bool:
    """Whether a leaf is an object that holds arrays: nobody can tell what else it does with them.

    Of a container: whether it holds some beside its entries.
    """
    held = getattr(value, "__dict__", None)
    if not held or hasattr(value, "named_modules") or has_attributes(value):
        return False
    if isinstance(value, dict):  # whose entries may be attributes too
        held = {name: item for name, item in held.items() if not dict.__contains__(value, name)}
    return any(_holds_arrays(item, {id(value)}) for item in held.values())


def hiding(value: Any) -> Any:
    """The first value in a nested one that hides arrays, or None."""
    if hides_arrays(value):
        return value
    return next((found for _, item in entries(value) if (found := hiding(item)) is not None), None)


def is_container(value: Any) -> bool:
    """Whether there are values in `value`: it is a tuple, list, dict, or an object of values."""
    return form_of(value) is not None


def is_given_value(value: Any) -> bool:
    """Whether an input is a container of values.

    An object of a plain class is none: the model may keep in it what its caller looks at later.
    """
    form = form_of(value)
    return form is not None and form.is_value


def has_attributes(value: Any) -> bool:
    """Whether the entries of a container go by attribute."""
    form = form_of(value)
    return form is not None and form.is_object


# -- work on nested values ------------------------------------------------------------------------


def entries(value: Any) -> list[tuple[Any, Any]]:
    """What a container holds, by key, number or attribute name; nothing for a leaf."""
    form = form_of(value)
    return [] if form is None else form.entries(value)


def rebuilt(value: Any, items: list[Any]) -> Any:
    """A container of the same type with other entries, in the order of `entries`."""
    form = form_of(value)
    assert form is not None
    return form.rebuilt(value, items)


def map_nested(
    value: Any, leaf: Callable[[Any], Any], opens: Callable[[Any], bool] | None = None
) -> Any:
    """Rebuild a nested value with `leaf` applied to all that is not a container.

    Args: opens: which containers to look into, where not into all.
    """
    form = form_of(value)
    if form is None or (opens is not None and not opens(value)):
        return leaf(value)
    items = [map_nested(item, leaf, opens) for _, item in form.entries(value)]
    return form.rebuilt(value, items)


def leaves(value: Any) -> list[Any]:
    """All that is not a container, from left to right."""
    found: list[Any] = []
    map_nested(value, found.append)
    return found


def unflatten(template: Any, items: list[Any]) -> Any:
    """The inverse of `leaves`: `template` with its leaves replaced, from left to right."""
    rest = iter(items)
    return map_nested(template, lambda _: next(rest))


def entry(value: Any, key: Any) -> Any:
    """One entry of a container, by key, number or attribute name."""
    return getattr(value, key) if has_attributes(value) else value[key]


def entry_at(value: Any, keys: Sequence[Any]) -> Any:
    """What is where keys lead to, one container after the other."""
    for key in keys:
        value = entry(value, key)
    return value


def replace_item(value: Any, key: Any, item: Any) -> Any:
    """A copy of a container with one entry replaced."""
    pairs = entries(value)
    if isinstance(value, (list, tuple)):
        key = range(len(pairs))[key]
    return rebuilt(value, [item if name == key else old for name, old in pairs])
