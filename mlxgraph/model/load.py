"""Loading: a path or hub name becomes a model and its tokenizer."""

from __future__ import annotations

import inspect
import os
import re
from typing import Any

import mlx.nn as nn

from mlxgraph.errors import LoadOptionError, ModelLoadError
from mlxgraph.mlx_facts import random_state

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


_NOT_PASSED_ON = {"return_config"}  # what is loaded is a model and a tokenizer


def loaded(name: str, options: dict[str, Any]) -> tuple[nn.Module, Any]:
    """The model and the tokenizer that `mlx_lm.load` reads.

    Args: options: keyword arguments of it.
    Raises: ModelLoadError, LoadOptionError.
    """
    if options:
        options = _checked(options)
    folder = os.path.expanduser(name)
    if _means_a_folder(name):
        reason = _no_model_in(folder)
        if reason:
            raise ModelLoadError(name, reason) from FileNotFoundError(folder)
        name = folder
    from mlx_lm import load  # transformers takes seconds to import: only who loads a model pays

    try:
        found = load(name, **options)
    except Exception as error:  # mlx-lm raises whatever its parts raise
        raise ModelLoadError(name, f"{type(error).__name__}: {error}") from error
    random_state.settle()  # weights were drawn, and nobody looks at them
    return found[0], found[1]


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """Options that the installed `mlx_lm.load` takes."""
    from mlx_lm import load

    known = [name for name in inspect.signature(load).parameters if name not in _NOT_PASSED_ON][1:]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise LoadOptionError(unknown, known)
    adapter = options.get("adapter_path")
    if adapter is None:
        return options
    return {**options, "adapter_path": os.path.expanduser(str(adapter))}
