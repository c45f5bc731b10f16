"""Several prompts in one forward: `with model.trace() as t:` and `with t.invoke(prompt):` in it.

Each invoke is recorded as if its prompt ran alone, on sites that bear its number.  When the block
ends the prompts become one left-padded batch, and every site of an invoke becomes that invoke's
rows (and its real positions) of the batch's site.  So edits are scoped to their rows, a value of
one invoke can be written in another, and the result equals separate runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import mlx.core as mx

from mlxgraph.errors import InputError, OutsideTraceError, UnboundParamError, UnknownSiteError
from mlxgraph.errors.tracebacks import trim, with_edges
from mlxgraph.graph import ops
from mlxgraph.graph.algebra import rebuilt
from mlxgraph.graph.census import Census
from mlxgraph.graph.graph import Graph, of_graph
from mlxgraph.graph.nested import is_container
from mlxgraph.graph.node import Node, site_node, site_of, walk
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.originals import ARRAY
from mlxgraph.record.handle import not_known_yet
from mlxgraph.record.intercept import intercepted
from mlxgraph.record.recording import Recording
from mlxgraph.record.saved_values import SavedValues
from mlxgraph.record.stack import exit_of_block, paused
from mlxgraph.run.call import Call, describe_call
from mlxgraph.run.engine import Engine
from mlxgraph.trace.batch import Batch, Prompt, unscoped
from mlxgraph.trace.execute import Job, Options, execute, finish
from mlxgraph.trace.gradients import check_gradients
from mlxgraph.trace.ids import check_ids
from mlxgraph.trace.inputs import call_of, prepare
from mlxgraph.trace.open_block import refreshed
from mlxgraph.trace.own_process import deep, refuse_pickle, shallow
from mlxgraph.trace.resolve import intervene, take_in
from mlxgraph.trace.spread import let_others_know
from mlxgraph.trace.text_axes import axes_of

_SAVE = "Save it in its invoke: `with t.invoke(prompt): h = model.layers[1].output.save()`."
_OF_ONE_PROMPT = {  # what a trace of one prompt has, and what to write here
    **dict.fromkeys(("activations", "get_activation", "get", "cache"), _SAVE),
    "output": "Save it in its invoke: `with t.invoke(prompt): logits = model.output.save()`.",
    "layers": "Write model.layers, inside an invoke.",
    "stop": "Leave it out: a forward ends where nothing that is saved needs the rest.",
    ops.APPLY: "Write mg.apply(fn, h).",
    "log": "Save the value in its invoke, and print it after the block.",
}


@with_edges
class Prompts:
    """A trace of several prompts.  Made by `InterpretableModel.trace()` without inputs.

    After the block: `saved_values` by name, `graph` (on the batch), `tokens` and `lengths` of the
    batch.  Saved values have the shapes of their own prompt, unpadded.
    """

    def __init__(self, engine: Engine, params: Mapping[str, Any], options: Options):
        self._engine = engine
        self._options = options
        self._params = params
        self._prompts: list[Prompt] = []
        self._recording = Recording(Census(), engine.root, engine.runner.modules, self._number)
        self._recording.has_prompts()
        self._statement: Any = None  # the `with` statement, while it runs (`record.stack`)
        self._open: intercepted | None = None
        self._graph: Graph | None = None
        self.saved_values: dict[str, Any] = SavedValues()
        self.tokens: mx.array | None = None
        self.lengths: list[int] | None = None

    def __enter__(self) -> Prompts:
        refreshed(self._engine)
        self._open = intercepted(self._recording, self._statement)
        self._open.__enter__()
        return self

    @contextmanager
    def invoke(self, *inputs: Any, interventions: Any = None, **kwargs: Any) -> Iterator[Prompts]:
        """One prompt (or several, as rows) of the batch; what the block edits is these rows.

        Args: inputs: as for `model.trace`.
        Raises: InputError for keyword arguments of the model, which a batch cannot take apart.
        """
        if not inputs:
            raise InputError("an invoke needs a prompt.\n  Write `with t.invoke('a text'):`.")
        if kwargs:
            raise InputError(f"an invoke takes inputs only, not {', '.join(kwargs)}=")
        recording, engine = self._recording, self._engine
        if not recording.open:
            raise OutsideTraceError("t.invoke")
        call = prepare(inputs, engine)
        with paused():
            census = engine.runner.census(call)
            check_ids(census.rows, call)
        with recording.prompt(census):
            self._prompts.append(Prompt(call, census, partial(_one_more, engine, call)))
            find = axes_of(engine, call)
            take_in(recording, engine.edits, engine.names, call.lengths, find)
            intervene(recording, engine.names, interventions or {})
            yield self

    @exit_of_block
    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        recording = self._recording
        if self._open is not None:
            self._open.__exit__()
        recording.close()
        try:
            if error is not None:
                let_others_know(self._engine, error)
                trim(error)
            elif self._prompts:
                self._finish(recording)
        except BaseException as late:
            let_others_know(self._engine, late)
            raise
        finally:
            recording.let_go()

    def _finish(self, recording: Recording) -> None:
        recording.check_escapes()
        call = self._batch()
        self.tokens, self.lengths = call.tokens, call.lengths
        with paused():
            census = self._engine.runner.census(call)
        recorded = recording.graph()
        if recording.takes_gradients:
            check_gradients(recorded, recording.census)
        self._graph = graph = Batch(self._prompts, census).joined(recorded)
        params = recording.bind(graph, self._params)
        job = Job(graph, call, params, self._options, census)
        self.saved_values = finish(self._engine, recording, job)

    def _number(self, recording: Recording, node: Node) -> Any:
        """A number that a model which branches on values makes: of the prompt alone, as edited.

        Raises: LookError for arrays, and where values of other prompts have a part in it.
        """
        recording.check_escapes()
        value, graph = recording.info(node).value, recording.graph()
        numbers = {unscoped(site_of(n))[0] for n in walk([node]) if n.op == ops.SITE}
        if is_container(value) or isinstance(value, ARRAY) or len(numbers) != 1:
            raise not_known_yet()
        mine = [(site, n) for site, n in graph.writes if unscoped(site)[0] in numbers]
        seen = [site_of(n) for n in walk([node, *[n for _, n in mine]]) if n.op == ops.SITE]
        if any(unscoped(site)[0] not in numbers for site in seen):
            raise not_known_yet()
        alone = rebuilt(graph.replace(writes=mine, saves=[("it", node)]), _alone)
        alone = alone.replace(writes=[(unscoped(site)[1], n) for site, n in alone.writes])
        missing = [name for name in alone.params if name not in self._params]
        if missing:
            raise UnboundParamError(missing)
        call = self._prompts[numbers.pop()].call.again()
        options = self._options._replace(compile=False)
        before = random_state.current()
        try:
            return execute(self._engine, Job(alone, call, self._params, options))[0]
        finally:
            random_state.restore(before)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        own = [own for own in (*dir(type(self)), *vars(self)) if own[0] != "_"]
        graph = of_graph(name) or _OF_ONE_PROMPT.get(name, "")
        raise UnknownSiteError(
            name, (), "a trace of several prompts", also=own, advice=graph, kind="method",
            near=[] if graph else None,
        )  # fmt: skip

    __copy__, __deepcopy__, __reduce_ex__ = shallow, deep, refuse_pickle

    @property
    def graph(self) -> Graph:
        """What was recorded, on the sites of the batch."""
        if self._graph is None:
            raise OutsideTraceError("the graph of several prompts, before the block's end,")
        return self._graph

    def __rshift__(self, other: Any) -> Graph:
        return self.graph >> other

    def grad(self, loss: Any, at: Any) -> Any:
        """The gradient of a scalar loss at one value, or at several in one backward pass.

        Args: loss: a recorded scalar of any invoke; at: a proxy of any invoke, or a list of them.
        """
        if not self._recording.open:
            raise OutsideTraceError("trace.grad")
        return self._recording.gradients(loss, at)

    @staticmethod
    def barrier(*_: Any) -> Callable[[], None]:
        """Nothing to wait for: values flow between invokes in any order the forward allows."""
        return lambda: None

    # -- the batch --------------------------------------------------------------------------

    def _batch(self) -> Call:
        """All prompts as the rows of one batch."""
        calls = [prompt.call for prompt in self._prompts]
        if all(call.tokens is not None for call in calls):
            return call_of([row for call in calls for row in _rows(call)], self._engine)
        shapes = {tuple(a.shape[1:] for a in call.args) for call in calls}
        if len(shapes) > 1:
            raise InputError(
                "these inputs cannot share a batch: beyond the first axis their shapes differ, "
                f"{' and '.join(map(str, sorted(shapes)))}.\n  Trace them one by one."
            )
        groups = zip(*[call.args for call in calls], strict=True)
        return describe_call(tuple(mx.concatenate(list(group)) for group in groups), {})


def _one_more(engine: Engine, call: Call) -> Census:
    """What a forward on a prompt visits that has its first row twice."""
    if call.tokens is None:
        args = [mx.concatenate([array, array[:1]]) for array in call.args]
        return engine.runner.census(describe_call(tuple(args), {}))
    rows = _rows(call)
    return engine.runner.census(call_of([*rows, rows[0]], engine))


def _alone(node: Node) -> Node | None:
    """A node of a prompt's, in a forward on this prompt alone."""
    return site_node(*unscoped(site_of(node))[1]) if node.op == ops.SITE else None


def _rows(call: Call) -> list[list[int]]:
    """The real tokens of each row."""
    assert call.tokens is not None and call.lengths is not None
    rows = zip(call.tokens.tolist(), call.lengths, strict=True)  # type: ignore[arg-type]
    return [row[len(row) - length :] for row, length in rows]  # type: ignore[misc, index]
