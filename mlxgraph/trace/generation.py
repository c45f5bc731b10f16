"""One generation: a block that is recorded as if the whole text went through the model at once, and
mlx-lm's own loop, in which each forward does its part of it.

In: a prompt, how to run mlx-lm's loop, and the block.  Out: new tokens, their text, and of each
save one value a step.
Never: a loop, a sampler or a cache of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.errors import (
    InputError,
    LookError,
    MLXGraphError,
    NoStepError,
    NoTokenizerError,
    OperationError,
    UnboundParamError,
)
from mlxgraph.errors.source_line import here
from mlxgraph.errors.tracebacks import trim_installed, with_edges
from mlxgraph.graph import ops
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.held import Window
from mlxgraph.graph.node import Node, walk
from mlxgraph.graph.site import Site
from mlxgraph.graph.steps import last_named, spoken_steps
from mlxgraph.record.recording import Recording
from mlxgraph.record.stack import paused
from mlxgraph.run.call import Call
from mlxgraph.run.engine import Engine
from mlxgraph.trace.forwards import Forwards, text_call
from mlxgraph.trace.generation_ranks import in_step
from mlxgraph.trace.ids import check_ids
from mlxgraph.trace.past import check_to_come, written_so_far
from mlxgraph.trace.pieces import joined
from mlxgraph.trace.steps_of import StepsOf
from mlxgraph.trace.trace import Interventions, Trace


class Loop(NamedTuple):
    """How tokens come about.

    Attributes:
        prompt: the call of the prompt's tokens, (1, length).
        start: the number of tokens that a prompt cache holds already.
        most: how many new tokens there may be.
        pieces: given what to call in place of the model, yields each new token and its text.
        has_text: whether there is a tokenizer to say what the text is.
        compile: whether to compile the forward of one new token.
        options: what else was asked for, by name.
    """

    prompt: Call
    start: int
    most: int
    pieces: Callable[..., Iterator[Any]]
    has_text: bool
    compile: bool = False
    options: Mapping[str, Any] = {}


class Token(int):
    """A new token's id, and in `text` the piece of text that it finishes."""

    text: str

    def __new__(cls, number: int, text: str) -> Token:
        token = super().__new__(cls, number)
        token.text = text
        return token


@with_edges
class Generation(Trace):
    """One block of edits and saves over a whole generation.  Made by `InterpretableModel.generate`.

    Positions count from the start of the text.  Without a block it runs when its tokens, its text
    or a saved value is asked for.

    Attributes after the block:
        graph: what was recorded, as an immutable value.
        tokens: the new tokens' ids; step k gave the k-th.
        text: their text.
        saved_values: by name, each one value a step.
    """

    def __init__(
        self,
        engine: Engine,
        loop: Loop,
        interventions: Interventions | None = None,
        graph: Graph | None = None,
        params: Mapping[str, Any] | None = None,
    ):
        # mlx-lm gives the last new token to the model too, though nobody asks for what follows it
        length = loop.start + len(loop.prompt.tokens[0]) + loop.most  # type: ignore[index]
        super().__init__(engine, text_call(length), interventions, graph, params, None)
        self._loop = loop
        self._scopes: list[tuple[Any, list[Node], str]] = []
        self._tokens: list[int] = []
        self._pieces: list[str] = []
        self._values: list[dict[int, Any]] = []
        self._shown: list[dict[int, Any]] = []  # of these what the handles have
        self._under_way: Generator[Token] | None = None
        self._state = "new"

    # -- the block --------------------------------------------------------------------------------

    def __enter__(self) -> Generation:
        if self._state != "new":
            raise InputError("this generation has run.\n  Write model.generate(...) for another.")
        super().__enter__()
        self._state = "open"
        try:
            assert self._recording is not None
            self._before = written_so_far(self._recording)
            check_ids(self._recording.census.rows, self._loop.prompt)
        except BaseException:
            self._close()
            raise
        return self

    def _finish(self) -> None:
        """Run all that the block did not take from `stream` itself."""
        if self._state == "open":
            for _ in self._run():
                pass
        for values in self._logged:
            sys.stdout.write(" ".join(map(str, values)) + "\n")

    def _close(self) -> None:
        super()._close()
        if self._under_way is not None:  # whatever ended the block: what came so far is kept
            self._under_way.close()

    def _run(self) -> Generator[Token]:
        """The tokens as they come; whatever ends it, the saves have what there was."""
        recording = self._recording
        assert recording is not None
        recording.check_escapes()
        self._graph = graph = recording.graph()
        self._params = recording.bind(graph, self._params)
        super()._close()
        self._state, self.lengths = "done", self._loop.prompt.lengths
        if recording.unbound:
            raise UnboundParamError(recording.unbound, of_generation=True)
        self._check_scopes(recording)
        self._values = [{} for _ in graph.saves]
        try:
            with closing(self._ran_through(recording, graph)) as own:
                for token in in_step(self._engine, self._loop, graph, self._params, own):
                    if self._under_way is not None and graph.saves:
                        self._show(recording, graph)  # who takes tokens as they come may look
                    yield token
        except MLXGraphError as error:
            trim_installed(error)
            raise
        finally:
            self._fill(recording, graph)
        self._check_steps_came()

    def _ran_through(self, recording: Recording, graph: Graph) -> Generator[Token]:
        forwards = Forwards(
            self._engine, recording, graph, self._params, self._length, compile=self._loop.compile
        )
        first, prompt = self._loop.start, self._loop.start + self._prompt_length
        if first:
            check_to_come(recording, graph, self._before, first, forwards.axes_of)
        forwards.text.look_ahead(first, prompt)
        names = [name for name, _ in graph.saves]
        stepper = _Stepper(forwards, first, prompt, names, self._values)
        for number, text in by_itself(self._loop.pieces(stepper)):
            self._tokens.append(number)
            self._pieces.append(text)
            yield Token(number, text)

    def _fill(self, recording: Recording, graph: Graph) -> None:
        """Give every saved handle what there is: of the steps whose tokens came."""
        self._shown = results = [self._step_values(of) for of in self._values]
        names = [name for name, _ in graph.saves]
        self.saved_values = recording.saved.finish_steps(names, results)

    def _show(self, recording: Recording, graph: Graph) -> None:
        """Give the saved handles what the newest step has: in time that does not grow."""
        step = len(self._tokens) - 1
        if step < 1:  # the first, or the steps of several texts, which need not be the same
            self._fill(recording, graph)
            return
        for shown, of in zip(self._shown, self._values, strict=True):
            if step in of:
                shown.update(self._step_values({step: of[step]}))

    def _step_values(self, of: Any) -> dict[int, Any]:
        """The values of a save by step, of what each forward gave."""
        count = max(len(self._tokens), 1)
        return {step: joined(pieces) for step, pieces in of.items() if step < count}

    @property
    def _length(self) -> int:
        return self._call.args[0].shape[1]

    @property
    def _prompt_length(self) -> int:
        tokens = self._loop.prompt.tokens
        assert tokens is not None
        return tokens.shape[1]

    # -- steps ------------------------------------------------------------------------------------

    @property
    def step(self) -> StepsOf:
        """`with t.step[1:]:` edits and saves at these steps alone; 0 is the prompt."""
        return StepsOf(self._at, self._loop.most)

    iter = step

    def all(self) -> Any:
        """`with t.all():` every step, as a block without it does."""
        return self.step[:]

    @contextmanager
    def _at(self, steps: Any, where: str) -> Iterator[Any]:
        recording = self._open_recording("t.step")
        before = recording.saved.steps
        recording.saved.steps = (*before, steps)
        try:
            with recording.sites.at_steps(steps, recording.build) as inside:
                yield steps
        finally:
            recording.saved.steps = before
        self._scopes.append((steps, inside, where))

    def _check_scopes(self, recording: Recording) -> None:
        """What was edited under `t.step` is a site's value there alone; a handle on it, used beside
        the block of these steps, would be of every step."""
        changed = {node: (steps, where) for steps, nodes, where in self._scopes for node in nodes}
        if not changed:
            return
        written = [node for _, node in recording.sites.writes()]
        nodes = walk([*written, *(node for _, node in recording.saved.named())])
        uses = [(node.inputs, node) for node in nodes if node.op != ops.AT_STEPS]
        uses += [((node,), node) for node in written]
        inside = {n for _, nodes, _ in self._scopes for root in nodes for n in walk([root])}
        for inputs, node in uses:
            for child in inputs:
                if child in changed and node not in inside:
                    steps, where = changed[child]
                    raise InputError(
                        f"what was edited under {spoken_steps(steps)} is used outside of it.\n"
                        f"  at {where}\n  Read it again after the block, `model.layers[3].output`:"
                        " at other steps it has another value."
                    )

    def _check_steps_came(self) -> None:
        count = len(self._tokens)
        for steps, _, where in self._scopes:
            if type(steps) is not slice and last_named(steps) >= count and _is_named(steps):
                raise NoStepError(
                    f"{spoken_steps(steps)} never came: the generation ended after {count} tokens,"
                    f" steps 0 to {count - 1}.",
                    where,
                    "What was generated is kept, t.tokens; write a slice, t.step[1:], for steps"
                    " that need not come.",
                )

    # -- results ----------------------------------------------------------------------------------

    def stream(self) -> Iterator[Token]:
        """The new tokens as they come: ints, each with the `text` that it finishes.

        In the block this is what runs it, and nothing can be recorded from here on; what is not
        taken when the block ends is not generated.  After the block it goes over what there is.
        """
        if self._state == "new":
            self.__enter__()
        if self._state == "open":
            self._under_way = self._run()
            return self._under_way
        pairs = zip(self._tokens, self._pieces, strict=True)
        return (Token(number, text) for number, text in pairs)

    def _ran(self) -> None:
        """Without a block: run it now."""
        if self._state != "new":
            return
        try:
            with self:
                pass
        except AttributeError as error:  # Python would take it for that of a missing attribute
            self._failed = error
            raise

    def __getattr__(self, name: str) -> Any:
        failed = vars(self).pop("_failed", None)
        if failed is not None:
            raise failed
        return super().__getattr__(name)

    @property
    def tokens(self) -> Any:
        """The ids of the new tokens so far: step k gave the k-th."""
        self._ran()
        return list(self._tokens)

    @tokens.setter
    def tokens(self, value: Any) -> None:
        """Of a plain trace it is what the model was given."""

    @property
    def text(self) -> str:
        """The text of the new tokens so far.  Raises: NoTokenizerError."""
        self._ran()
        if not self._loop.has_text:
            raise NoTokenizerError("t.text")
        return "".join(self._pieces)

    @property
    def saved_values(self) -> Any:
        """What was saved, by name: each one value a step."""
        if self._state == "new":
            self._ran()
        return self._saved

    @saved_values.setter
    def saved_values(self, value: Any) -> None:
        self._saved = value

    def _values_at(self, sites: list[Site]) -> list[Any]:
        raise LookError(
            f"{', '.join(map(str, sites[:3]))}: of a generation there is what its block saved, and"
            f" nothing else.\n  at {here()}\n  Save it in the block."
        )

    def __iter__(self) -> Iterator[Any]:
        raise OperationError(
            "iteration",
            "a generation",
            str(here()),
            "Write `for token in t.stream():` for the tokens as they come, t.tokens for all.",
        )

    def __repr__(self) -> str:
        model = f"InterpretableModel({type(self._engine.root).__name__})"
        return f"<Generation ({self._state}) of {model}: {len(self._tokens)} new tokens>"


def by_itself(pieces: Iterator[Any]) -> Iterator[Any]:
    """What mlx-lm's loop gives, while whose code runs no open block of another model records."""
    while True:
        with paused():
            try:
                came = next(pieces)
            except StopIteration:
                return
        yield came


def _is_named(steps: Any) -> bool:
    return isinstance(steps, (int, tuple))


class _Stepper:
    """What mlx-lm calls in place of the model: one forward after the other."""

    def __init__(
        self,
        forwards: Forwards,
        start: int,
        prompt: int,
        names: list[str],
        values: list[dict[int, list]],
    ):
        self._forwards = forwards
        self._at = start
        self._prompt = prompt
        self._step = 0
        self._places = {name: of for name, of in zip(names, values, strict=True)}

    def __call__(self, tokens: mx.array, *args: Any, **kwargs: Any) -> Any:
        start, stop = self._at, self._at + tokens.shape[1]
        if start >= self._prompt:
            self._step += 1
        length = max(stop, self._prompt)
        window = Window(start, stop, length, self._step)
        output, saves = self._forwards(window, (tokens, *args), kwargs)
        for save, value in saves:
            self._places[save.name].setdefault(self._step, []).append((save, value))
        self._at = stop
        return output
