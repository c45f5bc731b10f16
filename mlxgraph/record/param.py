"""Params: named holes in a graph, filled when it runs.

A param is written down anywhere, before there is a model or a block; the recording it takes part
in is whichever is open where it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from mlxgraph.errors import (
    InputError,
    OutsideTraceError,
    ParamError,
    PlainArrayError,
    UnknownNameError,
)
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import at_the_edge
from mlxgraph.graph import ops
from mlxgraph.graph.base import param_nodes
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.node import Node
from mlxgraph.graph.values import dtype_name
from mlxgraph.mlx_facts.dtypes import dtype_named, is_dtype
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.placeholders import placeholder
from mlxgraph.record.handle import HANDLES
from mlxgraph.record.operators import from_numpy, operators
from mlxgraph.record.proxy import Saved, wrap
from mlxgraph.record.stack import current

TAKEN = {"self", "graph", "compile", "optimize"}  # keywords that a run has of its own


class Param(Saved):
    """A named hole: a number, or an array if it has a shape.  See `mlxgraph.param`.

    It is an `mx.array` that holds nothing, so that `vector @ param` comes here and not to MLX.
    """

    __array_ufunc__ = from_numpy

    def __init__(self, name: str, shape: tuple[int, ...] | None, dtype: str | None):
        super().__init__(placeholder(shape or (), dtype_named(dtype or "float32")))
        self.name = name
        self._shape = shape
        self._dtype = dtype
        self._node = Node(ops.PARAM, (name, shape, dtype))
        self._origin = None

    @property
    def _recording(self) -> Any:
        recording = current()
        if recording is None:
            raise OutsideTraceError(
                f"arithmetic on param {self.name!r}",
                "Or leave it to a function: mg.edit(site, lambda h: h + alpha * vector).",
            )
        recording.params.setdefault(self.name, self._node)
        return recording

    def _describe(self) -> str:
        return f"param({self.name!r})"

    def _birth(self) -> str:
        return "its declaration"

    def _proxy(self, what: str = "value") -> Any:
        """The array that it stands for, in the block that is open."""
        if self._shape is None:
            raise AttributeError(f"param {self.name!r} is a number and has no {what!r}")
        recording = self._recording
        return wrap(recording, self._node, recording.info(self._node).value)

    def astype(self, dtype: mx.Dtype) -> Any:
        """The param in another dtype; a number takes the dtype of what it meets as it is."""
        return self if self._shape is None else self._proxy().astype(dtype)

    def __getitem__(self, index: Any) -> Any:
        return self._proxy("item")[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError(
            f"param {self.name!r} cannot be written; write into a copy, mx.array({self.name})"
        )

    def __iter__(self) -> Iterator[Any]:
        return iter(self._proxy("iterator"))

    def __copy__(self) -> Param:
        return self

    def __deepcopy__(self, memo: Any) -> Param:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Param, (self.name, self._shape, self._dtype)

    def __repr__(self) -> str:
        shape = f", shape={self._shape}" if self._shape is not None else ""
        return f"param({self.name!r}{shape})"

    __str__ = __repr__


def _delegated(name: str) -> property:
    """What an array has, of the array that the param stands for."""
    return property(lambda self: getattr(self._proxy(name), name))


def _no_value(self: Param, *_: Any, **__: Any) -> Any:
    raise PlainArrayError(
        f"the param {self.name!r} has no value while the graph is recorded",
        str(here()),
        "Write mx.where(alpha > 0, a, b) for a choice that depends on it.",
    )


for _name in dir(mx.array):
    if not _name.startswith("_") and _name not in {*vars(Param), "shape", "dtype", "ndim", "size"}:
        setattr(Param, _name, _delegated(_name))
for _name in ("bool", "float", "int", "index", "complex", "array"):
    setattr(Param, f"__{_name}__", at_the_edge(_no_value))
for _name, _operator in operators(in_place=False).items():
    setattr(Param, _name, _operator)
for _name in [name for name in dir(mx.array) if name.startswith("__i")]:
    if hasattr(Param, f"__{_name[3:]}"):  # `p += 1` makes a value of its own
        setattr(Param, _name, getattr(Param, f"__{_name[3:]}"))
Param.__hash__ = object.__hash__  # type: ignore[method-assign, assignment]
HANDLES.add(Param)


@at_the_edge
def param(
    name: str, shape: int | tuple[int, ...] | None = None, dtype: mx.Dtype | None = None
) -> Param:
    """A named hole in a graph: an input of the compiled pass.

    New values never trigger recompilation.

    Args:
        name: the keyword under which a run takes the value: `model.run(g, x, alpha=2.0)`.
        shape: of the array it stands for; None stands for a number, which takes the dtype of
            whatever it meets, as Python numbers do.
        dtype: of the array; float32 if left out.

    Example:
        >>> alpha = mg.param("alpha")
        >>> with model.trace(x, params={"alpha": 2.0}):
        ...     model.layers[5].mlp.output *= alpha
    """
    if not isinstance(name, str) or not name.isidentifier() or name in TAKEN:
        raise InputError(
            f"a param is given by keyword, so {name!r} cannot name one.\n"
            f"  Any other word than {', '.join(sorted(TAKEN))} can."
        )
    if isinstance(shape, int):
        shape = (shape,)
    if shape is not None and not (
        isinstance(shape, (tuple, list)) and all(hasattr(type(n), "__index__") for n in shape)
    ):
        raise InputError(
            f"the shape of param {name!r} is a tuple of whole numbers, not {shape!r:.40}.\n"
            f"  Write mg.param({name!r}, shape=(128,)), or leave it out for a number."
        )
    kind = None if dtype is None else dtype_name(dtype)
    if kind is not None and not is_dtype(kind):
        raise InputError(
            f"the dtype of param {name!r} is none of MLX's: {dtype!r:.40}.\n"
            f"  Write mg.param({name!r}, shape=(128,), dtype=mx.float32), or leave it out."
        )
    return Param(name, None if shape is None else tuple(shape), kind)


def hole_for(name: str, value: mx.array | float) -> Any:
    """What stands for a value in the block that is open: a number's param, or an array's proxy."""
    if isinstance(value, ARRAY):
        return Param(name, value.shape, dtype_name(value.dtype))._proxy()
    return Param(name, None, None)


def is_number(value: Any) -> bool:
    """Whether a value is a param that stands for a number."""
    return type(value) is Param and value._shape is None


# -- values -------------------------------------------------------------------------------------


def holes(graph: Graph) -> dict[str, Node]:
    """The params of a graph by name.

    Raises: ParamError where two of one name are not alike.
    """
    found: dict[str, Node] = {}
    for node in param_nodes(graph):
        if found.setdefault(node.args[0], node) is not node:
            name, shape, dtype = node.args
            raise ParamError(name, shape, f"another declaration: {_kind(*found[name].args[1:])}")
    return found


def filled(wanted: Mapping[str, Node], given: Mapping[str, Any]) -> dict[str, Any]:
    """Values as their params declare them: numbers as floats, arrays of the shape and dtype.

    So a run gets what the recording was checked against, and 2, 2.0 and `np.float32(2)` meet one
    prepared run.

    Raises: UnknownNameError for a name that is no param, ParamError for a value that does not
        fit.
    """
    for name in given:
        if name not in wanted:
            raise UnknownNameError("param", name, wanted)
    return {name: _fitted(value, *wanted[name].args) for name, value in given.items()}


def _fitted(value: Any, name: str, shape: tuple[int, ...] | None, dtype: str | None) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if shape is None and isinstance(value, (bool, int, float)):
        return float(value)
    if isinstance(value, (np.ndarray, list, tuple, bool, int, float)):
        value = mx.array(value)
    if not isinstance(value, mx.array):
        raise ParamError(name, shape, f"a {type(value).__name__}")
    if value.shape != (shape or ()):
        raise ParamError(name, shape, f"an array of shape {value.shape}")
    return _cast(value, dtype_named(dtype or "float32"), name, shape)


def _cast(value: mx.array, dtype: mx.Dtype, name: str, shape: tuple[int, ...] | None) -> mx.array:
    """The value in the declared dtype, if that loses no more than precision."""
    if value.dtype == dtype:
        return value
    order = (mx.bool_, mx.integer, mx.floating, mx.complexfloating)
    have, want = (
        next(k for k, kind in enumerate(order) if d == kind or k and mx.issubdtype(d, kind))
        for d in (value.dtype, dtype)
    )
    if have > want:
        raise ParamError(name, shape, f"an array of {value.dtype}, which is no {dtype}")
    return value.astype(dtype)


def _kind(shape: tuple[int, ...] | None, dtype: str | None) -> str:
    return "a number" if shape is None else f"shape {shape}, {dtype or 'float32'}"
