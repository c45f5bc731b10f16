"""`with model.edit() as edited:`: the block's writes stay on `edited`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import mlx.core as mx

from mlxgraph.errors.tracebacks import with_edges
from mlxgraph.run.engine import Engine
from mlxgraph.trace.inputs import prepare
from mlxgraph.trace.trace import Trace

EXAMPLE_LENGTH = 8
M = TypeVar("M")


@with_edges
class EditBlock(Generic[M]):
    """A block that is recorded and not run, and the model that its edits stay on.

    Args: example: inputs to record with; a few tokens if left out.  model: makes the edited model.
    """

    def __init__(self, engine: Engine, example: tuple, model: Callable[[Engine], M]):
        self._engine = engine.with_edits(engine.edits)
        self._model = model
        self._example = example or (mx.zeros((1, EXAMPLE_LENGTH), mx.int32),)
        self._trace: Trace | None = None

    def __enter__(self) -> M:
        call = prepare(self._example, self._engine.tokenizer)
        self._trace = Trace(self._engine, call)
        self._trace.__enter__()
        return self._model(self._engine)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        assert self._trace is not None
        self._trace.__exit__(kind, error, traceback)
        if error is None:
            self._engine.edits = self._trace.graph
