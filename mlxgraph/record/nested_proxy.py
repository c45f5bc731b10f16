"""`NestedProxy`: what stands for a tuple, list, dict or object of arrays inside a block."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import is_dataclass
from types import FunctionType, MethodType
from typing import Any

from mlxgraph.errors import NotSavedError, UnknownEntryError
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import with_edges
from mlxgraph.graph.nested import entries, entry, has_attributes, is_a_leaf, rebuilt
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record import views
from mlxgraph.record.entries import entry_key, to_first_array
from mlxgraph.record.handle import (
    HANDLES,
    SLOTS,
    birth,
    describe,
    fate,
    is_handle,
    open_recording,
    refuse_pickle,
    save,
)

_BY_KEY = ("keys", "values", "items", "get")  # of a dict, unless it has entries of these names


@with_edges
class NestedProxy:
    """A recorded tuple, list, dict or object of arrays: its entries are handles, read and written
    as the value's own are; the rest of its class, properties and methods, works on these handles.
    """

    __slots__ = (*SLOTS, "__weakref__")
    _describe = describe
    _birth = birth
    save = save

    def _fill(self, result: Any) -> None:
        self._recording = self._origin = None
        self._result = result

    @property
    def _template(self) -> Any:
        if self._recording is None:
            return self._result
        return self._recording.info(self._node).value

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # so that `isinstance` says of it what it says of the value
        return type(self._template)

    @property
    def value(self) -> Any:
        """The nested value of arrays, once the block is over; or the entry of that name."""
        named, key = _named(self._template, "value")
        if named:
            return self._entry(key)
        if self._recording is None:
            return self._result
        raise NotSavedError(self._describe(), self._birth())

    # -- entries ----------------------------------------------------------------------------------

    def _entry(self, key: Any) -> Any:
        if self._recording is None:
            return entry(self._result, key)
        return open_recording(self).view(self, views.item(key))

    def __entries__(self) -> list[tuple[Any, Any]]:
        """Every entry's key, number or attribute name, and the entry."""
        return [(key, self._entry(key)) for key, _ in entries(self._template)]

    def __getitem__(self, key: Any) -> Any:
        if self._recording is None:
            return self._result[key]
        open_recording(self)
        template = self._template
        if has_attributes(template):
            return self._own("__getitem__", "be indexed")(key)
        if isinstance(key, slice) and not isinstance(template, dict):
            return tuple(self[i] for i in range(*key.indices(len(template))))
        return self._entry(self._key(key))

    def _key(self, key: Any) -> Any:
        template = self._template
        known = isinstance(template, dict) and type(key) is str and key in template
        return key if known else entry_key(template, key, self._describe(), self._shapes())

    def __setitem__(self, key: Any, value: Any) -> None:
        if has_attributes(self._template):
            self._own("__setitem__", "be written by index")(key, value)
            return
        open_recording(self).write_part(self, views.item(self._key(key)), value)

    def __getattr__(self, name: str) -> Any:
        template = self._template
        named, key = _named(template, name)
        if named:
            return self._entry(key)
        if isinstance(template, dict) and name in _BY_KEY:
            return getattr(self, f"_{name}")
        return self._own(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SLOTS:
            object.__setattr__(self, name, value)
            return
        named, key = _named(self._template, name)
        if self._recording is None:
            setattr(self._result, name, value)
        elif named:
            open_recording(self).write_part(self, views.item(key), value)
        elif isinstance(own := self._of_class(name), property) and own.fset is not None:
            own.fset(self, value)
        else:
            raise self._unknown(name)

    def _own(self, name: str, done: str = "") -> Any:
        """What the value's class has beside its entries, at work on handles."""
        template = self._template
        if self._recording is None:
            return getattr(self._result, name)
        found = self._of_class(name)
        if isinstance(found, FunctionType):
            return MethodType(found, self)
        if isinstance(found, property) or hasattr(found, "func") and hasattr(found, "attrname"):
            return (found.fget if isinstance(found, property) else found.func)(self)
        if found is None or callable(found) or name.startswith("__"):
            raise self._unknown(name, done)
        return getattr(template, name)

    def _of_class(self, name: str) -> Any:
        """What the value's class says of a name, or None."""
        kind = type(self._template)
        return next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)

    def _unknown(self, name: str, done: str = "") -> Exception:
        if self._recording is None or (name.startswith("_") and not done):
            return AttributeError(name)
        names = [str(k) for k, _ in entries(self._template) if _named(self._template, str(k))[0]]
        if isinstance(self._template, tuple):
            names += getattr(type(self._template), "_fields", ())
        part = to_first_array(self._template)
        if isinstance(self._template, dict) and name in self._template:
            part = f"[{name!r}]"
        about = self._describe(), self._shapes(), name
        return UnknownEntryError(*about, names, str(here()), done, part)

    # -- as a sequence or mapping -----------------------------------------------------------------

    def __len__(self) -> int:
        template = self._template
        return self._own("__len__", "be counted")() if has_attributes(template) else len(template)

    def __bool__(self) -> bool:
        return has_attributes(self._template) or len(self._template) > 0

    def __iter__(self) -> Iterator[Any]:
        template = self._template
        if has_attributes(template):
            return iter(self._own("__iter__", "be iterated over")())
        if isinstance(template, dict) or self._recording is None:
            return iter(template)
        return (self[i] for i in range(len(template)))

    def __contains__(self, key: Any) -> bool:
        if is_handle(key):
            raise self._unknown("in", "be searched for a recorded value, which is compared")
        return key in self._template

    def _keys(self) -> Any:
        return self._template.keys()

    def _values(self) -> list[Any]:
        return [self[key] for key in self._keys()]

    def _items(self) -> list[tuple[Any, Any]]:
        return [(key, self[key]) for key in self._keys()]

    def _get(self, key: Any, default: Any = None) -> Any:
        return self[key] if key in self._template else default

    # -- as a value -------------------------------------------------------------------------------

    def __copy__(self) -> Any:
        """The same value, no longer tied to its site."""
        if self._recording is None:
            return copy.copy(self._result)
        twin = nested_proxy(self._template)
        twin._recording, twin._node, twin._origin = open_recording(self), self._node, None
        return twin

    def __deepcopy__(self, memo: Any) -> Any:
        return copy.deepcopy(self._result, memo) if self._recording is None else copy.copy(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._recording is None:
            return _itself, (self._result,)
        return refuse_pickle(self, protocol)

    def __dir__(self) -> list[str]:
        names = [str(key) for key, _ in entries(self._template)]
        return sorted({*dir(type(self._template)), *filter(str.isidentifier, names), "save"})

    def __repr__(self) -> str:
        if self._recording is None:
            return repr(self._result)
        return f"<NestedProxy {self._describe()}: {self._shapes()}{fate(self)}>"

    def _shapes(self) -> str:
        return _told(self._template)


class DataclassProxy(NestedProxy):
    """What stands for a dataclass: `dataclasses.replace` and its kin ask the class for fields."""

    __slots__ = ()

    @property
    def __dataclass_fields__(self) -> Any:
        return type(self._template).__dataclass_fields__


def nested_proxy(template: Any) -> NestedProxy:
    """A handle on a nested value that is like this one."""
    return DataclassProxy() if is_dataclass(template) else NestedProxy()


def is_nested(value: Any) -> bool:
    """Whether a value is a handle on a nested one."""
    return type(value) in (NestedProxy, DataclassProxy)


def first_array(handle: Any) -> Any:
    """The handle itself, or the first array in a nested value; None where it holds none."""
    if not is_nested(handle):
        return handle if isinstance(handle, ARRAY) else None
    found = (first_array(part) for _, part in handle.__entries__())
    return next((part for part in found if part is not None), None)


def _named(template: Any, name: str) -> tuple[bool, Any]:
    """Whether a container has an entry that goes by this attribute, and its key."""
    fields = getattr(type(template), "_fields", ())
    if isinstance(template, tuple) and name in fields:
        return True, fields.index(name)
    by_name = has_attributes(template) or (
        isinstance(template, dict)
        and (name in getattr(template, "__dict__", ()) or _has_entries_as_attributes(template))
    )
    return by_name and any(key == name for key, _ in entries(template)), str(name)


def _has_entries_as_attributes(template: dict) -> bool:
    """Whether a dict's class looks attributes up among its entries, as those of configs do."""
    return any("__getattr__" in vars(base) for base in type(template).__mro__)


def _told(template: Any) -> str:
    """A nested value with shapes for its arrays."""
    if has_attributes(template):
        inner = ", ".join(f"{name}={_told(item)}" for name, item in entries(template))
        return f"{type(template).__name__}({inner})"
    if not entries(template):
        return str(getattr(template, "shape", template))
    items = [_told(item) for _, item in entries(template)]
    return str(rebuilt(template, [_Text(item) for item in items]))


class _Text(str):
    """Text that stands in a repr without quotes."""

    __repr__ = str.__str__


def _itself(value: Any) -> Any:
    return value


HANDLES.update((NestedProxy, DataclassProxy))
is_a_leaf(DataclassProxy)
