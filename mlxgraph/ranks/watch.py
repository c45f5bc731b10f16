"""How each rank learns, while it works, that another has failed.

A few times a second each rank says whether it is still working, has done its share, or has failed.
All of them hear the same, so all of them stop listening at the same word.
"""

from __future__ import annotations

import threading
import traceback

from mlxgraph.errors import RankError
from mlxgraph.mlx_facts.processes import Line
from mlxgraph.ranks.post import Answer, Post, numbers, texts

WORKING, DONE, FAILED = 0, 1, 2
TICK = 0.2  # seconds between two words of a rank that works
PATIENCE = 10.0  # seconds that a rank which has failed waits for others to hear it


class Watch:
    """One piece of common work, on one rank.  Args: what: its name."""

    def __init__(self, post: Post, what: str):
        self._what, self._post = what, post
        self._state, self._length, self._said = WORKING, 0, ""
        self._changed = threading.Event()
        self._answer: Answer[int] = post.ask(self._listen)

    def check(self) -> None:
        """Raises: RankError where another rank has failed or ended."""
        if self._answer.wait(0) and self._answer.error is not None:
            raise self._answer.error

    def done(self, length: int) -> int:
        """This rank has done its share.  Args: length: of what it has to say, in bytes.

        Returns: the length of the longest.
        Raises: RankError where another rank has failed or ended.
        """
        self._length, self._state = length, DONE
        self._changed.set()
        return self._answer.get()

    def failed(self, error: BaseException) -> None:
        """This rank has failed, or stops for another did.  Returns once all ranks have stopped: who
        ends before may have the others killed, by what launched them, before they say why."""
        self._said, self._state = told(error), FAILED
        self._changed.set()
        self._post.ask(lambda line: numbers(line, [FAILED])).wait(PATIENCE)

    def _listen(self, line: Line) -> int:
        while True:
            state = self._state
            heard = numbers(line, [state, self._length if state == DONE else 0])
            if (heard[:, 0] == FAILED).any():
                raise failure(self._what, line, self._said if state == FAILED else "")
            if (heard[:, 0] == DONE).all():
                return int(heard[:, 1].max())
            if state == WORKING:
                self._changed.wait(TICK)


def failure(what: str, line: Line, own: str) -> RankError:
    """What the others raise where a rank has failed.  Each rank asks for it."""
    said = [(rank, text) for rank, text in enumerate(texts(line, own)) if text]
    first = "; ".join(f"rank {rank} of {line.size} failed in {what}: {text}" for rank, text in said)
    return RankError(first.rstrip("."), "So this rank stops too.")


def told(error: BaseException) -> str:
    """An error in a line or two."""
    return "".join(traceback.format_exception_only(error)).strip() or type(error).__name__
