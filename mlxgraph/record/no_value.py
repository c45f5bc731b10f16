"""Module handles where a value is meant: `mx.mean(model.layers[2])`, `model.layers[2] * 2`.

In: the class of what names a module.  Out: the class, with every operator of arrays refusing.
Never: gives a module a value; its `.output` is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeVar

from mlxgraph.errors import NoValueError
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import at_the_edge
from mlxgraph.record.operators import SIGNS

C = TypeVar("C", bound=type)
_TWO = (*SIGNS, "lt", "le", "gt", "ge")
_SIGNS = {**SIGNS, "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_ONE = {"neg": "-{}", "abs": "abs({})", "invert": "~{}", "float": "float({})", "int": "int({})"}


def names_a_module(kind: C) -> C:
    """A class whose objects name a module: `str()` of one is what it is called."""
    for name in _TWO:
        sign = _SIGNS[name]
        for prefix in ("", "r", "i") if name in SIGNS else ("",):
            shown = f"value {sign} {{}}" if prefix == "r" else f"{{}} {sign} value"
            shown = shown if prefix != "i" else f"{{}} {sign}= value"
            _refuses(kind, f"__{prefix}{name}__", shown)
    for name, shown in _ONE.items():
        _refuses(kind, f"__{name}__", shown)
    _refuses(kind, "__setitem__", "{}[...] = value")
    _refuses(kind, "__array__", "np.array({})")
    kind.__array_ufunc__ = None  # type: ignore[attr-defined]  # numpy asks the right side then
    kind._names_a_module = True  # type: ignore[attr-defined]
    return kind


def _refuses(kind: type, name: str, shown: str) -> None:
    if name in vars(kind):
        return

    def method(self: Any, *_: Any, **__: Any) -> Any:
        raise NoValueError(written(self), str(here()), shown)

    method.__name__ = name
    setattr(kind, name, at_the_edge(method))


def written(handle: Any) -> str:
    """A handle as it is written in Python."""
    path = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", getattr(handle, "_path", ""))
    return path if f"{path}.".startswith("model.") else f"model.{path}".rstrip(".")


def refuse_modules(values: Iterable[Any], op: str) -> None:
    """Raise NoValueError where a module is among the arguments of a function of arrays."""
    for value in values:
        if isinstance(value, (list, tuple)):
            refuse_modules(value, op)
        elif getattr(type(value), "_names_a_module", False):
            raise NoValueError(written(value), str(here()), f"{op}({{}})")
