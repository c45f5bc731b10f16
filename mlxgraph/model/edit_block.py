"""`with model.edit() as edited:`: the block's writes stay on `edited`."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import mlx.core as mx

from mlxgraph.errors import NotAGraphError, OutsideTraceError
from mlxgraph.errors.tracebacks import with_edges
from mlxgraph.record.stack import exit_of_block
from mlxgraph.run.engine import Engine
from mlxgraph.trace.inputs import prepare
from mlxgraph.trace.resolve import is_interventions
from mlxgraph.trace.trace import Trace

EXAMPLE_LENGTH = 8
_BLOCK = (
    "model.edit() opens a block: `with model.edit() as edited:`, and `edited` is the model;"
    " model.edit(graph) gives one at once."
)
M = TypeVar("M")


@with_edges
class EditBlock(Generic[M]):
    """A block that is recorded and not run, and the model that its edits stay on.

    Args: example: inputs to record with; a few tokens if left out.  model: makes the edited model.
    """

    def __init__(self, engine: Engine, example: tuple, model: Callable[[Engine], M]):
        if any(callable(given) or is_interventions(given) for given in example):
            raise NotAGraphError(
                example[0],
                "Write model.edit(mg.edit('layers.2', iv.zero_out)), with the name of a module and"
                " a function of its output.",
            )
        self._engine = engine.with_edits(engine.edits)
        self._model = model
        self._example = example or (mx.zeros((1, EXAMPLE_LENGTH), mx.int32),)
        self._trace: Trace | None = None
        self._statement: Any = None  # the `with` statement, while it runs (`record.stack`)
        self._watch: Any = None

    def __call__(self, *_: Any, **__: Any) -> Any:
        """No model yet: the edits are those that the block records."""
        raise OutsideTraceError("the model that model.edit() gives", _BLOCK)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise OutsideTraceError(f"model.edit().{name}", _BLOCK)

    def __enter__(self) -> M:
        call = prepare(self._example, self._engine.tokenizer)
        self._trace = Trace(self._engine, call)
        statement = None if self._statement is None else self._statement()
        self._watch = None if statement is None else weakref.ref(statement, self._over)
        self._trace.__enter__()
        return self._model(self._engine)

    @exit_of_block
    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        assert self._trace is not None
        self._trace.__exit__(kind, error, traceback)
        self._watch = None
        if error is None:
            self._engine.edits = self._trace.graph

    def _over(self, _: Any) -> None:
        """The statement is over and an interrupt kept `__exit__` from saying so."""
        if self._trace is not None:
            self._trace.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        self._watch = None
