"""mlxgraph: functional graph rewriting for interpretability work on MLX models."""

from mlxgraph import starting as _starting  # noqa: F401 - before what takes long to import

# isort: split
import typing as _typing

from mlxgraph import interventions
from mlxgraph.analysis.benchmark import benchmark
from mlxgraph.analysis.cache import ActivationCache, collect_activations
from mlxgraph.analysis.collect import batch_get_activations, get_activations
from mlxgraph.analysis.effects import Effects
from mlxgraph.analysis.steering_vectors import steering_vector
from mlxgraph.edits import edit, read
from mlxgraph.errors import MLXGraphError, SweepStopped
from mlxgraph.errors import names as _names
from mlxgraph.graph import named as _named
from mlxgraph.graph.graph import Graph, chain, diff, merge
from mlxgraph.graph.node import Node
from mlxgraph.interventions.everywhere import directional_ablation
from mlxgraph.model.model import InterpretableModel
from mlxgraph.model.optimize import simplify
from mlxgraph.ranks.world import alone
from mlxgraph.record.apply import apply
from mlxgraph.record.gather import gather, part
from mlxgraph.record.param import Param, param
from mlxgraph.rewrite.driver import rewrite
from mlxgraph.run import codec as _codec  # noqa: F401 - tells graph.file what arrays are
from mlxgraph.store.reader import ActivationStore
from mlxgraph.tiny import tiny
from mlxgraph.trace.trace import Trace

_named.register_hole(Param)  # what a param among a saved function's arguments becomes

__all__ = [
    "ActivationCache",
    "ActivationStore",
    "Effects",
    "Graph",
    "InterpretableModel",
    "MLXGraphError",
    "Node",
    "SweepStopped",
    "Trace",
    "alone",
    "apply",
    "batch_get_activations",
    "benchmark",
    "chain",
    "collect_activations",
    "diff",
    "directional_ablation",
    "edit",
    "gather",
    "get_activations",
    "interventions",
    "merge",
    "param",
    "part",
    "read",
    "rewrite",
    "simplify",
    "steering_vector",
    "tiny",
]
__version__ = "0.1.0"

if not _typing.TYPE_CHECKING:  # a type checker would take every name for one that is there
    __getattr__ = _names.asked(
        __all__, {"model": InterpretableModel, "mg.interventions": interventions}
    )
