"""mlxgraph: functional graph rewriting for interpretability work on MLX models."""

from mlxgraph.errors import MLXGraphError
from mlxgraph.graph.graph import Graph
from mlxgraph.model import InterpretableModel
from mlxgraph.record.apply import apply
from mlxgraph.trace import Trace

__all__ = ["Graph", "InterpretableModel", "MLXGraphError", "Trace", "apply"]
__version__ = "0.1.0"
