"""Notes: what a person wants to know of a recorded node, worked out when it is read."""

from __future__ import annotations

from typing import Any

from mlxgraph.graph.census import Info
from mlxgraph.graph.graph import Note
from mlxgraph.graph.node import Node
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record.freeze import dtype_name


class Notes(dict):
    """Where, shape and dtype of each node, worked out only when somebody reads them."""

    def __init__(self, places: dict[Node, Any], infos: dict[Node, Info]):
        super().__init__()
        self._places = places
        self._infos = {node: infos[node] for node in places if node in infos}

    def get(self, node: Node, default: Any = None) -> Any:
        place = self._places.get(node)
        info = self._infos.get(node)
        if place is None and info is None:
            return super().get(node, default)
        value = info.value if info else None
        if not isinstance(value, ARRAY):
            return Note(str(place or ""))
        return Note(str(place or ""), value.shape, dtype_name(value.dtype))
