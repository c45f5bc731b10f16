"""mlxgraph: functional graph rewriting for interpretability work on MLX models."""

from mlxgraph.edits import edit, read
from mlxgraph.errors import MLXGraphError
from mlxgraph.graph.graph import Graph, chain, diff, merge
from mlxgraph.model import InterpretableModel
from mlxgraph.record.apply import apply
from mlxgraph.record.param import param
from mlxgraph.tiny import tiny
from mlxgraph.trace import Trace

__all__ = [
    "Graph",
    "InterpretableModel",
    "MLXGraphError",
    "Trace",
    "apply",
    "chain",
    "diff",
    "edit",
    "merge",
    "param",
    "read",
    "tiny",
]
__version__ = "0.1.0"
