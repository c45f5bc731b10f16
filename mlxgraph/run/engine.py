"""The engine: what is needed of a model to trace, edit and run it.

Whoever joins the rooms (a trace, a module handle, a compiled pass) is given an engine and nothing
else of the model.  Models that share weights share a runner, and differ in the edits that stay.
"""

from __future__ import annotations

import copy
from typing import Any

import mlx.nn as nn

from mlxgraph.errors import NoPickleError
from mlxgraph.errors.tracebacks import at_the_edge
from mlxgraph.graph.graph import Graph
from mlxgraph.mlx_facts.dtypes import DTYPES
from mlxgraph.run.names import Names
from mlxgraph.run.runner import Runner


class Engine:
    """One model: its runner, its names, its tokenizer, and the edits that stay on it.

    Raises: LayersError where a `layer_attr` was given that the model does not have.
    """

    def __init__(self, root: nn.Module, tokenizer: Any, layer_attr: str = "layers"):
        self.root = root
        self.tokenizer = tokenizer
        self.edits = Graph()
        self.runner = Runner(root)
        self._layer_attr = layer_attr
        self._names = Names(self.runner.tree, layer_attr, layer_attr != "layers")

    @property
    def names(self) -> Names:
        """The names of the tree as it was when last checked."""
        tree = self.runner.tree
        if self._names.tree is not tree:
            self._names = Names(tree, self._layer_attr, False)
        return self._names

    @property
    def is_edited(self) -> bool:
        """Whether there are edits that stay."""
        edits = self.edits
        return bool(edits.writes or edits.saves or edits.then)

    def after_edits(self, graph: Graph) -> Graph:
        """The edits that stay, and then a graph."""
        return self.edits >> graph if self.is_edited else graph

    def with_edits(self, edits: Graph) -> Engine:
        """The same model, weights and all, with other edits that stay."""
        twin = object.__new__(Engine)
        vars(twin).update(vars(self))
        twin.edits = edits
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        """Another model: copies of the modules, and nothing of what was worked out about them.

        Dtypes, which modules may hold, are no objects that Python knows to copy.
        """
        memo.update({id(dtype): dtype for dtype in DTYPES.values()})
        root = copy.deepcopy(self.root, memo)
        twin = Engine(root, self.tokenizer, self._layer_attr)
        for name, module in self.runner.added.items():
            twin.runner.add(name, copy.deepcopy(module, memo))
        twin.edits = self.edits
        return twin

    @at_the_edge
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise NoPickleError(
            "a model has no form in a pickle, nor has what is made of one.\n"
            "  Save its edits, `graph.save(path)`, and its weights, `mx.save_safetensors(path,"
            " model.parameters())`; copy.deepcopy(model) copies it."
        )

    def __repr__(self) -> str:
        return f"<Engine of {type(self.root).__name__}>"
