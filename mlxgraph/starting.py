"""An interrupt of a command that is still being read in: half a second of imports.

Python would answer it with the traceback of whatever import it fell into.  A command that is
interrupted later ends with its own status and without one (`cli.entry`), and so does this.

In: how the process was called.  Out: what answers an interrupt, until `listen`.
Never: changes it in a process that only imports the library, or where somebody else has; imports
what Python has not read in by itself, for that takes time too.
"""

import _signal  # type: ignore[import-not-found]  # what `signal` is made of
import os
import sys

INTERRUPTED = 130


def is_command() -> bool:
    """Whether this process is the command line: `mlxgraph ...`, or `python -m mlxgraph ...`."""
    if sys.argv[:1] == ["-m"]:  # what runs is not yet known; Python's own options name it
        called = sys.orig_argv
        return "mlxgraph" in called and called[called.index("mlxgraph") - 1] == "-m"
    name = os.path.basename(sys.argv[0]) if sys.argv else ""
    return name in ("mlxgraph", "mlxgraph.exe", "mlxgraph-script.py")


def _leave(*_: object) -> None:
    os._exit(INTERRUPTED)  # nothing was begun: an exception would end in the middle of an import


def leave_at_once() -> None:
    """Have an interrupt end the process, if it is the command line's and nobody listens."""
    if not is_command() or _signal.getsignal(_signal.SIGINT) is not _signal.default_int_handler:
        return
    try:
        _signal.signal(_signal.SIGINT, _leave)
    except ValueError:  # not the main thread: it is imported by something larger
        pass


def listen() -> None:
    """From here on an interrupt is an exception again."""
    if _signal.getsignal(_signal.SIGINT) is _leave:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)


leave_at_once()  # here, for the package imports this first, and all else after it
