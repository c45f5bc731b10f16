"""Tracebacks of deliberate errors: the user's line comes last.

What is wrong is on the user's line, and sixty frames of ours and of libraries below it say nothing
of it.  So they are taken out where an error leaves the library: at the public functions, and at the
end of a block.  `MLXGRAPH_TRACEBACK=full` in the environment leaves them in.

Never: touches an error that is not ours.  Of the causes of one that is, the user's frames stay.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sysconfig
from collections.abc import Callable, Iterator
from types import FunctionType, TracebackType
from typing import Any, ParamSpec, TypeVar

from mlxgraph.errors.base import MLXGraphError
from mlxgraph.errors.source_line import is_inside

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)
VARIABLE = "MLXGRAPH_TRACEBACK"
_IS_EDGE = "_is_edge"
_INSTALLED = tuple(
    {os.path.join(path, "") for name, path in sysconfig.get_paths().items() if "lib" in name}
)
_CONTEXTS = contextlib.__file__
_SPECIAL = frozenset(
    "__call__ __enter__ __exit__ __getattr__ __setattr__ __getitem__ __setitem__ __rshift__"
    " __rrshift__ __iter__ __contains__ __delattr__ __format__ __copy__ __deepcopy__ __bool__"
    " __reduce_ex__ __complex__ __float__ __int__ __index__ __array__".split()
)
_BY_NAME = frozenset({"__call__", "__array__"})  # those that are given arguments by name


def at_the_edge(function: Callable[P, R]) -> Callable[P, R]:
    """A public function, whose deliberate errors end at the line that called it.

    So does what Python itself says of a call with arguments that the function does not have.
    """

    @functools.wraps(function)
    def edge(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (MLXGraphError, TypeError) as error:
            _at_the_edge(error)
            raise  # bare: Python adds no entry for this frame again

    return edge


def _of_python(function: Callable[..., R]) -> Callable[..., R]:
    """As `at_the_edge`, of what Python itself calls, which gives no argument by name: properties
    and `__getitem__` are asked several times a line, and this takes half of the time."""

    @functools.wraps(function)
    def edge(*args: Any) -> R:
        try:
            return function(*args)
        except (MLXGraphError, TypeError) as error:
            _at_the_edge(error)
            raise

    return edge


def _at_the_edge(error: MLXGraphError | TypeError) -> None:
    """Leave an edge's caller last in what left it."""
    if isinstance(error, MLXGraphError):
        trim(error)
        return
    entry = error.__traceback__
    if entry is not None and entry.tb_next is None and not _wanted_in_full():
        error.__traceback__ = None


def of_files(function: Callable[P, R]) -> Callable[P, R]:
    """A public function of a file's path: what the system says of it ends at the caller's line."""

    @functools.wraps(function)
    def edge(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (MLXGraphError, OSError, TypeError) as error:
            if not _wanted_in_full():
                error.__traceback__ = _kept(error.__traceback__, _is_installed)
            raise

    vars(edge)[_IS_EDGE] = True
    return edge


def _wanted_in_full() -> bool:
    return os.environ.get(VARIABLE) == "full"


def with_edges(kind: C, but: tuple[str, ...] = ()) -> C:
    """A public class: each of its public methods and properties is an edge.

    Args: but: names of those that are called too often for it.
    """
    for name, member in list(vars(kind).items()):
        if name.startswith("_") and name not in _SPECIAL or name in but:
            continue
        if isinstance(member, FunctionType) and _IS_EDGE not in vars(member):
            of_python = name in _SPECIAL and name not in _BY_NAME
            setattr(kind, name, _of_python(member) if of_python else at_the_edge(member))
        elif isinstance(member, property):
            get, put = member.fget, member.fset
            setattr(kind, name, property(get and _of_python(get), put and _of_python(put)))
    return kind


def trim(error: BaseException) -> None:
    """Leave the user's frames alone in the traceback of a deliberate error, and of its causes."""
    if not isinstance(error, MLXGraphError) or _wanted_in_full():
        return
    error.__traceback__ = _kept(error.__traceback__, _is_ours)
    for cause in _causes(error):
        cause.__traceback__ = _kept(cause.__traceback__, _is_installed)


def trim_installed(error: BaseException) -> None:
    """As `trim`, and without the frames of installed packages: of an error that passed through a
    loop of theirs on its way out."""
    if isinstance(error, MLXGraphError) and not _wanted_in_full():
        error.__traceback__ = _kept(error.__traceback__, _is_installed)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What led to an error, as Python would show it."""
    seen = {id(error)}
    at = error.__cause__ or error.__context__
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or at.__context__


def _kept(first: TracebackType | None, left_out: Callable[[str], bool]) -> TracebackType | None:
    """A traceback without our frames, and those of some files."""
    entries = []
    while first is not None:
        code = first.tb_frame.f_code
        if not is_inside(code) and not left_out(code.co_filename):
            entries.append(first)
        first = first.tb_next
    following = None
    for entry in reversed(entries):
        entry.tb_next = following
        following = entry
    return following


def _is_ours(file: str) -> bool:
    return file == _CONTEXTS


def _is_installed(file: str) -> bool:
    return file.startswith(_INSTALLED) or file.startswith("<frozen")
