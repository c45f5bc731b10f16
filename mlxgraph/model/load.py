"""Loading: a path or hub name becomes a model and its tokenizer."""

from __future__ import annotations

import os
import re
from typing import Any

import mlx.nn as nn

from mlxgraph.errors import ModelLoadError

_ON_THE_HUB = re.compile(r"(?!.*(--|\.\.))[\w.-]+(/[\w.-]+)?")


def _means_a_folder(name: str) -> bool:
    """Whether a name is a path: a folder or file is there, or no model on the hub is called so."""
    on_disk = os.path.exists(os.path.expanduser(name))
    return on_disk or not _ON_THE_HUB.fullmatch(name) or name[0] in ".~-" or name[-1] in ".-/"


def _no_model_in(folder: str) -> str:
    """Why a folder cannot be loaded as it is, or ""."""
    if not os.path.exists(folder):
        return "there is no such folder."
    if not os.path.isdir(folder):
        return "it is a file, not a folder."
    if not os.path.exists(os.path.join(folder, "config.json")):
        return "the folder has no config.json."
    return ""


def loaded(name: str) -> tuple[nn.Module, Any]:
    """The model and the tokenizer that `mlx_lm.load` reads.  Raises: ModelLoadError."""
    folder = os.path.expanduser(name)
    if _means_a_folder(name):
        reason = _no_model_in(folder)
        if reason:
            raise ModelLoadError(name, reason) from FileNotFoundError(folder)
        name = folder
    from mlx_lm import load  # transformers takes seconds to import: only who loads a model pays

    try:
        found = load(name)
    except Exception as error:  # mlx-lm raises whatever its parts raise
        raise ModelLoadError(name, f"{type(error).__name__}: {error}") from error
    return found[0], found[1]
