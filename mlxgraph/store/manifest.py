"""The manifest: what was asked, written once, and compared by all who come later."""

from __future__ import annotations

import json
import os
import platform
import sys
import zlib
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mlxgraph.errors import InputError, StoreError
from mlxgraph.store.blocks import Limits
from mlxgraph.store.files import put_once
from mlxgraph.store.layout import row_bytes

NAME = "manifest.json"
FORMAT = "mlxgraph activations"
VERSION = 1
SHARED_TOKENS = 8_192  # of a block that several processes share out: few prompts are several blocks
_ANOTHER = "Give another folder, or ask what this one was begun with."


@dataclass(frozen=True)
class Site:
    """One site: the name that it is kept under, its canonical name, and a row's dtype and shape."""

    name: str
    site: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def row(self) -> int:
        """Bytes of one row."""
        return row_bytes(self.dtype, self.shape)


@dataclass(frozen=True)
class Question:
    """What is asked, of which model.

    Attributes:
        model: a hash of the modules, their settings and weights; edits: one of the edits that stay
            on the model, or "".
        positions: "all", "callable", or numbers as they were given.
        single: whether a prompt has one row, and so no axis of rows.
        reduce: "mean", or None.
        tokens: whether prompts are token ids.
    """

    model: str
    edits: str
    sites: tuple[Site, ...]
    positions: Any
    single: bool
    reduce: str | None
    tokens: bool

    @property
    def row(self) -> int:
        """Bytes of one row of all sites."""
        return sum(site.row for site in self.sites)


@dataclass(frozen=True)
class Manifest:
    """A question, how prompts are cut into blocks, and what wrote it."""

    question: Question
    limits: Limits
    versions: dict[str, str]


def versions() -> dict[str, str]:
    """What a folder is written by."""
    own = getattr(sys.modules.get("mlxgraph"), "__version__", "unknown")
    try:
        mlx = version("mlx")
    except PackageNotFoundError:  # MLX built in place
        mlx = "unknown"
    return {"mlxgraph": own, "mlx": mlx, "python": platform.python_version()}


def read(folder: Path) -> Manifest | None:
    """A folder's manifest; None where there is none.

    Raises: StoreError for what is no manifest, or one of a newer version.
    """
    try:
        text = (folder / NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise cannot_read(folder, error) from None
    try:
        found = json.loads(text.decode())
        if found["format"] != FORMAT or not isinstance(found["version"], int):
            raise ValueError
        if found["version"] > VERSION:
            raise StoreError(
                f"the activations in {folder} are of version {found['version']} of their format,"
                f" and this mlxgraph reads versions up to {VERSION}",
                "Update mlxgraph, or give another folder.",
            )
        if found.get("check", _check(found)) != _check(found):
            raise StoreError(
                f"{folder / NAME} has been changed since it was written",
                "Put it back as it was: what it says of shards must be what they were written as.",
            )
        question = dict(found["question"])
        question["sites"] = tuple(
            Site(**{**site, "shape": tuple(site["shape"])}) for site in question["sites"]
        )
        limits = Limits(**found["limits"])
        numbers = [
            *limits,
            *[size for site in question["sites"] for size in (site.row, *site.shape)],
        ]
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise ValueError
        return Manifest(Question(**question), limits, found["versions"])
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{folder / NAME} is no manifest of activations", _ANOTHER) from None


def as_json(manifest: Manifest) -> dict[str, Any]:
    """A manifest as it stands in its file."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "question": asdict(manifest.question),
        "limits": manifest.limits._asdict(),
        "versions": manifest.versions,
    }


def _check(found: dict[str, Any]) -> int:
    """A checksum of what shards are read by."""
    said = [found["question"], found["limits"]]
    return zlib.crc32(json.dumps(said, sort_keys=True).encode())


def cannot_read(folder: Path, error: OSError) -> StoreError:
    """The error for a folder that the system does not let be read."""
    return StoreError(
        f"the activations in {folder} cannot be read: {error.strerror or error}",
        "Ask for the permission to read its files, or give another folder.",
    )


def folder_of(given: Any) -> Path:
    """A folder's path.  Raises: InputError for what is none."""
    try:
        path = os.fsdecode(given)
    except TypeError:
        raise InputError(
            f"a folder is a path, not a {type(given).__name__}.\n  Write to='acts'."
        ) from None
    if not path or "\0" in path:
        raise InputError(f"{path!r} is no folder's path.\n  Write to='acts'.")
    return Path(os.path.expanduser(path))


def agreed(folder: Path, question: Question, limits: Limits | None, world: int = 1) -> Manifest:
    """The manifest of a folder, which is made if there is none.

    Args:
        limits: those of a new folder, of which a folder that is there must have the bytes; the
            usual ones, if left out.
        world: how many processes share the work: several are given smaller blocks.
    Raises: StoreError for a folder of another question, OSError.
    """
    found = read(folder)
    if found is None:
        usual = limits or Limits()
        if world > 1:
            usual = usual._replace(tokens=min(usual.tokens, SHARED_TOKENS))
        new = Manifest(question, usual, versions())
        said = as_json(new)
        text = json.dumps({**said, "check": _check(said)}, indent=1) + "\n"
        put_once(folder / NAME, text.encode())  # or another rank has by now
        found = read(folder)
        assert found is not None
    _compare(folder, found.question, question)
    if limits is not None and limits.bytes != found.limits.bytes:
        raise StoreError(
            f"{folder} was begun with shards of {found.limits.bytes:,} bytes",
            "Leave shard_size out to go on with them, or give another folder.",
        )
    return found


_SAID = {
    "model": "another model, or its weights have changed since",
    "edits": "a model with other edits",
    "tokens": "prompts of another kind",
}


def _compare(folder: Path, held: Question, asked: Question) -> None:
    theirs, ours = (json.loads(json.dumps(asdict(one))) for one in (held, asked))
    for field in theirs:
        if theirs[field] == ours[field]:
            continue
        if field == "sites":
            said = f"other sites: {_sites(held)}, and these are {_sites(asked)}"
        elif field in _SAID:
            said = _SAID[field]
        else:
            said = f"{field}={theirs[field]!r}, and this is {field}={ours[field]!r}"
        raise StoreError(f"{os.fspath(folder)} holds the activations of {said}", _ANOTHER)


def _sites(question: Question) -> str:
    said = [f"{site.name} ({site.dtype}, {list(site.shape)})" for site in question.sites]
    return ", ".join(said[:3]) + (f" and {len(said) - 3} more" if len(said) > 3 else "")
