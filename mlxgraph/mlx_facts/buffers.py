"""Where an array's numbers lie: what tells that it was changed in place.

`w += 1` and `w[0] = 1` leave an array the same object and give it another buffer, as long as some
other array object holds the old one; and as long as one does, no other array gets that buffer.

The belief: the buffer protocol shows an array's own memory, where it lies and with its strides.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import partial
from operator import call, is_
from typing import Any
from weakref import ref

import mlx.core as mx

from mlxgraph.mlx_facts.arrays import same_data
from mlxgraph.mlx_facts.originals import async_eval

_STRIDED = 0x11C  # PyBUF_FULL_RO: strides, format, no need to write


class _View(ctypes.Structure):
    """Python's `Py_buffer`."""

    _fields_ = [  # noqa: RUF012 - what ctypes asks for
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.POINTER(ctypes.c_ssize_t)),
        ("strides", ctypes.POINTER(ctypes.c_ssize_t)),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


_get = ctypes.pythonapi.PyObject_GetBuffer
_get.argtypes = [ctypes.py_object, ctypes.POINTER(_View), ctypes.c_int]
_release = ctypes.pythonapi.PyBuffer_Release
_release.argtypes = [ctypes.POINTER(_View)]


def _place(array: mx.array) -> tuple[Any, ...]:
    view = _View()
    _get(array, ctypes.byref(view), _STRIDED)
    try:
        return (view.buf, *view.strides[: view.ndim])
    finally:
        _release(ctypes.byref(view))


class SeenArrays:
    """Arrays as they were at some time, by where their numbers lay.

    It holds on to these numbers; it has to, for another array may lie where they lay.
    Raises: what MLX says of arrays that cannot be evaluated, or that a transformation follows:
        `probes` tells.  Lazy ones are computed.
    """

    __slots__ = ("_held", "_places")

    def __init__(self, arrays: Sequence[mx.array]):
        async_eval(list(arrays))
        self._held = list(map(same_data, arrays))
        self._places = list(map(_place, arrays))

    def are(self, arrays: Sequence[mx.array]) -> bool:
        """Whether arrays, in the same order, are the same numbers in the same place.

        Raises: as above.
        """
        if len(arrays) != len(self._held):
            return False
        async_eval(list(arrays))
        pairs = zip(arrays, self._held, strict=True)
        if any(a.shape != b.shape or a.dtype != b.dtype for a, b in pairs):
            return False
        return list(map(_place, arrays)) == self._places


class SeenWeights:
    """The same of a model's weights, holding on to nothing that the model has let go of.

    An array that is changed in place stays the same object.  One that is exchanged goes, and with
    it all that is held here: that it is gone says enough.
    Raises: as `SeenArrays`.
    """

    __slots__ = ("__weakref__", "_refs", "_seen")

    def __init__(self, arrays: Sequence[mx.array]):
        self._seen: SeenArrays | None = SeenArrays(arrays)
        self._refs = [ref(array, partial(_let_go, ref(self))) for array in arrays]

    def are(self, arrays: Sequence[mx.array]) -> bool:
        """Whether arrays, in the same order, are the same objects with the same numbers."""
        seen = self._seen
        return (
            seen is not None
            and len(arrays) == len(self._refs)
            and all(map(is_, arrays, map(call, self._refs)))
            and seen.are(arrays)
        )


def _let_go(whose: ref[SeenWeights], gone: Any) -> None:
    seen = whose()
    if seen is not None:
        seen._seen = None
