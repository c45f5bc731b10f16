"""`with model.edit() as edited:`: the block's writes stay on `edited`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import mlx.core as mx

from mlxgraph.errors import InputError, MLXGraphError, NotAGraphError, NotEnteredError
from mlxgraph.errors.tracebacks import with_edges
from mlxgraph.graph.graph import graph_in
from mlxgraph.record.stack import exit_of_block
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
        self._given = example
        self._trace: Trace | None = None
        self._statement: Any = None  # the `with` statement, while it runs (`record.stack`)
        self._watch: Any = None

    def __enter__(self) -> M:
        tokens = mx.zeros((1, EXAMPLE_LENGTH), mx.int32)
        call = prepare(self._given or (tokens,), self._engine)
        self._trace = Trace(self._engine, call)
        statement = None if self._statement is None else self._statement()
        self._watch = None if statement is None else weakref.ref(statement, self._over)
        try:
            self._trace.__enter__()
        except Exception as error:
            if self._given or isinstance(error, MLXGraphError):
                raise
            raise InputError(
                f"the block cannot be recorded on {EXAMPLE_LENGTH} token ids, which this model does"
                f" not take: {error}\n  Write model.edit(x), with an input x of its kind to"
                " record on."
            ) from error
        return self._model(self._engine)

    @exit_of_block
    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        assert self._trace is not None
        self._trace.__exit__(kind, error, traceback)
        self._watch = None
        if error is None:
            self._engine.edits = self._trace.graph

    if not TYPE_CHECKING:  # a type checker says by itself that a block has none of these

        def __call__(self, *args, **kwargs):
            raise NotEnteredError()

        def __getitem__(self, name):
            raise NotEnteredError()

        def __getattr__(self, name):
            if name.startswith("_"):
                raise AttributeError(name)
            raise NotEnteredError()

        def __setattr__(self, name, value):
            if not name.startswith("_"):
                raise NotEnteredError()
            object.__setattr__(self, name, value)

    def _over(self, _: Any) -> None:
        """The statement is over and an interrupt kept `__exit__` from saying so."""
        if self._trace is not None:
            self._trace.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        self._watch = None


def check_example(given: Any, more: tuple) -> None:
    """Inputs to record with, and not what was meant as edits.  Raises: NotAGraphError."""
    parts = list(given.values() if isinstance(given, Mapping) else [given])
    if isinstance(given, (list, tuple)):
        parts = list(given)
        if parts and all(graph_in(part) is not None for part in parts):
            raise NotAGraphError(given, "Write model.edit(first >> second) for several of them.")
    elif isinstance(given, str):
        parts = list(more[:1])
    if any(callable(part) or graph_in(part) is not None for part in parts):
        raise NotAGraphError(
            given,
            "Write model.edit(mg.edit('layers.2', iv.zero_out)), and `>>` between several;"
            " to record edits, `with model.edit() as edited:`.",
        )
