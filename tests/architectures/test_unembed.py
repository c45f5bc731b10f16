"""A state times a token's direction is the token's logit, whatever architecture and precision."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.analysis.inputs import first_array
from mlxgraph.errors import UnembeddingError
from mlxgraph.model.weights import head_of
from tests.architectures import configs

QUICK = ("llama", "gpt2", "cohere", "gemma2", "afm7", "iquestloopcoder", "phi", "deepseek_v3")
BARE = {"talkie": "its head is a parameter of the model itself"}
TOKENS = [[7, 21, 3, 88]]
IN_FLOATS = {"kimi_k3": "its forward multiplies by a layer's weight past the layer"}
CASES = [
    pytest.param(name, bits, marks=[] if name in QUICK else [pytest.mark.slow])
    for name in configs.installed(configs.KNOWN.split())
    for bits in (None, 4)
    if name not in BARE and not (bits and name in IN_FLOATS)
]


def states_and_scores(model: mg.InterpretableModel) -> tuple[mx.array, mx.array, mx.array]:
    """What the head is given, what it makes of it, and the model's logits, at every position."""
    head = head_of(model)
    tied = hasattr(head.module, "as_linear")
    with model.trace(TOKENS):
        if tied:  # the head is no call: the norm that the model ends in is before it
            paths = [p for p, m in model.named_modules() if "norm" in type(m).__name__.lower()]
            last = [path for path in paths if path.count(".") <= head.path.count(".")][-1]
            states = first_array(model[last].output).save()
        else:
            states = first_array(model[head.path].input).save()
            own = first_array(model[head.path].output).save()
        logits = first_array(model.output).save()
    return states, head.module.as_linear(states) if tied else own, logits


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_a_tokens_direction(name, bits):
    module = configs.build(name)
    if bits:
        nn.quantize(
            module,
            class_predicate=lambda _, m: (
                isinstance(m, (nn.Linear, nn.Embedding))
                and type(m).to_quantized in (nn.Linear.to_quantized, nn.Embedding.to_quantized)
                and m.weight.shape[-1] % 64 == 0
            ),
        )
    model = mg.InterpretableModel(module)
    states, own, logits = states_and_scores(model)
    assert logits.shape == own.shape
    for token in (0, 17):
        head = head_of(model).module
        bias = head.bias[token] if "bias" in head else 0.0
        found = states @ model.unembed(token) + bias
        assert mx.abs(found - own[..., token]).max().item() < 1e-4
        assert mx.abs(found - own[..., token + 1]).max().item() > 1e-3


@pytest.mark.parametrize("name", BARE)
def test_a_head_that_is_no_module_is_refused(name):
    with pytest.raises(UnembeddingError, match="model.parameters"):
        mg.InterpretableModel(configs.build(name)).unembed(3)
