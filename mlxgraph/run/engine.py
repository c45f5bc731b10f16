"""The engine: what is needed of a model to trace, edit and run it.

Whoever joins the rooms (a trace, a module handle, a compiled pass) is given an engine and nothing
else of the model.  Models that share weights share a runner, and differ in the edits that stay.
"""

from __future__ import annotations

import copy
from typing import Any

import mlx.nn as nn

from mlxgraph.errors import InputError
from mlxgraph.graph.graph import Graph
from mlxgraph.mlx_facts.dtypes import DTYPES
from mlxgraph.run.names import Names
from mlxgraph.run.runner import Runner


class Engine:
    """One model: its runner, its names, its tokenizer, and the edits that stay on it.

    Raises: LayersError where a `layer_attr` was given that the model does not have, InputError for
        a tokenizer or a `layer_attr` that is none.
    """

    def __init__(self, root: nn.Module, tokenizer: Any, layer_attr: str = "layers"):
        if isinstance(tokenizer, str):
            raise InputError(
                f"a tokenizer is needed, and {tokenizer!r} is a text.\n  Load it first, as by"
                " transformers.AutoTokenizer.from_pretrained(name)."
            )
        if not isinstance(layer_attr, str):
            raise InputError(
                f"layer_attr is the name of an attribute, not a {type(layer_attr).__name__}.\n"
                "  Write layer_attr='h'."
            )
        self.root = root
        self.tokenizer = tokenizer
        self.edits = Graph()
        self.origin: dict[str, Any] = {}  # where it was loaded from, and with what
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

    def with_own_modules(self) -> Engine:
        """Another model without edits: copies of the modules, on the very same arrays."""
        arrays = self.runner.refresh().weights()
        memo = {id(array): array for array in arrays}
        return self.with_edits(Graph()).__deepcopy__(memo)

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        """Another model: copies of the modules, and nothing of what was worked out about them.

        Dtypes, which modules may hold, are no objects that Python knows to copy.
        """
        memo.update({id(dtype): dtype for dtype in DTYPES.values()})
        root, added = copy.deepcopy((self.root, self.runner.added), memo)
        return _put_together(root, self.tokenizer, self._layer_attr, added, self.edits, self.origin)

    def __reduce__(self) -> Any:
        added = dict(self.runner.added)
        parts = (self.root, self.tokenizer, self._layer_attr, added, self.edits, self.origin)
        return _put_together, parts

    def __repr__(self) -> str:
        return f"<Engine of {type(self.root).__name__}>"


def _put_together(
    root: nn.Module,
    tokenizer: Any,
    layer_attr: str,
    added: dict[str, nn.Module],
    edits: Graph,
    origin: dict[str, Any],
) -> Engine:
    """An engine of which nothing is worked out yet."""
    engine = Engine(root, tokenizer, layer_attr)
    for name, module in added.items():
        engine.runner.add(name, module)
    engine.edits, engine.origin = edits, origin
    return engine
