"""The block that is open on a model, if there is one."""

from __future__ import annotations

from typing import Any

from mlxgraph.errors import InputError, OutsideTraceError
from mlxgraph.record.handle import handle_in
from mlxgraph.record.handle import open_recording as open_live
from mlxgraph.record.recording import Recording
from mlxgraph.record.stack import recording_on
from mlxgraph.run.engine import Engine
from mlxgraph.run.tree import ModuleTree
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
    try:
        return _called(engine, tree, path, args, kwargs)
    except (TypeError, ValueError, IndexError) as error:
        text = next((value for value in args if isinstance(value, str)), None)
        if text is None or not path or isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} was called with a text: only the whole model encodes.\n"
            f"  Write model({text!r:.40}), or give {path} an array."
        ) from error


def _called(
    engine: Engine, tree: ModuleTree, path: str, args: tuple, kwargs: dict[str, Any]
) -> Any:
    recording = recording_on(engine.root)
    check_by_hand(tree, path, args, kwargs)
    if recording is None:
        handle = handle_in((*args, *kwargs.values()))
        if handle is not None and handle._recording is not None:
            open_live(handle)  # says why it has no value
        return tree.modules[path](*args, **kwargs)
    return recording.call_module(path, args, kwargs)
