"""The thread that speaks to the other ranks: one message after another, in one order for all.

A rank that waits for others waits inside MLX, where no Ctrl-C reaches it.  So a thread waits there,
and whoever asked it waits here.

In: what to say.  Out: what all ranks said, or that one of them was lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import mlx.core as mx
import numpy as np

from mlxgraph.errors import RankError
from mlxgraph.mlx_facts.processes import Group, Line, bytes_of, together

T = TypeVar("T")
PIECE = 1 << 26  # bytes of each rank that go at once


class Answer(Generic[T]):
    """What a job gives, once it is done."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None

    def give(self, value: Any, error: BaseException | None) -> None:
        self._value, self._error = value, error
        self._done.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it was done in time."""
        return self._done.wait(seconds)

    @property
    def error(self) -> BaseException | None:
        """What went wrong, of a job that is done."""
        return self._error

    def get(self) -> T:
        """The value, waited for.  Raises: RankError where a rank was lost."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[no-any-return]


class Post:
    """Speaks to all ranks of a group, itself among them."""

    def __init__(self, group: Group):
        self.rank, self.size = group.rank(), group.size()
        self._group = group
        self._jobs: SimpleQueue[tuple[Callable[[Line], Any], Answer[Any]]] = SimpleQueue()
        threading.Thread(target=self._run, name="mlxgraph ranks", daemon=True).start()

    def ask(self, job: Callable[[Line], T]) -> Answer[T]:
        """Have something said; each rank has to ask for the same."""
        answer: Answer[T] = Answer()
        self._jobs.put((job, answer))
        return answer

    def _run(self) -> None:
        line = Line(self._group)
        gone: RankError | None = None
        while True:
            job, answer = self._jobs.get()
            try:
                if gone is not None:
                    raise gone
                answer.give(job(line), None)
            except RankError as error:  # said by all ranks, which still hear each other
                gone = error if error is gone else None
                answer.give(None, error)
            except RuntimeError as error:
                gone = lost(error)
                answer.give(None, gone)
            except BaseException as error:  # whoever asked raises it
                answer.give(None, error)


def lost(error: RuntimeError) -> RankError:
    """What to say where MLX says that another rank has ended."""
    return RankError(
        f"another rank of this run is no longer there ({error})",
        "What that rank said before it ended is the reason.  If it ended well, this rank has made"
        " a call that the other did not: every rank makes the same ones, or writes `with"
        " mg.alone():` around its own.",
    )


def numbers(line: Line, own: list[int]) -> np.ndarray:
    """Some whole numbers of each rank: (ranks, as many)."""
    rows = line.gathered(bytes_of(np.array(own, dtype=np.int64).tobytes()))
    return np.frombuffer(bytes(memoryview(rows)), np.int64).reshape(-1, len(own))


def texts(line: Line, own: str, most: int = 2048) -> list[str]:
    """A text of each rank, cut where it is long."""
    data = own.encode()[:most]
    rows = line.gathered(bytes_of(data + bytes(most - len(data))))
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in np.array(rows)]


def whole(line: Line, own: mx.array) -> list[mx.array]:
    """Bytes of each rank, computed.  Args: own: computed, as many on each rank."""
    pieces: list[list[mx.array]] = [[] for _ in range(line.size)]
    for start in range(0, own.size, PIECE):
        rows = line.gathered(own[start : start + PIECE])
        for rank, found in enumerate(pieces):
            found.append(rows[rank])
    return [together(found, own.size) for found in pieces]
