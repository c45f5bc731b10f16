"""The writer: shards on a thread of its own, while the next forward runs.

In: blocks, and the rows of each as they are computed.  Out: shards, and the lines of one rank's
index.  Never: runs a model, touches MLX from its thread, or holds more than a few batches.

    with StoreWriter(folder, question, rank=0, world=1) as writer:
        for block in cut(prompts, writer.limits, question.row, bool(question.reduce)):
            if writer.begin(block):              # ours, and not there yet
                for ...: writer.put(Rows(...))   # waits where the disk is slower than the model
                writer.finish()
        writer.end()                             # the stream is at its end: everything is written
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from typing import Any

from mlxgraph.errors import StoreError, StoreWriteError
from mlxgraph.store import index
from mlxgraph.store.blocks import Block, Limits
from mlxgraph.store.checks import is_as_written, is_whole
from mlxgraph.store.files import held
from mlxgraph.store.index import End
from mlxgraph.store.manifest import NAME, Question, agreed
from mlxgraph.store.shard import Rows, Shard

WAITING = 32 << 20  # bytes of rows that may wait for the disk; a larger batch waits alone

Task = Callable[[], None]


class StoreWriter:
    """Writes one rank's shards of a folder; a context manager.

    Args:
        limits: when a block is full; the folder's own, or the usual ones, if left out.
        rank, world: which of how many processes this is.
    Raises: StoreError for a folder that holds something else, or that another process of this
        rank writes to; StoreWriteError for what the disk refuses, from any method.
    """

    def __init__(
        self,
        folder: Path,
        question: Question,
        limits: Limits | None = None,
        rank: int = 0,
        world: int = 1,
    ):
        self._folder, self._question, self._rank, self._world = folder, question, rank, world
        self._asked = limits
        self._closing = contextlib.ExitStack()
        self._queue: Queue[tuple[Task, int] | None] = Queue()
        self._waiting = 0
        self._written = threading.Condition()
        self._error: BaseException | None = None
        self._shard: Shard | None = None
        self._walked = hashlib.sha256()
        self._prompts = self._blocks = 0

    # -- the folder ------------------------------------------------------------------------------

    def __enter__(self) -> StoreWriter:
        with self._closing:
            try:
                self._opened()
            except OSError as error:
                if isinstance(error, StoreWriteError):
                    raise
                raise StoreWriteError(self._folder, self._kept(), error) from None
            thread = threading.Thread(target=self._work, name="activations to disk", daemon=True)
            thread.start()
            self._closing.callback(self._joined, thread)
            self._closing = self._closing.pop_all()
        return self

    def _opened(self) -> None:
        folder, rank = self._folder, self._rank
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"{folder} is a file, and no folder", "Give a new folder.")
        folder.mkdir(parents=True, exist_ok=True)
        _check_empty(folder)
        self.limits = agreed(folder, self._question, self._asked, self._world).limits
        self._index = folder / index.name_of(rank)
        self._look()
        if self._end is not None and len(self._done) == self._end.blocks:
            return  # there is nothing to write, and so the folder may be one that is only read
        self._closing.enter_context(held(folder / f"rank{rank:03d}.lock"))
        self._look()  # again: another process may have gone on until now
        files = {entry.file for entry in self._done.values()}
        (folder / self._partial).unlink(missing_ok=True)
        for shard in folder.glob(f"rank{rank:03d}-block*.safetensors"):
            if shard.name not in files:  # without its line, or torn: it is done again
                shard.unlink()

    def _look(self) -> None:
        """See what is there, whole."""
        entries, self._end = index.read(self._folder)
        mine = f"rank{self._rank:03d}-"
        own = [entry for entry in entries.values() if entry.file.startswith(mine)]
        latest = max(own, key=lambda entry: entry.block, default=None)
        self._done = {
            number: entry
            for number, entry in entries.items()
            if (is_as_written if entry is latest else is_whole)(self._folder, entry)
        }

    @property
    def _partial(self) -> str:
        return f"rank{self._rank:03d}.partial"

    def _kept(self) -> int:
        """How many prompts the folder holds whole."""
        try:
            return sum(entry.prompts for entry in index.read(self._folder)[0].values())
        except OSError:
            return 0

    def __exit__(self, *_: Any) -> None:
        self._closing.close()

    def _joined(self, thread: threading.Thread) -> None:
        """Let the thread finish what waits, and drop the shard that is not whole."""
        self._queue.put(None)
        thread.join()
        if self._shard is not None:
            self._shard.drop()

    # -- the thread ------------------------------------------------------------------------------

    def _work(self) -> None:
        while (given := self._queue.get()) is not None:
            task, size = given
            if self._error is None:  # after one nothing is written, and nobody waits
                try:
                    task()
                except BaseException as error:
                    self._error = error
            del given, task  # and the rows with it
            with self._written:
                self._waiting -= size
                self._written.notify_all()
            self._queue.task_done()

    def _do(self, task: Task, size: int = 0) -> None:
        self._raise()
        self._queue.put((task, size))

    def _raise(self) -> None:
        if isinstance(self._error, OSError):
            raise StoreWriteError(self._folder, self._kept(), self._error) from None
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Wait until all that was given is on the disk."""
        self._queue.join()
        self._raise()

    # -- blocks ----------------------------------------------------------------------------------

    @property
    def prompts(self) -> int:
        """How many prompts have come by."""
        return self._prompts

    @property
    def walked(self) -> str:
        """A hash of the prompts that have come by."""
        return self._walked.hexdigest()

    def begin(self, block: Block) -> bool:
        """Take the next block of the stream.

        Returns: whether it is for this rank to compute; False where it is there.
        Raises: StoreError where the folder has other prompts at this place.
        """
        self._walked.update(block.digest.encode())
        self._prompts, self._blocks = block.first + len(block.prompts), block.number + 1
        there = self._done.get(block.number)
        if there is not None:
            if there.digest != block.digest:
                self._other_prompts(block)
            return False
        if block.number % self._world != self._rank:
            return False
        name = index.shard_name(self._rank, block.number)
        self._do(lambda: self._start(name, block))
        return True

    def _other_prompts(self, block: Block) -> None:
        last = block.first + len(block.prompts) - 1
        raise StoreError(
            f"{self._folder} holds the activations of other prompts, or of other positions in them:"
            f" those with numbers from {block.first:,} to {last:,} differ",
            "Give the prompts that it was begun with, in their order, or another folder.",
        )

    def _start(self, name: str, block: Block) -> None:
        self._shard = Shard(self._folder, name, self._partial, block, self._question)

    def put(self, rows: Rows) -> None:
        """Rows of some prompts of the block.  Waits while the disk is far behind."""
        size = sum(array.nbytes for array in rows.sites.values())
        with self._written:
            self._written.wait_for(lambda: not self._waiting or self._waiting + size <= WAITING)
            self._waiting += size
        self._do(lambda: self._shard.put(rows), size)  # type: ignore[union-attr]

    def finish(self) -> None:
        """The block is whole: all its prompts' rows have been put."""
        self._do(self._finish)

    def _finish(self) -> None:
        assert self._shard is not None
        shard, self._shard = self._shard, None
        index.add(self._index, shard.close())

    def end(self) -> None:
        """The stream is at its end.  Returns when everything is on the disk.

        Raises: StoreError where the folder's run had more prompts, or fewer.
        """
        end = End(self._prompts, self._blocks, self._walked.hexdigest())
        beyond = any(number >= self._blocks for number in self._done)
        if beyond or self._end not in (None, end):
            raise StoreError(
                f"{self._folder} was begun with other prompts: more than these {self._prompts:,}",
                "Give the prompts that it was begun with, or another folder.",
            )
        if self._end is None:
            self._do(lambda: index.add(self._index, end))
        self.wait()


def _check_empty(folder: Path) -> None:
    """Raise StoreError for a folder that holds something else than activations."""
    if (folder / NAME).exists():
        return
    other = [name for name in os.listdir(folder) if not name.startswith(f".{NAME}.")]
    if other and not (folder / NAME).exists():  # by now another rank may have been here
        raise StoreError(
            f"{folder} holds other files, such as {sorted(other)[0]}, and no activations",
            "Give a new folder.",
        )
