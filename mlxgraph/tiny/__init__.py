"""The embedded model: a small trained Llama that comes with the package.

In: nothing but the package's own files; no network, no download.
Out: the model and its tokenizer, ready to trace (`tiny()`), the folder they lie in
(`WEIGHTS`, which `mlx_lm.load` reads), the corpus they were trained on and the accuracies they
reach.
Never: a change to the weights. Training writes only where it is told to.
"""

from __future__ import annotations

from pathlib import Path

from mlxgraph.model.model import InterpretableModel

__all__ = ["WEIGHTS", "tiny"]

WEIGHTS = Path(__file__).parent / "weights"


def tiny() -> InterpretableModel:
    """The embedded model and tokenizer, trained on facts, copying, agreement and sentiment.

    It is small enough to run anywhere in milliseconds, and has been trained until the circuits
    that interpretability examples look for are there: it knows capitals and landmarks, completes
    indirect-object sentences, repeats sequences, and agrees verbs with their subjects.

    Returns: the model, loaded from `WEIGHTS`.
    """
    return InterpretableModel(str(WEIGHTS))
