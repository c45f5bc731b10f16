"""What a user hands in: models, inputs, and the arguments of interventions and analyses."""

from __future__ import annotations

from collections.abc import Iterable

from mlxgraph.errors.base import MLXGraphError, close_matches, suggest
from mlxgraph.errors.shapes import BoundsError

_SHAPES = "Leave it out: shapes are known inside every block, and h.shape runs nothing."
_TEXTS = "Give the texts, or the tokenizer's whole encoding, as the input: its mask is used."
_LATER = "Write model.generate(prompt, max_tokens=20)."
_SPECIAL = "Give ids: model.encode(text, add_special_tokens=False) has none but the text's own."
_TEMPLATE = (
    "Give the text: model.tokenizer.apply_chat_template(messages, tokenize=False, ...) takes it."
)
_OPTIONS = ("interventions", "graph", "params", "compile", "optimize", "start")  # of a trace itself
KEYWORDS_ELSEWHERE = {  # what people know from other libraries, and what it is here
    "scan": _SHAPES,
    "validate": _SHAPES,
    "remote": "Leave it out: the model runs here, on this machine.",
    "backend": "Leave it out: the model runs here, on this machine.",
    "trace": "Write model(x) for a plain forward, or model.edit() to record without a run.",
    "invoker_args": "Leave it out.",
    "attention_mask": _TEXTS,
    "input_ids": _TEXTS,
    "token_type_ids": _TEXTS,
    "max_new_tokens": _LATER,
    "max_tokens": _LATER,
    "prepend_bos": _SPECIAL,
    "add_special_tokens": _SPECIAL,
    "add_generation_prompt": _TEMPLATE,
    "enable_thinking": _TEMPLATE,
    "tools": _TEMPLATE,
    "return_type": "Leave it out: a block saves what it wants, such as model.output.",
    "stop_at_layer": "Leave it out: a forward ends where nothing that is saved needs the rest.",
    "names_filter": "Write t.cache('layers.*.mlp') in the block.",
    "fwd_hooks": "Write interventions={name: function}.",
}


class InputError(MLXGraphError, ValueError):
    """Inputs of a kind that no trace can take."""


class VocabularyError(InputError, BoundsError):
    """An id that an embedding has no row for: MLX itself would read zeros, or what lies there."""

    def __init__(self, number: int, path: str, size: int, where: str, are_tokens: bool = True):
        """Args: path: the embedding's; are_tokens: whether the ids are those of a text."""
        said = (
            f"token id {number} is outside the vocabulary of {size} tokens ({path}): ids go from 0"
            f" to {size - 1}.\n  at {where}\n  Encode the text with the tokenizer of this model."
            if are_tokens
            else f"the index {number} is outside of {path}, which has {size} rows.\n  at {where}\n"
            f"  Rows go from 0 to {size - 1}; negative numbers count from the end."
        )
        MLXGraphError.__init__(self, said)


class KeywordError(InputError, TypeError):
    """A keyword argument that the model's forward does not take."""

    def __init__(self, name: str, known: Iterable[str]):
        known = list(known)
        hint = KEYWORDS_ELSEWHERE.get(name)
        matches = suggest(close_matches(name, [*known, *_OPTIONS]))
        super().__init__(
            f"the model's forward takes no {name}=.{'' if hint else matches}\n  "
            + (hint or f"It takes: {', '.join(known) or 'no keywords'}.")
        )


class NoTokenizerError(MLXGraphError, ValueError):
    """Text given to a model that has no tokenizer."""

    def __init__(self, what: str = "text"):
        super().__init__(
            f"{what} needs a tokenizer, and this model has none.\n"
            "  Write InterpretableModel(model, tokenizer=tokenizer), or pass token ids."
        )


class ModelLoadError(MLXGraphError, ValueError):
    """A string that names no model that can be loaded."""

    def __init__(self, name: str, reason: str):
        super().__init__(
            f"cannot load a model from {name!r}: {reason}\n"
            "  Pass an nn.Module, the path of a folder with config.json and weights, or the"
            " name of a model on the hub such as 'mlx-community/Llama-3.2-1B-Instruct-4bit'."
        )


class MissingDependencyError(MLXGraphError, ImportError):
    """An optional package that this call needs and that is not installed."""

    def __init__(self, package: str, what: str, extra: str = ""):
        super().__init__(
            f"{what} needs {package}, which is not installed.\n"
            f"  Install it with `pip install {extra or package}`."
        )


class InterventionError(MLXGraphError, ValueError, TypeError):
    """What is no intervention, or arguments with which one has no meaning."""


class InterventionFailedError(InterventionError):
    """An intervention's own function raised; its exception is the cause of this one.

    What is raised is of that exception's class as well: `except ZeroDivisionError` still holds.
    """

    def __init__(self, function: str, site: str, error: Exception):
        # not super(): the other class may take other arguments
        self.args = (
            f"the function {function} failed on {site}: {type(error).__name__}: {error}\n"
            "  It is called with a recorded array of the site's shape, and gives the new value;"
            " try it on a plain array of that shape.",
        )


def failed_intervention(function: str, site: str, error: Exception) -> InterventionFailedError:
    """The error of a function that raised, which is one of the function's own kind too."""
    try:
        return _failed_as(type(error))(function, site, error)
    except TypeError:  # a class that cannot be mixed in, or not be made like this
        return InterventionFailedError(function, site, error)


def _failed_as(kind: type[Exception]) -> type[InterventionFailedError]:
    if issubclass(InterventionFailedError, kind):
        return InterventionFailedError
    ours = {"__doc__": InterventionFailedError.__doc__, "__module__": __name__}
    return type("InterventionFailedError", (InterventionFailedError, kind), ours)


class BaselineError(MLXGraphError, ValueError):
    """A comparison whose two sides agree already, so that no share of it can be stated."""


class UnembeddingError(MLXGraphError, ValueError):
    """A state that the model's final norm and head cannot turn into token scores."""


class DecompositionError(MLXGraphError, ValueError):
    """A model whose parts do not add up to what it computes, or are no linear maps."""

    def __init__(self, what: str, advice: str = ""):
        """Args: what: does not hold, as a clause."""
        super().__init__(
            f"this model cannot be taken apart exactly: {what}.\n  "
            + (
                advice
                or "Where the stream is more than the sum of what layers write (norms of sums,"
                " gates, several streams), ask by edits: model.ablation(x), or"
                " model.activation_patching(clean, corrupted)."
            )
        )
