"""One generation from several texts: the block is written as for one of them, and done to each.

In: prompts of any lengths, and mlx-lm's batched loop.  Out: for each prompt its new tokens, their
text, and the values of each save.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from mlxgraph.errors import NoTokenizerError
from mlxgraph.errors.tracebacks import with_edges
from mlxgraph.graph.graph import Graph
from mlxgraph.graph.held import Window
from mlxgraph.mlx_facts import random_state
from mlxgraph.ranks.together import Work
from mlxgraph.record.recording import Recording
from mlxgraph.rewrite.rows_joined import Row
from mlxgraph.run.engine import Engine
from mlxgraph.trace.generation import Generation, Loop, Token, by_itself
from mlxgraph.trace.generation_ranks import generate_together, mine
from mlxgraph.trace.pieces import joined
from mlxgraph.trace.row_forwards import RowForwards

DRAWN = -1  # among the texts' numbers: the random state after those that draw


class _Whole(NamedTuple):
    """A value of one step that is put together already."""

    value: Any


def _value(found: Any) -> Any:
    return found.value if isinstance(found, _Whole) else joined(found)


class Texts:
    """Which texts the next forward is given, for whoever runs the loop to say.

    Attributes:
        lengths: of each prompt; at: how many tokens of each text the model has been given.
        mine: the texts that this process generates.
        rows: the texts in the next forward, row by row.
        prompts: whether it is given prompts, of which each row has its own number, padded at the
            right; otherwise it has one token of each.
    """

    def __init__(self, lengths: Sequence[int], mine: Sequence[int]):
        self.lengths, self.mine = list(lengths), list(mine)
        self.at = [0] * len(self.lengths)
        self.rows: list[int] = []
        self.prompts = False

    def windows(self, count: int) -> list[tuple[Row, Window]]:
        """Each row's text, columns and window in a forward of `count` columns."""
        found = []
        for row, text in enumerate(self.rows):
            start, prompt = self.at[text], self.lengths[text]
            own = min(count, prompt - 1 - start) if self.prompts else 1
            if own <= 0:
                continue
            step = max(0, start + own - prompt)
            length = max(start + own, prompt)
            found.append((Row(text, row, (0, own)), Window(start, start + own, length, step)))
        return found

    def given(self, windows: list[tuple[Row, Window]]) -> None:
        """A forward is over."""
        for row, window in windows:
            self.at[row.text] = window.stop


@with_edges
class BatchGeneration(Generation):
    """A generation from several prompts.  Made by `InterpretableModel.generate` of a list.

    Attributes after the block: `tokens` and `text`, a list of each prompt's; saved values are a
    value a step, and each of these is a list with an entry a prompt: None where its text had ended,
    or its forward held nothing of what is saved.
    """

    def __init__(self, engine: Engine, loop: Loop, *given: Any):
        super().__init__(engine, loop, *given)
        lengths = loop.prompt.lengths or []
        self._of_text: list[list[int]] = [[] for _ in lengths]
        self._text_of: list[list[str]] = [[] for _ in lengths]

    def _ran_through(self, recording: Recording, graph: Graph) -> Generator[Any]:
        every = range(len(self._of_text))
        spread = self._engine.runner.tree.is_spread
        if spread or self._under_way is not None:  # all ranks compute it, or this one shows it
            yield from self._steps_of(every, recording, graph)
            return
        with generate_together(self._engine) as work:
            own, in_one_order = every, False
            if work.size > 1:
                own, in_one_order = mine(work, self._engine, self._loop, graph, self._params)
            for step in self._steps_of(own, recording, graph):
                work.check()
                if work.size == 1:
                    yield step
            if work.size > 1:
                self._put_together(work, own, in_one_order)

    def _put_together(self, work: Work, own: Sequence[int], in_one_order: bool) -> None:
        """What all ranks found."""
        found: dict[int, Any] = {
            text: (self._of_text[text], self._text_of[text], self._values_of(text)) for text in own
        }
        if in_one_order and work.rank == 0:
            found[DRAWN] = random_state.current()
        every = work.exchanged(found)
        if in_one_order:  # where the random state is after the draws, it is on every rank
            random_state.restore(every.pop(DRAWN))
        self._values = [{} for _ in self._values]
        for text, (tokens, pieces, values) in every.items():
            self._of_text[text], self._text_of[text] = tokens, pieces
            for of, steps in zip(self._values, values, strict=True):
                for step, value in steps.items():
                    of.setdefault(step, {})[text] = _Whole(value)  # type: ignore[call-overload]
        steps = max(map(len, self._of_text))
        self._tokens = [sum(len(own) > k for own in self._of_text) for k in range(steps)]

    def _values_of(self, text: int) -> list[dict[int, Any]]:
        """Of each save a text's values by step."""
        found: list[dict[int, Any]] = []
        for of in self._values:
            by_step: dict[int, Any] = of
            own = {step: joined(some[text]) for step, some in by_step.items() if text in some}
            found.append(own)
        return found

    def _steps_of(self, mine: Sequence[int], recording: Recording, graph: Graph) -> Generator[Any]:
        """The steps of some texts."""
        lengths = self._loop.prompt.lengths or []
        texts = Texts(lengths, mine)
        forwards = RowForwards(self._engine, recording, graph, self._params, self._length)
        for length in sorted(set(lengths)):
            forwards.text.look_ahead(0, length)
        names = [name for name, _ in graph.saves]
        places = dict(zip(names, self._values, strict=True))

        def forward(tokens: mx.array, *args: Any, **kwargs: Any) -> Any:
            windows = texts.windows(tokens.shape[1])
            output, saves = forwards.rows(windows, (tokens, *args), kwargs)
            steps = {row.text: window.step for row, window in windows}
            for text, save, value in saves:
                of = places[save.name].setdefault(steps[text], {})  # type: ignore[arg-type]
                of.setdefault(text, []).append((save, value))  # type: ignore[attr-defined]
            texts.given(windows)
            return output

        for came in by_itself(self._loop.pieces(forward, texts)):
            for text, number, piece in came:
                self._of_text[text].append(number)
                self._text_of[text].append(piece)
            self._tokens.append(len(came))  # one entry a step
            by_text = {text: Token(number, piece) for text, number, piece in came}
            yield [by_text.get(text) for text in range(len(lengths))]

    def _step_values(self, of: Any) -> dict[int, Any]:
        found = {}
        for step, by_text in of.items():
            row = [
                _value(by_text[text]) if text in by_text and step < max(len(tokens), 1) else None
                for text, tokens in enumerate(self._of_text)
            ]
            if any(value is not None for value in row):
                found[step] = row
        return found

    @property
    def tokens(self) -> Any:
        """For each prompt the ids of its new tokens so far."""
        self._ran()
        return [list(tokens) for tokens in self._of_text]

    @tokens.setter
    def tokens(self, value: Any) -> None:
        """Of a plain trace it is what the model was given."""

    @property
    def text(self) -> Any:
        """For each prompt the text of its new tokens so far.  Raises: NoTokenizerError."""
        self._ran()
        if not self._loop.has_text:
            raise NoTokenizerError("t.text")
        return ["".join(pieces) for pieces in self._text_of]

    def stream(self) -> Iterator[Any]:
        """As of one prompt, a step at a time: a list of each prompt's token, None where it has
        ended."""
        if self._state != "done":
            return super().stream()
        steps = max(map(len, self._of_text), default=0)
        pairs = list(zip(self._of_text, self._text_of, strict=True))
        return ([Token(n[k], p[k]) if k < len(n) else None for n, p in pairs] for k in range(steps))
