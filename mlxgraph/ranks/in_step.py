"""What every rank does at once: a forward of a model that is spread over them.

Such a forward waits for all ranks.  So they tell each other before it that they are there, and that
they are about to do the same; a rank that has failed instead says so, and no other waits for it.

In: what is to be done, lazily.  Out: what it gave, or the failure of another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import mlx.core as mx

from mlxgraph.errors import RankError, RanksDifferError
from mlxgraph.mlx_facts.processes import Line, says_lost, versions
from mlxgraph.ranks.post import Answer, Post, lost, numbers, texts
from mlxgraph.ranks.said import BYTES, digest
from mlxgraph.ranks.watch import PATIENCE, failure, told
from mlxgraph.ranks.world import others

T = TypeVar("T")
MOST = 10  # things that ranks compare
READY, BROKEN = 1, 2
VERSIONS = "versions"
_TOLD = "_mlxgraph_told"  # on an error that other ranks know of


def compare(
    post: Post, name: str, state: int, text: str, said: Mapping[str, bytes]
) -> Answer[None]:
    """See that every rank is about to do the same.

    Args: name: of what that is; text: about it, or what has failed; said: digests by name.
    Raises: (when asked for the answer) RankError, RanksDifferError.
    """
    parts = [digest(versions()), digest(name), *said.values()]
    own = [state, *(int.from_bytes(one[:BYTES], "little", signed=True) for one in parts)]
    own += [0] * (MOST + 1 - len(own))
    names = [VERSIONS, "call", *said]

    def job(line: Line) -> None:
        heard = numbers(line, own)
        if (heard[:, 0] == BROKEN).any():
            raise failure(name, line, text if state == BROKEN else "")
        apart = [k for k in range(MOST) if (heard[:, k + 1] != heard[0, k + 1]).any()]
        if apart:
            what = names[apart[0]] if apart[0] < len(names) else "call"
            about = versions() if what == VERSIONS else f"{name}: {text}"
            raise RanksDifferError(what, texts(line, about))

    return post.ask(job)


def in_step(name: str, run: Callable[[], T], said: Callable[[], Mapping[str, bytes]]) -> T:
    """What `run` gives, once all ranks are there.

    Args: run: says nothing to other ranks itself; said: digests of what it is given.
    Raises: RankError where another rank has failed or ended, RanksDifferError.
    """
    post = others()
    if post is None:
        return run()
    try:
        found, own = run(), said()
    except BaseException as error:
        stopped(name, error)
        raise
    with known_to_all():
        compare(post, name, READY, "its own", own).get()
    return found


@contextmanager
def known_to_all() -> Iterator[None]:
    """An error in it is one of every rank, which nobody has to be told of."""
    try:
        yield
    except (RankError, RanksDifferError) as error:
        setattr(error, _TOLD, True)
        raise


def computed(arrays: list[mx.array]) -> None:
    """Compute arrays that need all ranks.  Raises: RankError where one has ended."""
    with by_all():
        mx.eval(arrays)


@contextmanager
def by_all() -> Iterator[None]:
    """What is computed in it needs all ranks.  Raises: RankError where one has ended."""
    try:
        yield
    except RuntimeError as error:
        if not says_lost(error):
            raise
        raise lost(error) from None


def stopped(name: str, error: BaseException) -> None:
    """Let the other ranks know of an error that ends what they would wait for, once."""
    post = others()
    if post is None or hasattr(error, _TOLD):
        return
    setattr(error, _TOLD, True)
    compare(post, name, BROKEN, told(error), {}).wait(PATIENCE)
