"""Pictures.  matplotlib is optional, and imported when the first picture is drawn.

In: plain results.  Out: matplotlib figures.
Never: runs a model, or opens a window where none can be seen.
"""

from mlxgraph.plot.heat import heatmap
from mlxgraph.plot.patterns import attention

__all__ = ["attention", "heatmap"]
