"""The one thing that other rooms call: a piece of work that the ranks do together.

    with together("mg.get_activations", names) as work:
        work.agree(prompts=digest(rows))
        for number in work.mine(costs):
            found[number] = ...
            work.check()
        values = work.exchanged(found)

Where there is one process, all of it is that process's, and nothing is said.  Within it, whatever
shares work out does it alone.

In: pieces by number, and what each costs.  Out: the values of all pieces, on every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from mlxgraph.mlx_facts.processes import together as laid_out
from mlxgraph.ranks.in_step import BROKEN, READY, compare, known_to_all, stopped
from mlxgraph.ranks.post import Post, whole
from mlxgraph.ranks.share import shares
from mlxgraph.ranks.watch import PATIENCE, Watch, told
from mlxgraph.ranks.wire import packed, unpacked
from mlxgraph.ranks.world import alone, others


class Work:
    """Work that this process does by itself.

    Attributes: rank, size: among those that share it out; several: whether ranks agree on it.
    """

    rank, size, several = 0, 1, False

    def __init__(self, shows: bool = True):
        """Args: shows: whether this rank shows how far it is."""
        self.shows = shows

    def __enter__(self) -> Work:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, at: Any) -> None:
        pass

    def agree(self, summary: str, **said: bytes) -> None:
        """See that every rank is about to do the same.

        Args: summary: what that is, in a few words; said: digests of what it was given, by name.
        Raises: RanksDifferError; RankError where another rank has failed before this.
        """

    def mine(self, costs: Sequence[float], first: Collection[int] = ()) -> list[int]:
        """The numbers of this rank's pieces.

        Args: costs: of every piece; first: numbers of those that are to be rank 0's.
        """
        return list(range(len(costs)))

    def check(self) -> None:
        """Raises: RankError where another rank has failed or ended."""

    def exchanged(self, found: Mapping[int, Any]) -> dict[int, Any]:
        """Every piece's value by number.  Args: found: of this rank's pieces."""
        return dict(found)


class _Spread(Work):
    """Work on a model that is itself spread: each rank does all of it, in step with the others."""

    several = True

    def __init__(self, name: str, post: Post):
        super().__init__(shows=post.rank == 0)
        self._name, self._post = name, post

    def __exit__(self, kind: Any, error: BaseException | None, at: Any) -> None:
        if error is not None:
            stopped(self._name, error)

    def agree(self, summary: str, **said: bytes) -> None:
        with known_to_all():
            compare(self._post, self._name, READY, summary, said).get()

    def check(self) -> None:
        self.agree("its next step")


class _Shared(Work):
    """Work that is shared out."""

    several = True

    def __init__(self, name: str, post: Post):
        super().__init__(shows=post.rank == 0)
        self._name, self._post = name, post
        self.rank, self.size = post.rank, post.size
        self._watch: Watch | None = None
        self._agreed = False
        self._alone = alone()

    def __enter__(self) -> Work:
        self._alone.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, at: Any) -> None:
        self._alone.__exit__(kind, error, at)
        if error is None:
            return
        if self._watch is not None:
            self._watch.failed(error)
        elif not self._agreed:  # not yet, and not any more once it is over
            compare(self._post, self._name, BROKEN, told(error), {}).wait(PATIENCE)

    def agree(self, summary: str, **said: bytes) -> None:
        self._agreed = True
        compare(self._post, self._name, READY, summary, said).get()
        self._watch = Watch(self._post, self._name)

    def mine(self, costs: Sequence[float], first: Collection[int] = ()) -> list[int]:
        return shares(costs, self.size, first)[self.rank]

    def check(self) -> None:
        assert self._watch is not None
        self._watch.check()

    def exchanged(self, found: Mapping[int, Any]) -> dict[int, Any]:
        assert self._watch is not None
        parts = packed(dict(found))
        length = self._watch.done(sum(part.size for part in parts))
        self._watch = None  # from here on no rank listens for failures
        own = laid_out(parts, length)
        rows = self._post.ask(lambda line: whole(line, own)).get()
        every: dict[int, Any] = {}
        for rank, row in enumerate(rows):
            every.update(found if rank == self.rank else unpacked(row))
        return every


def together(name: str, spread: Callable[[], bool] | None = None) -> Work:
    """A piece of work under a name, to be entered.

    Args: spread: whether the model that does it is itself spread over the ranks: then each of them
        takes part in every forward, and there is nothing to share out.
    """
    post = others()
    if post is None:
        return Work()
    if spread is not None and spread():
        return _Spread(name, post)
    return _Shared(name, post)
