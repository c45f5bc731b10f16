"""Disks that are full or may not be written to, for real: the system itself refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import mlxgraph as mg
from mlxgraph.errors import StoreWriteError
from tests.store.test_refused import collect, shards
from tests.store.test_store import NAMES, ROWS, SHARD

NOBODY = 65_534


@contextlib.contextmanager
def files_of_at_most(size):
    """No file of this process grows beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 64 KiB."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root can mount a file system, and here that is Linux's tmpfs")
    try:
        mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a container that may not mount: {error}")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def refused(said, number):
    """The error is the disk's, and ends at the line of the test."""
    assert said.value.errno == number and os.strerror(number) in str(said.value)
    assert said.traceback[-1].path == Path(__file__).with_name("test_refused.py")  # `collect`


def test_a_file_that_may_not_grow(tied, tmp_path):
    with files_of_at_most(SHARD // 2), pytest.raises(StoreWriteError) as said:
        collect(tied, tmp_path / "acts")
    refused(said, errno.EFBIG)
    partial = mg.ActivationStore(tmp_path / "acts", partial=True)
    assert len(partial) == 0 and "0 prompts" in str(said.value)
    assert not list((tmp_path / "acts").glob("*.partial"))
    assert len(collect(tied, tmp_path / "acts")) == len(ROWS)


def test_a_full_disk_gets_room_and_the_line_goes_on(tied, small_disk, tmp_path_factory):
    folder = small_disk / "acts"
    filler = small_disk / "other"
    filler.write_bytes(bytes(24 << 10))
    with pytest.raises(StoreWriteError) as said:
        collect(tied, folder)
    refused(said, errno.ENOSPC)
    partial = mg.ActivationStore(folder, partial=True)
    partial.verify()
    assert 0 < len(partial) < len(ROWS) and f"{len(partial)} prompts" in str(said.value)
    kept = {path.name: path.stat().st_mtime_ns for path in shards(folder)}
    filler.unlink()
    mount("-o", "remount,size=1m", str(small_disk))
    store = collect(tied, folder)
    store.verify()
    assert len(store) == len(ROWS)
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for path in shards(folder)}.items()

    mount("-o", "remount,ro", str(small_disk))
    assert len(collect(tied, folder)) == len(ROWS)  # it is finished, and only read
    assert sum(map(len, store.batches(NAMES[0], 7, seed=0))) == store.rows
    with pytest.raises(StoreWriteError) as said:
        collect(tied, small_disk / "another")
    refused(said, errno.EROFS)


@contextlib.contextmanager
def as_one_who_is_not_root():
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def others_folder():
    """A folder that its owner may read and not write to."""
    folder = Path(tempfile.mkdtemp())  # pytest's own lie below one that root alone may enter
    inner = folder / "acts"
    inner.mkdir()
    folder.chmod(0o755)
    inner.chmod(0o500)
    if not os.geteuid():
        os.chown(inner, NOBODY, NOBODY)
    yield inner
    inner.chmod(0o700)
    shutil.rmtree(folder)


def test_a_folder_without_permission_to_write(tied, others_folder):
    with as_one_who_is_not_root(), pytest.raises(StoreWriteError) as said:
        collect(tied, others_folder)
    refused(said, errno.EACCES)
    assert not list(others_folder.iterdir())
    others_folder.chmod(0o700)  # the control
    with as_one_who_is_not_root():
        assert len(collect(tied, others_folder)) == len(ROWS)
