"""What can go wrong with activations on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlxgraph.errors.base import MLXGraphError


class StoreError(MLXGraphError, ValueError):
    """A folder that does not hold the activations that are asked for, or holds them damaged."""

    def __init__(self, what: str, instead: str):
        super().__init__(f"{what}.\n  {instead}")


class UnfinishedStoreError(StoreError):
    """A folder of activations whose run was stopped before its end."""

    def __init__(self, folder: Any, prompts: int):
        super().__init__(
            f"the activations in {folder} are unfinished: {prompts:,} prompts are there",
            "Run the line that began it again: it goes on from there. To read what there is, write"
            f" mg.ActivationStore({str(folder)!r}, partial=True).",
        )


class StoreWriteError(MLXGraphError, OSError):
    """Activations that could not be written: no room on the disk, or no permission."""

    def __init__(self, folder: Any, prompts: int, error: OSError):
        """Args: prompts: how many the folder holds whole."""
        super().__init__(
            f"cannot write to {folder}: {error.strerror or error}.\n"
            f"  {prompts:,} prompts are written whole and stay. Make room, or give a folder that"
            " can be written to; the same line then goes on from there."
        )
        self.errno = error.errno


class NoPromptError(MLXGraphError, IndexError):
    """A prompt that a folder of activations does not have."""

    def __init__(self, prompt: Any, prompts: Sequence[int]):
        there = f"those from {prompts[0]} to {prompts[-1]}" if prompts else "none"
        gaps = " with gaps" if isinstance(prompts, list) else ""
        super().__init__(
            f"there is no prompt {prompt!r:.40} in this store.\n"
            f"  It has {there}{gaps}: store.prompts has their numbers."
        )
