"""`model.edit(g).as_module()`: an edited model as the `nn.Module` that mlx-lm's own functions take.

It is the wrapped module in all but its call: parameters, children, settings and methods are those
of the module itself, read and written there.  What is called with a cache counts positions from
the start of the text, by what the cache holds already.

In: an engine with edits.  Out: a module.  Never: weights of its own.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import mlx.nn as nn

from mlxgraph.errors import MissingParamError, PartOfTextError
from mlxgraph.errors.tracebacks import at_the_edge
from mlxgraph.graph import ops
from mlxgraph.graph.deferred import Edit, is_graph
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.held import Window
from mlxgraph.graph.values import frozen_leaves
from mlxgraph.mlx_facts.loops import still_to_come
from mlxgraph.mlx_facts.modules import attach
from mlxgraph.model.called import called
from mlxgraph.record.param import holes
from mlxgraph.rewrite.rows_joined import Row
from mlxgraph.run.cache import Recent
from mlxgraph.run.engine import Engine
from mlxgraph.trace.cache_lengths import length_of, rows_of_cache
from mlxgraph.trace.forwards import Forwards, text_call
from mlxgraph.trace.row_forwards import RowForwards
from mlxgraph.trace.trace import Trace

SHORTEST = 8  # of the texts that edits are recorded on, beyond the positions that they name
MOST_KINDS = 8
_OWN = "_mlxgraph"


class EditedModule(nn.Module):
    """An edited model that goes where a model of mlx-lm does.  Made by `as_module`."""

    def __init__(self, engine: Engine, each_call: bool):
        attach(self, _OWN, _Edited(engine, each_call))
        dict.update(self, engine.root)  # what MLX itself looks at is a dict

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__[_OWN].forward(args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == _OWN:
            raise AttributeError(name)
        return getattr(_root(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_root(self), name, value)
        _same_entries(self)

    def __delattr__(self, name: str) -> None:
        delattr(_root(self), name)
        _same_entries(self)

    @property
    def state(self) -> Any:
        return _root(self).state

    @property
    def training(self) -> bool:
        return _root(self).training

    def __deepcopy__(self, memo: dict[int, Any]) -> EditedModule:
        """The edits on a copy of the model."""
        edited = self.__dict__[_OWN]
        return type(self)(copy.deepcopy(edited.engine, memo), edited.each_call)

    def __reduce_ex__(self, protocol: Any) -> Any:
        edited = self.__dict__[_OWN]
        return _put_together, (edited.engine, edited.each_call)

    def __repr__(self) -> str:
        return f"<{type(_root(self)).__name__} with {self.__dict__[_OWN].graph!r}>"


def _root(module: Any) -> nn.Module:
    return module.__dict__[_OWN].root


def _same_entries(module: Any) -> None:
    dict.clear(module)
    dict.update(module, _root(module))


def _of_the_root(name: str) -> Any:
    """A method of modules or dicts that is done to the wrapped module."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        root = _root(self)
        result = getattr(root, name)(*args, **kwargs)
        if name not in _READS:
            _same_entries(self)
        return self if result is root else result

    return method


_READS = frozenset(
    """__getitem__ __contains__ __iter__ __len__ items keys values get copy parameters children
    trainable_parameters modules named_modules leaf_modules filter_and_map save_weights""".split()
)
_OF_DICT = """__getitem__ __setitem__ __delitem__ __contains__ __iter__ __len__ items keys values
get pop popitem setdefault clear copy""".split()
_OF_MODULE = [
    name
    for name, member in vars(nn.Module).items()
    if isinstance(member, FunctionType) and not name.startswith("__")
]
for _name in (*_OF_DICT, *_OF_MODULE):
    setattr(EditedModule, _name, _of_the_root(_name))


@functools.cache
def _kind(root: type) -> type[EditedModule]:
    """The class for wrapped modules of a class: its call says what it takes as theirs does."""
    call = root.__call__

    @at_the_edge
    @functools.wraps(call)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        return EditedModule.__call__(self, *args, **kwargs)

    members = {"__call__": __call__, "__module__": root.__module__, "__doc__": root.__doc__}
    return type(root.__name__, (EditedModule,), members)


def _put_together(engine: Engine, each_call: bool) -> EditedModule:
    root: Any = type(engine.root)
    return _kind(root)(engine, each_call)


def as_module(self: Any, *, each_call: bool = False) -> nn.Module:
    """The model with the edits that stay on it, as an `nn.Module` for mlx-lm's own functions.

    `mlx_lm.generate`, `stream_generate`, `batch_generate`, `evaluate`, the server and LoRA training
    take it unchanged: parameters and children are the wrapped module's own, and training changes
    them there.  Called with a cache, positions count from the start of the text.

    Args:
        each_call: let positions that count from the end, `h[:, -1]`, mean the last token of each
            call.  Without it they mean the newest token of each step in mlx-lm's own loops, which
            give the prompt in chunks, and its last token on its own; in a loop of another's they
            raise in a call of several tokens with a cache, for nobody says which is the last.

    Returns: an `nn.Module`.
    Raises: MissingParamError for edits with params that have no values, PartOfTextError for edits
        that have no meaning in forwards on parts of a text, or that are for some steps alone.

    Example:
        >>> import mlx_lm
        >>> model = mg.tiny()
        >>> quiet = model.edit(mg.edit("layers.*.mlp", iv.scale(0.5))).as_module()
        >>> mlx_lm.generate(quiet, model.tokenizer, "The capital of France is", max_tokens=2)
        'Paris.'
    """
    return _put_together(self._engine, each_call)


class _Edited:
    """What an EditedModule is called by, and what was worked out for it."""

    def __init__(self, engine: Engine, each_call: bool):
        self.engine = engine
        self.root = engine.root
        self.graph = engine.edits.replace(saves=())
        self.each_call = each_call
        self._kinds: Recent[Any, RowForwards] = Recent(MOST_KINDS)
        self._tree: Any = None
        if engine.is_edited:
            self._forwards(1).text.look_ahead(0, 2, keep=False)

    def forward(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        cache = self._cache(args, kwargs)
        if not self.engine.is_edited:
            return self.root(*args, **kwargs)
        if cache is None:
            return called(self.engine, args, kwargs)
        batch, count = args[0].shape
        forwards = self._forwards(batch)
        if forwards.text.is_the_same_everywhere(count):
            return forwards(Window(0, count, count, 1), args, kwargs)[0]
        start = length_of(cache)
        if start is not None:
            return forwards(self._window(forwards, start, count), args, kwargs)[0]
        starts = rows_of_cache(cache)
        if starts is None:
            raise PartOfTextError(
                "these edits are at some positions, and where a text's positions are in this"
                " cache cannot be told",
                "model.as_module()",
                "Write model.generate(...), or edit every position.",
            )
        own = self._forwards(1)
        rows = []
        for row, start in enumerate(starts):
            before = min(max(-start, 0), count)  # columns of padding
            if before < count:
                window = self._window(own, start + before, count - before)
                rows.append((Row(row, row, (before, count)), window))
        return own.rows(rows, args, kwargs)[0]

    def _cache(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The cache of a call, as the wrapped module's own signature has it."""
        if "cache" in kwargs or len(args) < 2:
            return kwargs.get("cache")
        names = list(inspect.signature(self.root.__call__).parameters)  # type: ignore[operator]
        return dict(zip(names, args, strict=False)).get("cache")

    def _window(self, forwards: Forwards, start: int, count: int) -> Window:
        """The tokens of a call, in the text that the cache holds."""
        stop, text = start + count, forwards.text
        if self.each_call or not text.names_ends:
            return Window(start, stop, stop, 1)
        later = still_to_come()
        if later is None:  # a loop of somebody's own: one token is the newest
            length, told = stop, count == 1
        elif later < 0:
            length, told = stop + 1, False
        else:
            length, told = stop + later, True
        if not told and text.counts_from_the_end(start, stop, length):
            raise PartOfTextError(
                "these edits count positions from the end, and in a call of several tokens with a"
                " cache it cannot be told which is the prompt's last",
                "model.as_module()",
                "Write model.generate(...), which knows; count from the start, h[:, 5]; or write"
                " as_module(each_call=True) for the last token of each call.",
            )
        return Window(start, stop, length, 1)

    def _forwards(self, rows: int) -> RowForwards:
        tree = self.engine.runner.refresh()
        if tree is not self._tree:
            self._kinds.clear()
            self._tree = tree
        key = (rows, self.root.training)
        known = self._kinds.get(key)
        return known if known is not None else self._kinds.put(key, self._recorded(rows))

    def _recorded(self, rows: int) -> RowForwards:
        """The edits on a text that is long enough for the positions that they name: of `h[:, 7:]`
        there are several too, or it would be taken for one position."""
        length = SHORTEST + max(map(abs, _numbers(self.graph)), default=0)
        trace = Trace(self.engine.with_edits(Graph()), text_call(length, rows), graph=self.graph)
        made: list[RowForwards] = []

        def kept(recording: Any) -> None:
            graph = recording.graph().replace(saves=())
            for name in holes(graph):
                raise MissingParamError(name)
            _check_steps(graph)
            made.append(RowForwards(self.engine, recording, graph, {}, length, rows, True))

        trace.recorded(kept)
        return made[0]


def _check_steps(graph: Graph) -> None:
    for node in graph.nodes():
        if node.op == ops.AT_STEPS:
            note = graph.notes.get(node)
            raise PartOfTextError(
                "edits for some steps of a generation need one that counts them",
                (note and note.where) or "t.step",
                "Write model.generate(prompt, graph=g).",
            )


def _numbers(graph: Graph) -> Iterator[int]:
    """The whole numbers among a graph's indices, those of deferred edits included."""
    for node in graph.nodes():
        if node.op in (ops.GETITEM, ops.UPDATE):
            yield from (leaf for leaf in frozen_leaves(node.args[1]) if type(leaf) is int)
    for one in graph.then:
        if is_graph(one):
            yield from _numbers(one)
        elif isinstance(one, Edit):
            where = one.positions
            bounds = (where.start, where.stop) if isinstance(where, slice) else where
            several = bounds if isinstance(bounds, tuple) else (bounds,)
            yield from (number for number in several if isinstance(number, int))
