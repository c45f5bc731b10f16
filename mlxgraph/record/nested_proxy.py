"""`NestedProxy`: what stands for a tuple, list or dict of arrays inside a block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlxgraph.errors import BoundsError, NotSavedError
from mlxgraph.errors.source_line import here
from mlxgraph.graph.nested import map_nested
from mlxgraph.record import views
from mlxgraph.record.handle import HANDLES, SLOTS, birth, describe, fate, open_recording, save


class NestedProxy:
    """A recorded tuple, list or dict of arrays: index into it, iterate over it, save it whole."""

    __slots__ = SLOTS
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

    @property
    def value(self) -> Any:
        """The nested value of arrays, once the block is over."""
        if self._recording is None:
            return self._result
        raise NotSavedError(self._describe(), self._birth())

    def __getitem__(self, key: Any) -> Any:
        if self._recording is None:
            return self._result[key]
        recording = open_recording(self)
        template = self._template
        if isinstance(key, slice):
            return tuple(self[i] for i in range(*key.indices(len(template))))
        return recording.view(self, views.item(self._key(key)))

    def _key(self, key: Any) -> Any:
        template = self._template
        if isinstance(template, dict):
            if key not in template:
                raise KeyError(f"{self._describe()} has no entry {key!r}; it has {list(template)}")
            return key
        if not -len(template) <= key < len(template):
            raise BoundsError(key, 0, len(template), (len(template),), str(here()))
        return key % len(template)

    def __setitem__(self, key: Any, value: Any) -> None:
        open_recording(self).write_part(self, views.item(self._key(key)), value)

    def __len__(self) -> int:
        return len(self._template)

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self._template, dict):
            return iter(self._template)
        return (self[i] for i in range(len(self._template)))

    def __contains__(self, key: Any) -> bool:
        return key in self._template

    def is_dict(self) -> bool:
        """Whether entries go by key."""
        return isinstance(self._template, dict)

    def keys(self) -> Any:
        """The keys, where the value is a dict."""
        return self._template.keys()

    def values(self) -> list[Any]:
        """The entries, where the value is a dict."""
        return [self[key] for key in self.keys()]

    def items(self) -> list[tuple[Any, Any]]:
        """Keys and entries, where the value is a dict."""
        return [(key, self[key]) for key in self.keys()]

    def __repr__(self) -> str:
        if self._recording is None:
            return repr(self._result)
        shapes = map_nested(self._template, lambda v: getattr(v, "shape", v))
        return f"<NestedProxy {self._describe()}: {shapes}{fate(self)}>"


HANDLES.add(NestedProxy)
