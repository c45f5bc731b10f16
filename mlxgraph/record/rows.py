"""Rows: ids that are written where an embedding takes the numbers of its rows.

In: a site, and the node that it holds after a write.  Out: nothing, or a VocabularyError on the
user's line.  Never: looks at what a forward computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mlxgraph.errors import VocabularyError
from mlxgraph.errors.source_line import here
from mlxgraph.evaluate.known import known_values
from mlxgraph.graph import ops
from mlxgraph.graph.node import Node
from mlxgraph.graph.site import SCOPE, Site
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.mlx_facts.probes import known_range
from mlxgraph.record.handle import is_handle


def first_input(node: Any) -> Any:
    """What a module's first argument is, of the node of its `(args, kwargs)`."""
    if type(node) is Node and node.op == ops.UNFLATTEN_LIKE:
        return node.args[1]
    return _item(_item(node, 0), 0)


def _item(node: Any, key: int) -> Any:
    while type(node) is Node and node.op == ops.PUT:
        if node.args[1] == key:
            return node.args[2]
        node = node.args[0]
    return Node(ops.ITEM, (node, key)) if type(node) is Node else None


def check_rows(site: Site, node: Node, size: int, constants: Sequence[Any]) -> None:
    """Raise VocabularyError where ids without a row are written at an embedding's inputs."""
    parts = [part for part in _written(first_input(node)) if type(part) is Node]
    for value in known_values(parts, constants, {}).values():
        found = value if isinstance(value, ARRAY) else None
        if type(value) is int:
            _check([value], site, size)
        elif found is not None:
            _check(known_range(found) or (), site, size)


def _check(numbers: Any, site: Site, size: int) -> None:
    for number in numbers:
        if not -size <= number < size:
            path = site.path.partition(":")[2] if site.path.startswith(SCOPE) else site.path
            raise VocabularyError(number, path, size, str(here()), False)


def _written(node: Any) -> Iterator[Any]:
    """An array, or the parts that were written into one that a forward knows."""
    while type(node) is Node and node.op == ops.UPDATE:
        yield node.args[2]
        node = node.args[0]
    yield node


def as_placeholder(value: Any) -> Any:
    """What is known of a handle; any other value as it is."""
    if not is_handle(value) or value._recording is None:
        return value
    known = value._recording.infos.get(value._node)
    return value if known is None else known.value
