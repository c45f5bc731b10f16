"""What a save is called that was given no name: what was saved, as the user wrote it.

    model.output.save()                     model.output
    model.output[:, -1].save()              model.output[:, -1]
    model.layers[1].mlp.input.save()        model.layers.1.mlp.input
    model.layers[1](h)[0].save()            model.layers.1()[0]
    mx.softmax(h, axis=-1)[0].save()        softmax[0]

What was computed goes by its operation.  Values from outside are no part of a name: the same block
with another number saves under the same names.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from mlxgraph.graph import ops
from mlxgraph.graph.listing import expression, is_first_argument
from mlxgraph.graph.node import Node, called, site_of
from mlxgraph.graph.site import Site
from mlxgraph.record.handle import site_of_handle

LEFT_OUT = "..."  # for an index that is a value
_known: WeakKeyDictionary[Node, str] = WeakKeyDictionary()  # worked out once, while a node lives


def default_name(handle: Any) -> str:
    """The name of a handle that is saved without one."""
    site = site_of_handle(handle)
    if site is not None:
        return _spoken(site)
    node = handle._node
    name = _known.get(node)
    if name is None:
        _known[node] = name = _name(node)
    return name


@lru_cache(maxsize=4096)
def _spoken(site: Site) -> str:
    return site.unscoped.spoken


def _name(node: Node) -> str:
    if node.op == ops.SITE:
        return _spoken(site_of(node))
    if is_first_argument(node):
        return _name(node.args[0].args[0]).removesuffix("s")
    if node.op in (ops.GETITEM, ops.ITEM):
        whole = node.args[0]
        below = dict.fromkeys(node.inputs, LEFT_OUT)
        return expression(node, {**below, whole: _name(whole)})
    if node.op == ops.CALL:
        return f"{called(node) or 'model'}()"
    return node.op.rpartition(".")[2]
