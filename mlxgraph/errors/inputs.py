"""What a user hands in: models, inputs, and the arguments of interventions and analyses."""

from __future__ import annotations

from mlxgraph.errors.base import MLXGraphError


class InputError(MLXGraphError, ValueError):
    """Inputs of a kind that no trace can take."""


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


class InterventionError(MLXGraphError, ValueError):
    """Arguments with which an intervention has no meaning."""


class BaselineError(MLXGraphError, ValueError):
    """A comparison whose two sides agree already, so that no share of it can be stated."""


class UnembeddingError(MLXGraphError, ValueError):
    """A state that the model's final norm and head cannot turn into token scores."""
