"""Files that are there whole or not at all, whatever stops the process or the machine."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where MLX is not
    fcntl = None  # type: ignore[assignment]

from mlxgraph.errors import StoreError


def flush(file: int) -> None:
    """Have the disk itself hold what was written; on a Mac `fsync` alone does not ask it to."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        fcntl.fcntl(file, fcntl.F_FULLFSYNC)
    else:
        os.fsync(file)


def flush_folder(folder: Path) -> None:
    """Have the disk hold the names in a folder."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def write_all(file: int, data: memoryview | bytes, at: int) -> None:
    """All of some bytes, at an offset."""
    left = memoryview(data).cast("B")
    while left:
        count = os.pwrite(file, left, at)
        left, at = left[count:], at + count


def put_once(path: Path, data: bytes) -> None:
    """Make a file, whole, unless there is one of this name: the first of several wins."""
    made = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    file = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        try:
            write_all(file, data, 0)
            flush(file)
        finally:
            os.close(file)
        try:
            os.link(made, path)
        except FileExistsError:
            return  # whose it is the caller compares
        except OSError:  # a disk without hard links
            if not path.exists():
                os.rename(made, path)
    finally:
        made.unlink(missing_ok=True)
    flush_folder(path.parent)


def put_in_place(path: Path, data: bytes) -> None:
    """Make a file, or put it in the place of another: who reads meanwhile has one of the two."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():  # said of the path that was given, and of no other
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    made = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}")
    file = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        try:
            write_all(file, data, 0)
        finally:
            os.close(file)
        os.replace(made, target)
    finally:
        made.unlink(missing_ok=True)


def room_for(file: int, size: int) -> None:
    """Give a file its size, and where the system can, its room on the disk: better it is full
    before the forwards than after."""
    if hasattr(os, "posix_fallocate") and size:
        os.posix_fallocate(file, 0, size)
    else:
        os.ftruncate(file, size)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock for the time of a block; the system lets go of it when the process dies.

    Raises: StoreError where another holds it.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"another process is writing to {path.parent} ({path.name})",
                "Wait for it, or give another folder.",
            ) from None
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # a process that was forked meanwhile has it open too
        os.close(file)
