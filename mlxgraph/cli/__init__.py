"""The command line: `mlxgraph lens`, `patch`, `attribute`, `generate`, `bench`, `tree`, `demo`.

In: arguments.  Out: text on standard output, pictures and results in files, an exit status.
Never: does what the library cannot; every number here comes through the public API.
"""

from mlxgraph.cli.entry import main

__all__ = ["main"]
