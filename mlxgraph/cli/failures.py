"""What went wrong, as one line for a terminal, and the exit status that it means.

In: an exception.  Out: a line that says what to write instead, in the words of the command line.
"""

from __future__ import annotations

from collections.abc import Callable

from mlxgraph.errors import (
    AlignError,
    BaselineError,
    BoundsError,
    DecompositionError,
    HeadsError,
    InputError,
    LengthsError,
    MLXGraphError,
    ModelLoadError,
    NoChatTemplateError,
    NoLayerError,
    PositionError,
    TokenError,
    UnknownNameError,
    UnknownSiteError,
)

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
_USAGE = (
    InputError, AlignError, BoundsError, HeadsError, LengthsError, PositionError, UnknownNameError,
    UnknownSiteError,
)  # fmt: skip


class UsageError(Exception):
    """A command that has to be written otherwise.  Attributes: prog: which it is."""

    def __init__(self, message: str, prog: str | None = None):
        super().__init__(message)
        if prog is not None:
            self.prog = prog


def status_of(error: Exception) -> int:
    """2 where the command has to be written otherwise, 1 where it could not be done."""
    return USAGE if isinstance(error, (UsageError, *_USAGE)) else FAILED


def said(error: Exception) -> str:
    """One line: what is wrong, and what to write instead."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, UsageError) or not lines:
        return lines[0] if lines else type(error).__name__
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if not isinstance(error, (MLXGraphError, OSError)):
        return f"{type(error).__name__}: {' '.join(lines)}  MLXGRAPH_TRACEBACK=full shows where."
    for kind, advice in _ADVICE.items():
        if isinstance(error, kind) and not _is_in_an_edit(error, lines[0]):
            return f"{lines[0]}  {advice(lines[1:])}"
    return "  ".join(line for line in lines if not line.startswith(("at ", "recorded at ")))


def _is_in_an_edit(error: Exception, first: str) -> bool:
    """Whether a number is that of a head or a position: no option of the command's own."""
    return isinstance(error, NoLayerError) and " no layer " not in first


def _of_token(rest: list[str]) -> str:
    spaced = [line for line in rest if line.startswith("A word within a text")]
    return " ".join([*spaced, "Choose a text of one token, or give its number: id:42."])


def _always(text: str) -> Callable[[list[str]], str]:
    return lambda rest: text


_ADVICE: dict[type[Exception], Callable[[list[str]], str]] = {
    TokenError: _of_token,
    LengthsError: _always(
        "Choose prompts of as many tokens, or add --align start or --align end to match the"
        " positions that both have."
    ),
    ModelLoadError: _always(
        "Write tiny for the model that comes with the library, a folder with config.json and"
        " weights, or a name on the hub such as mlx-community/Llama-3.2-1B-Instruct-4bit."
    ),
    NoChatTemplateError: _always("Leave --chat out, and write the text itself."),
    DecompositionError: _always("Ask by edits: mlxgraph patch MODEL CLEAN CORRUPTED."),
    BaselineError: _always(
        "Choose prompts that lead to different answers, or add --raw for the numbers themselves."
    ),
    PositionError: _always("Positions count from 0; -1 is the last: --positions 0-3,-1."),
    NoLayerError: _always("Layers count from 0; -1 is the last: --layers 0-3,-1."),
    HeadsError: _always(
        "Leave the heads out; heads, queries, keys, values, pattern and scores have some."
    ),
    UnknownSiteError: lambda rest: " ".join(rest),
}
