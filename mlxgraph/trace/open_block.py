"""The block that is open on a model, if there is one."""

from __future__ import annotations

from typing import Any

from mlxgraph.errors import InputError, OutsideTraceError
from mlxgraph.record.handle import handle_in
from mlxgraph.record.handle import open_recording as open_live
from mlxgraph.record.recording import Recording
from mlxgraph.record.stack import recording_on
from mlxgraph.run.engine import Engine
from mlxgraph.trace.ids import check_by_hand


def open_recording(engine: Engine, what: str) -> Recording:
    """The innermost recording that is open on a model in this thread.

    Args: what: what is used, for the error's text.
    Raises: OutsideTraceError where there is none.
    """
    recording = recording_on(engine.root)
    if recording is None:
        raise OutsideTraceError(what)
    return recording


def refreshed(engine: Engine) -> Engine:
    """Notice exchanged modules; inside a block the tree stays as it was when it opened."""
    if recording_on(engine.root) is None:
        engine.runner.refresh()
    return engine


def call_module(engine: Engine, path: str, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run a module on values as it is: recorded inside a block, at once outside."""
    tree = engine.runner.tree
    path = tree.aliases.get(path, path)
    if path not in tree.modules:
        raise InputError(
            f"{path} is several modules, and several are not called.\n"
            f"  Write model.{path}[3] for one of them."
        )
    recording = recording_on(engine.root)
    check_by_hand(tree, path, args, kwargs)
    if recording is None:
        handle = handle_in((*args, *kwargs.values()))
        if handle is not None and handle._recording is not None:
            open_live(handle)  # says why it has no value
        return tree.modules[path](*args, **kwargs)
    return recording.call_module(path, args, kwargs)
