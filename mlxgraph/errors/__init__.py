"""Every deliberate exception of the library, as one tree.

Each says what is wrong, where it was written, and what to write instead, and inherits the
builtin that a caller would expect.  The classes lie in files by subject; this is where they are
imported from.
"""

from mlxgraph.errors.base import MLXGraphError, close_matches
from mlxgraph.errors.graphs import (
    CompileError,
    GraphFileError,
    MalformedGraphError,
    MergeError,
    MissingParamError,
    OpaqueError,
    ParamError,
    RewriteError,
    UnknownNameError,
)
from mlxgraph.errors.inputs import (
    BaselineError,
    InputError,
    InterventionError,
    MissingDependencyError,
    ModelLoadError,
    NoTokenizerError,
    UnembeddingError,
)
from mlxgraph.errors.shapes import (
    AlignError,
    BoundsError,
    LengthsError,
    OperationError,
    PositionError,
    ShapeError,
)
from mlxgraph.errors.sites import (
    CountError,
    GradientOrderError,
    HeadsError,
    LayersError,
    NameTakenError,
    NeverCalledError,
    OrderError,
    UnknownSiteError,
)
from mlxgraph.errors.values import (
    EscapedError,
    ForeignProxyError,
    GradientError,
    LookError,
    NotSavedError,
    OutsideTraceError,
    StaleHandleError,
    TokenGradientError,
    UnboundParamError,
    UnknownEntryError,
)

__all__ = [
    "AlignError",
    "BaselineError",
    "BoundsError",
    "CompileError",
    "CountError",
    "EscapedError",
    "ForeignProxyError",
    "GradientError",
    "GradientOrderError",
    "GraphFileError",
    "HeadsError",
    "InputError",
    "InterventionError",
    "LayersError",
    "LengthsError",
    "LookError",
    "MLXGraphError",
    "MalformedGraphError",
    "MergeError",
    "MissingDependencyError",
    "MissingParamError",
    "ModelLoadError",
    "NameTakenError",
    "NeverCalledError",
    "NoTokenizerError",
    "NotSavedError",
    "OpaqueError",
    "OperationError",
    "OrderError",
    "OutsideTraceError",
    "ParamError",
    "PositionError",
    "RewriteError",
    "ShapeError",
    "StaleHandleError",
    "TokenGradientError",
    "UnboundParamError",
    "UnembeddingError",
    "UnknownEntryError",
    "UnknownNameError",
    "UnknownSiteError",
    "close_matches",
]
