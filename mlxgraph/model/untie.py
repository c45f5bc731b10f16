"""Untying: a head of its own for a model whose embedding is its head too.

In: a model with modules of its own.  Out: the same model with `lm_head`, as mlx-lm's
architectures have it where `tie_word_embeddings` is false.  Never: another logit.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxgraph.analysis.inputs import first_array
from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.modules import enter, is_embedding
from mlxgraph.model.fold_steps import Step

TIED, HEAD = "tie_word_embeddings", "lm_head"


def has_tied_head(model: Any) -> bool:
    """Whether the model says that its embedding is its head too, and takes a head otherwise."""
    root = model.module
    return getattr(getattr(root, "args", None), TIED, None) is True and HEAD not in root


def untied(model: Any, inputs: tuple, step: Step) -> None:
    """Give a model a head of its own.  Raises: FoldError where that is not the same model."""
    with model.trace(*inputs, compile=False):
        before = first_array(model.output).save()
    mx.eval(before)
    root = model.module
    table = [m for _, m in model.named_modules() if is_embedding(m)]
    owner = next(m for m in table if m["weight"].shape[0] == _rows(before))
    setattr(root.args, TIED, False)
    setattr(root, HEAD, _head_of(owner))
    model._engine.origin = {**model._engine.origin, "changed": {TIED: False}}
    model.refresh()
    with model.trace(*inputs, compile=False):
        after = first_array(model.output).save()
    if not mx.allclose(before, after, rtol=1e-3, atol=1e-3).item():
        raise step.error(
            "the model gives other logits with a head of its own, so the two cannot be untied"
        )


def _rows(logits: mx.array) -> int:
    return int(logits.shape[-1])


def _head_of(embedding: Any) -> nn.Module:
    """A linear module on the arrays of an embedding."""
    before = random_state.current()
    try:
        if "scales" in embedding:
            size = embedding.group_size
            how = {"group_size": size, "bits": embedding.bits}
            mode = getattr(embedding, "mode", "affine")
            head: Any = nn.QuantizedLinear(size, size, bias=False, mode=mode, **how)
        else:
            head = nn.Linear(1, 1, bias=False)
    finally:  # what is drawn for a new module is replaced
        random_state.restore(before)
    for name in ("weight", "scales", "biases"):
        if name in embedding:
            enter(head, name, embedding[name])
    return head
