"""The verifier's rules for values and for one node.

A rule gives what is wrong, or None; its docstring is the law.  A node is asked the rules for EVERY
node and then those OF its operation; each believes what the ones before it have checked.
Whole graphs are `graph.check`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from mlxgraph.graph import ops
from mlxgraph.graph.named import is_array
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import SKIP
from mlxgraph.graph.values import DTYPES, Device, DType, Literal, Opaque, dtype_name, frozen_leaves

LARGEST_DIM = 2**31 - 1  # what MLX can index
LARGEST_SIZE = 2**48  # elements of one array
MOST_DIMS = 64
NUMBERS = {"int": int, "float": float, "bool": bool}

# -- values ---------------------------------------------------------------------------------------


def text_fault(value: Any, what: str) -> str | None:
    """A text is a string that can be printed and written."""
    if type(value) is not str:
        return f"{what} is no text"
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"{what} holds half a character"
    return None


def site_fault(path: Any, port: Any, call: Any) -> str | None:
    """A site is a path, the name of a port, and the number of a call."""
    wrong = text_fault(path, "a path") or port_fault(port)
    if wrong is None and not is_whole(call, 0):
        return f"{call!r:.40} is no call's number"
    return wrong


def port_fault(port: Any) -> str | None:
    """A port is named like an attribute of Python's."""
    wrong = text_fault(port, "a port")
    return wrong or (None if port.isidentifier() else f"there is no port {port[:40]!r}")


def shape_fault(shape: Any) -> str | None:
    """A shape is one that an array of MLX can have."""
    if type(shape) is not tuple:
        return "a shape is no tuple"
    if len(shape) > MOST_DIMS or not all(is_whole(dim, 0) for dim in shape):
        return "a shape is out of range"
    if math.prod(max(dim, 1) for dim in shape) > LARGEST_SIZE:
        return "a shape is larger than any array"
    return None


def dtype_fault(name: Any) -> str | None:
    """A dtype is one of MLX's, by name."""
    known = type(name) is str and (name in DTYPES or name == "bool")
    return None if known else f"there is no dtype {name!r:.40}"


def is_whole(value: Any, least: int = -LARGEST_DIM) -> bool:
    return type(value) is int and least <= value <= LARGEST_DIM


# -- one node -------------------------------------------------------------------------------------


def operation_is_known(node: Node, constants: Sequence[Any]) -> str | None:
    """An operation stands in the table, or is a function of MLX that the table leaves out."""
    if type(node.op) is str and (
        node.op in _KINDS or node.op in ops.OPERATIONS or ops.is_of_mlx(node.op)
    ):
        return None
    return f"there is no operation {str(node.op)[:80]!r}"


_KINDS = ops.SOURCES | {ops.CALL, ops.GRAD}


def arguments_are_frozen(node: Node, constants: Sequence[Any]) -> str | None:
    """Arguments are nodes and frozen values; keywords are names, each once.

    A bool, float or complex is frozen as a Literal: 1, 1.0 and True are one key to Python.
    """
    for name, _ in node.kwargs:
        if not _is_identifier(name):
            return f"{name!r:.80} is no keyword"
    if len(dict(node.kwargs)) < len(node.kwargs):
        return "it has two keywords of one name"
    for leaf in frozen_leaves((node.args, tuple(value for _, value in node.kwargs))):
        if type(leaf) not in _LEAVES and leaf is not Ellipsis:
            return f"{leaf!r:.40} is a {type(leaf).__name__}, and no frozen value"
    return None


_LEAVES = {Node, Literal, DType, Device, Opaque, int, str, type(None)}


def arguments_are_enough(node: Node, constants: Sequence[Any]) -> str | None:
    """An operation of the library's own has its arguments; what MLX's lack, MLX says itself."""
    if node.op not in ops.OWN:
        return None
    known = ops.OPERATIONS[node.op]
    if len(node.args) < known.fewest:
        return f"{node.op} has too few arguments"
    if known.most is not None and len(node.args) > known.most:
        return f"{node.op} has too many arguments"
    return None


def sources_have_their_arguments(node: Node, constants: Sequence[Any]) -> str | None:
    """A site, constant or param has three arguments, a number two, and none has keywords."""
    fits = not node.kwargs and len(node.args) == (2 if node.op == ops.NUMBER else 3)
    return None if fits else f"a {node.op} has other arguments"


def site_is_a_site(node: Node, constants: Sequence[Any]) -> str | None:
    """site(path, port, call): a site; one where a module is skipped is written only."""
    wrong = site_fault(*node.args)
    return wrong or (f"there is nothing to read at {SKIP!r}" if node.args[1] == SKIP else None)


def constant_is_an_array(node: Node, constants: Sequence[Any]) -> str | None:
    """constant(k, shape, dtype): the graph's k-th constant is an array of this shape and dtype."""
    k, shape, dtype = node.args
    if type(k) is not int or not 0 <= k < len(constants):
        return f"there is no constant {k!r:.40} here"
    value = constants[k]
    if not is_array(value):
        return f"constant {k} is a number, and used as an array"
    if type(shape) is not tuple or shape != tuple(value.shape):
        return f"constant {k} has another shape"
    name = dtype_name(value.dtype)
    if type(dtype) is not str or dtype not in (name, name.rstrip("_")):
        return f"constant {k} has another dtype"
    return None


def number_is_a_number(node: Node, constants: Sequence[Any]) -> str | None:
    """number(k, kind): the graph's k-th constant is a Python number of this kind."""
    k, kind = node.args
    if type(k) is not int or not 0 <= k < len(constants):
        return f"there is no constant {k!r:.40} here"
    if type(kind) is not str or type(constants[k]) is not NUMBERS.get(kind):
        return f"constant {k} is no {kind!r:.20}"
    return None


def param_is_a_hole(node: Node, constants: Sequence[Any]) -> str | None:
    """param(name, shape, dtype): an identifier, and a shape and dtype or None."""
    return param_fault(*node.args)


def param_fault(name: Any, shape: Any, dtype: Any) -> str | None:
    """A param's name is an identifier; its shape and dtype may be left open."""
    if not _is_identifier(name):
        return text_fault(name, "a param") or f"{name[:80]!r} can name no param"
    return (None if shape is None else shape_fault(shape)) or (
        None if dtype is None else dtype_fault(dtype)
    )


def call_names_a_module(node: Node, constants: Sequence[Any]) -> str | None:
    """call(path, ...): a module of the model by its path, and what it is called with.

    One that draws has a number before its path.
    """
    first = 1 if node.args and is_whole(node.args[0]) and node.args[0] > 0 else 0
    named = len(node.args) > first and type(node.args[first]) is str
    return None if named else "a call names no module"


def apply_holds_a_function(node: Node, constants: Sequence[Any]) -> str | None:
    """apply(function, ...): a Python function, and what it is called with."""
    return None if type(node.args[0]) is Opaque else "there is no function to apply"


def gradient_is_of_a_node(node: Node, constants: Sequence[Any]) -> str | None:
    """grad(loss, at): the gradient of one node at another."""
    fits = not node.kwargs and [type(argument) for argument in node.args] == [Node, Node]
    return None if fits else "a gradient is of one node, at another"


def draws_are_numbered(node: Node, constants: Sequence[Any]) -> str | None:
    """A random draw begins with its number, unless it has a key of its own."""
    if not ops.is_random(node.op):
        return None
    keyed = any(type(a) is Node for a in node.args[1:]) or "key" in dict(node.kwargs)
    if not node.args:
        return None if keyed else f"{node.op} has no number"
    numbered = node.op not in ops.DRAWS or (type(node.args[0]) is int and node.args[0] > 0)
    return None if numbered or keyed else f"{node.op} has no number"


def leaves_are_there(node: Node, constants: Sequence[Any]) -> str | None:
    """leaf(nested, k): leaves are counted from 0, and up to those that a nested value is given."""
    nested, k = node.args
    if not is_whole(k, 0):
        return f"{k!r:.40} is no leaf's number"
    if type(nested) is Node and nested.op == ops.UNFLATTEN_LIKE and k >= len(nested.args) - 1:
        return f"there is no leaf {k} in it"
    return None


def dtypes_are_known(node: Node, constants: Sequence[Any]) -> str | None:
    """Every dtype among the arguments is one of MLX's."""
    for leaf in frozen_leaves((node.args, tuple(value for _, value in node.kwargs))):
        if type(leaf) is DType and (wrong := dtype_fault(leaf.value)):
            return wrong
    return None


def _is_identifier(name: Any) -> bool:
    return type(name) is str and name.isidentifier()


NodeRule = Callable[[Node, Sequence[Any]], str | None]
EVERY: tuple[NodeRule, ...] = (  # for nodes of every operation
    arguments_are_frozen,
    operation_is_known,
    arguments_are_enough,
    draws_are_numbered,
    dtypes_are_known,
)
OF: dict[str, tuple[NodeRule, ...]] = {  # for nodes of one operation
    ops.SITE: (sources_have_their_arguments, site_is_a_site),
    ops.CONSTANT: (sources_have_their_arguments, constant_is_an_array),
    ops.NUMBER: (sources_have_their_arguments, number_is_a_number),
    ops.PARAM: (sources_have_their_arguments, param_is_a_hole),
    ops.CALL: (call_names_a_module,),
    ops.APPLY: (apply_holds_a_function,),
    ops.GRAD: (gradient_is_of_a_node,),
    ops.LEAF: (leaves_are_there,),
}
NODES = tuple(dict.fromkeys([*EVERY, *(rule for rules in OF.values() for rule in rules)]))
