"""`ActivationStore`: a folder of activations, read by slices."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxgraph.errors import StoreError, UnfinishedStoreError, UnknownNameError
from mlxgraph.errors.tracebacks import at_the_edge, with_edges
from mlxgraph.store import index, manifest
from mlxgraph.store.batches import Batches
from mlxgraph.store.checks import is_as_written
from mlxgraph.store.manifest import Site
from mlxgraph.store.shard import POSITIONS, TOKENS
from mlxgraph.store.shards import Shards


@with_edges
class ActivationStore:
    """Activations of many prompts, in a folder.  Made by `get_activations(..., to=folder)`.

    Nothing is read before it is asked for, and then its bytes alone: memory holds what is asked
    for, however large the folder is.  `len(store)` is the number of prompts.

    Args:
        folder: where they are.
        partial: whether to read what a run that was stopped has written so far.
    Raises: StoreError (a ValueError) where there is no such folder, or one of a newer version;
        UnfinishedStoreError, a StoreError, for a run that was stopped.

    Example:
        >>> store = mg.get_activations(model, x, sites="layers.*.mlp", positions="all", to="acts")
        >>> store["layers.3.mlp"][0].shape  # of the first prompt: (tokens, width)
        (6, 128)
        >>> [len(rows) for rows in store.batches("layers.3.mlp", 4, seed=0)]  # (4, width), shuffled
        [4, 2]
    """

    __iter__ = None  # of what? of sites there is `store.sites`, of prompts `store[site]`

    @at_the_edge
    def __init__(self, folder: str | os.PathLike[str], *, partial: bool = False):
        self._folder = manifest.folder_of(folder)
        found = manifest.read(self._folder)
        if found is None:
            raise StoreError(
                f"there are no activations in {self._folder}",
                "Write them with mg.get_activations(model, prompts, ..., to=folder).",
            )
        self._manifest = found
        try:
            entries, end = index.read(self._folder)
        except OSError as error:
            raise manifest.cannot_read(self._folder, error) from None
        # by its whole path: whoever reads may be elsewhere by then
        self._shards = Shards(self._folder.absolute(), [*entries.values()], found)
        self._finished = end is not None and len(entries) >= end.blocks
        if not self._finished and not partial:
            raise UnfinishedStoreError(self._folder, len(self))

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self._finished

    @property
    def sites(self) -> list[str]:
        """The names that activations are kept under."""
        return [site.name for site in self._manifest.question.sites]

    @property
    def prompts(self) -> Sequence[int]:
        """The numbers of the prompts that are there, in order; all of them, of a finished run."""
        return self._shards.prompts

    @property
    def rows(self) -> int:
        """How many rows each site has: of all prompts together."""
        return self._shards.rows

    @property
    def tokens(self) -> PerPrompt:
        """The token ids of each prompt: `store.tokens[5]` is an array (length,), int32.

        Raises: StoreError where a custom model was given arrays.
        """
        if not self._manifest.question.tokens:
            raise StoreError(
                f"{self._folder} is of a model that takes arrays, and has no token ids",
                "Keep the inputs yourself; store.prompts has the numbers of what is here.",
            )
        return PerPrompt(self._shards, TOKENS)

    @property
    def positions(self) -> PerPrompt:
        """Which positions of each prompt are kept, from its start: (positions,), int32."""
        return PerPrompt(self._shards, POSITIONS)

    @property
    def meta(self) -> dict[str, Any]:
        """What was asked, of which model, with which versions: the manifest, as a dict; and under
        `shards` the lines of the indexes."""
        shards = [vars(entry).copy() for entry in self._shards.entries]
        return {**manifest.as_json(self._manifest), "shards": shards}

    def __reduce__(self) -> Any:
        """A copy, in another process too, opens the folder anew."""
        return _again, (str(self._shards.folder),)

    def __len__(self) -> int:
        return len(self._shards.prompts)

    def __bool__(self) -> bool:
        return True

    def __contains__(self, site: object) -> bool:
        return self._find(site) is not None

    def __getitem__(self, site: Any) -> SiteActivations:
        """One site, by any form of its name or by a module's handle.

        Raises: UnknownNameError (a KeyError) for one that is not kept.
        """
        return SiteActivations(self._shards, self._site(site))

    def _site(self, name: Any) -> Site:
        found = self._find(name)
        if found is None:
            raise UnknownNameError(
                "site of this store", _text(name), self.sites, "`store.sites` has all names."
            )
        return found

    def _find(self, name: object) -> Site | None:
        asked = _text(name)
        for site in self._manifest.question.sites:
            if asked == site.name:
                return site
        for site in self._manifest.question.sites:
            if _plain(asked) in (_plain(site.name), _plain(site.site)):
                return site
        return None

    def batches(
        self,
        site: Any,
        size: int,
        *,
        seed: int | None = None,
        buffer: int = 256 << 20,
        drop_last: bool = False,
    ) -> Iterator[Any]:
        """Every row once, in batches, for training.

        Rows are shuffled over the whole store in pieces of about a quarter of a MiB, and among
        those pieces that the buffer holds at once one by one; a store that fits into the buffer
        is shuffled row by row.  The next buffer is read while this one is used.

        Args:
            site: a name, or several.
            size: rows in a batch.
            seed: of the order, which is the same for the same seed; in order, if left out.
            buffer: bytes that rows may take in memory, about.
            drop_last: leave out a last batch that is smaller.
        Returns: an iterator of arrays (size, ...), or of `{name: array}` for several sites.
        Raises: InputError for a size below 1, UnknownNameError, StoreError for a damaged shard.
        """
        several = isinstance(site, (list, tuple))
        sites = [self._site(one) for one in (site if several else [site])]
        return iter(Batches(self._shards, sites, several, size, seed, buffer, drop_last))

    def verify(self) -> None:
        """Read every byte, and compare it with what was written.

        Raises: StoreError, with the names of the shards that a disk has spoilt.
        """
        damaged = [
            entry.file
            for entry in self._shards.entries
            if not is_as_written(self._shards.folder, entry)
        ]
        if damaged:
            raise StoreError(
                f"{len(damaged)} of {len(self._shards.entries)} shards in {self._folder} are not as"
                f" they were written: {', '.join(damaged[:5])}",
                "Delete these files, and run the line that wrote them again: it redoes them alone.",
            )

    def __repr__(self) -> str:
        state = "" if self._finished else ", unfinished"
        return (
            f"<ActivationStore {str(self._folder)!r}: {len(self):,} prompts, {self.rows:,} rows of"
            f" {len(self.sites)} sites{state}>"
        )


@with_edges
class PerPrompt:
    """Whole numbers of each prompt: its token ids, or its positions."""

    def __init__(self, shards: Shards, name: str):
        self._shards, self._name = shards, name

    def __len__(self) -> int:
        return len(self._shards.prompts)

    def __getitem__(self, prompt: Any) -> Any:
        """Of one prompt, by its number, an array; of a slice a list of them."""
        if isinstance(prompt, slice):
            numbers = range(*prompt.indices(len(self)))
            return [self._shards.own(self._name, self._shards.prompts[n]) for n in numbers]
        return self._shards.own(self._name, self._shards.number(prompt))

    def __iter__(self) -> Iterator[mx.array]:
        return (self[number] for number in self._shards.prompts)


@with_edges
class SiteActivations:
    """One site of a store: `store[site]`.

    Attributes:
        name: what it is kept under.
    """

    def __init__(self, shards: Shards, site: Site):
        self._shards, self._site = shards, site
        self.name = site.name

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, ...): rows of all prompts together, and the shape of one."""
        return (self._shards.rows, *self._site.shape)

    @property
    def dtype(self) -> mx.Dtype:
        """Of the arrays that are read."""
        return self._shards.dtype(self._site)

    def __len__(self) -> int:
        return len(self._shards.prompts)

    def __getitem__(self, prompt: Any) -> Any:
        """The activations of a prompt by its number, as `get_activations` gives them in memory.

        (rows, ...), or without the first axis where a prompt has one row.  Of a slice one array
        (prompts, ...) where all prompts have the same number of rows, and a list where not.

        Raises: NoPromptError (an IndexError) for a prompt that is not there, StoreError for a
            damaged shard.
        """
        if not isinstance(prompt, slice):
            return self._shards.of_prompt(self._site, self._shards.number(prompt))
        numbers = [self._shards.prompts[n] for n in range(*prompt.indices(len(self)))]
        found = [self._shards.of_prompt(self._site, number) for number in numbers]
        positions = self._shards.manifest.question.positions
        fixed = self._shards.single or not isinstance(positions, str)
        return mx.stack(found) if fixed and found else found

    def __iter__(self) -> Iterator[mx.array]:
        """Prompt after prompt."""
        return (self[number] for number in self._shards.prompts)

    def rows(self, start: int = 0, stop: int | None = None) -> mx.array:
        """Rows by their number among those of all prompts: (rows, ...)."""
        first, last, _ = slice(start, stop).indices(self._shards.rows)
        return self._shards.array(self._site, first, max(first, last))

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self):,} prompts, {self.shape} {self._site.dtype}>"


def _again(folder: str) -> ActivationStore:
    return ActivationStore(folder, partial=True)


def _text(name: Any) -> str:
    return str(getattr(name, "path", name))


def _plain(name: str) -> str:
    """A site's name without the forms that mean the same: `model.` before it, `.output` after."""
    name = name.removesuffix(".output")
    while name.startswith("model."):
        name = name.removeprefix("model.")
    return name
