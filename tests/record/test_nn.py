"""Every module and every function of `mlx.nn`, called by hand on recorded values, records."""

from __future__ import annotations

import inspect

import mlx.core as mx
import mlx.nn as nn
import pytest

import mlxgraph as mg
from tests import models


def value(*shape):
    count = 1
    for size in shape:
        count *= size
    return mx.sin(mx.arange(count) * 1.7).reshape(shape)


X = value(2, 4, 6)
PICTURE, FILM = value(2, 8, 8, 4), value(1, 4, 4, 4, 4)
IDS = mx.array([[1, 3], [0, 2]])
MASK = nn.MultiHeadAttention.create_additive_causal_mask(4)

# what makes each module, and what it is called with
MODULES = {
    "ALiBi": (nn.ALiBi, [value(2, 4, 3, 3)]),
    "AvgPool1d": (lambda: nn.AvgPool1d(2), [X]),
    "AvgPool2d": (lambda: nn.AvgPool2d(2), [PICTURE]),
    "AvgPool3d": (lambda: nn.AvgPool3d(2), [FILM]),
    "BatchNorm": (lambda: nn.BatchNorm(6), [X]),
    "Bilinear": (lambda: nn.Bilinear(6, 6, 3), [X, X]),
    "CELU": (nn.CELU, [X]),
    "Conv1d": (lambda: nn.Conv1d(6, 3, 2), [X]),
    "Conv2d": (lambda: nn.Conv2d(4, 3, 2), [PICTURE]),
    "Conv3d": (lambda: nn.Conv3d(4, 3, 2), [FILM]),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(6, 3, 2), [X]),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 3, 2), [PICTURE]),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 3, 2), [FILM]),
    "Dropout": (lambda: nn.Dropout(0.5), [X]),
    "Dropout2d": (lambda: nn.Dropout2d(0.5), [PICTURE]),
    "Dropout3d": (lambda: nn.Dropout3d(0.5), [FILM]),
    "ELU": (nn.ELU, [X]),
    "Embedding": (lambda: nn.Embedding(5, 3), [IDS]),
    "GELU": (nn.GELU, [X]),
    "GLU": (nn.GLU, [X]),
    "GRU": (lambda: nn.GRU(6, 3), [X]),
    "GroupNorm": (lambda: nn.GroupNorm(2, 6), [X]),
    "HardShrink": (nn.HardShrink, [X]),
    "HardTanh": (nn.HardTanh, [X]),
    "Hardswish": (nn.Hardswish, [X]),
    "Identity": (nn.Identity, [X]),
    "InstanceNorm": (lambda: nn.InstanceNorm(6), [X]),
    "LSTM": (lambda: nn.LSTM(6, 3), [X]),
    "LayerNorm": (lambda: nn.LayerNorm(6), [X]),
    "LeakyReLU": (nn.LeakyReLU, [X]),
    "Linear": (lambda: nn.Linear(6, 3), [X]),
    "LogSigmoid": (nn.LogSigmoid, [X]),
    "LogSoftmax": (nn.LogSoftmax, [X]),
    "MaxPool1d": (lambda: nn.MaxPool1d(2), [X]),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), [PICTURE]),
    "MaxPool3d": (lambda: nn.MaxPool3d(2), [FILM]),
    "Mish": (nn.Mish, [X]),
    "MultiHeadAttention": (lambda: nn.MultiHeadAttention(6, 2), [X, X, X, MASK]),
    "PReLU": (nn.PReLU, [X]),
    "QuantizedEmbedding": (lambda: nn.QuantizedEmbedding(5, 64), [IDS]),
    "QuantizedLinear": (lambda: nn.QuantizedLinear(64, 32), [value(2, 64)]),
    "RMSNorm": (lambda: nn.RMSNorm(6), [X]),
    "RNN": (lambda: nn.RNN(6, 3), [X]),
    "ReLU": (nn.ReLU, [X]),
    "ReLU2": (nn.ReLU2, [X]),
    "ReLU6": (nn.ReLU6, [X]),
    "RoPE": (lambda: nn.RoPE(6), [X[:, None]]),
    "SELU": (nn.SELU, [X]),
    "Sequential": (lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 2)), [X]),
    "SiLU": (nn.SiLU, [X]),
    "Sigmoid": (nn.Sigmoid, [X]),
    "SinusoidalPositionalEncoding": (lambda: nn.SinusoidalPositionalEncoding(6), [IDS]),
    "Softmax": (nn.Softmax, [X]),
    "Softmin": (nn.Softmin, [X]),
    "Softplus": (nn.Softplus, [X]),
    "Softshrink": (nn.Softshrink, [X]),
    "Softsign": (nn.Softsign, [X]),
    "Step": (nn.Step, [X]),
    "Tanh": (nn.Tanh, [X]),
    "Transformer": (lambda: nn.Transformer(6, 2, 1, 1, 8), [X, X, MASK, MASK, MASK]),
    "TransformerDecoder": (lambda: nn.TransformerDecoder(1, 6, 2, 8), [X, X, MASK, MASK]),
    "TransformerEncoder": (lambda: nn.TransformerEncoder(1, 6, 2, 8), [X, MASK]),
    "Upsample": (lambda: nn.Upsample(2), [PICTURE]),
}
OTHERS = {  # what runs on several devices, or has no forward
    "Module", "AllToShardedLinear", "ShardedToAllLinear", "QuantizedAllToShardedLinear",
    "QuantizedShardedToAllLinear", "QQLinear", "FullyShardedModule",
    "TransformerDecoderLayer", "TransformerEncoderLayer",  # in the transformers above
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    mx.random.seed(1)
    return mg.InterpretableModel(nn.Identity())


def flat(result):
    return list(result) if isinstance(result, (tuple, list)) else [result]


def same_recorded_as_plain(model, call, given, compile):
    """What `call` gives on recorded values is what it gives on plain ones."""
    mx.random.seed(5)
    plain = flat(call(*given))
    mx.random.seed(5)
    with model.trace(*given[:1], compile=compile):
        h = model.input
        assert type(h).__name__ == "Proxy"
        found = [part.save() for part in flat(call(h, *given[1:]))]
    assert len(found) == len(plain)
    for one, other in zip(found, plain, strict=True):
        assert models.same(one, other, 1e-5)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_a_module_of_nn_records(model, name, compile):
    make, given = MODULES[name]
    mx.random.seed(2)
    module = make()
    mx.eval(module.parameters())
    module.eval()
    same_recorded_as_plain(model, module, given, compile)


def test_every_module_of_nn_is_tried():
    classes = {n for n, v in vars(nn).items() if inspect.isclass(v) and issubclass(v, nn.Module)}
    assert not classes - OTHERS - set(MODULES)
    assert len(set(MODULES) - classes) < 3  # what this version of MLX does not have


@pytest.mark.parametrize("name", ["Dropout", "Dropout2d", "Dropout3d"])
def test_dropout_in_training_draws(model, name):
    make, given = MODULES[name]
    module = make()
    with model.trace(given[0], compile=False):
        out = module(model.input).save()
    zero = out == 0
    assert mx.any(zero) and mx.any(~zero)
    assert mx.allclose(mx.where(zero, 0, given[0] * 2), out)


LABELS = mx.array([[0, 1, 2, 3], [3, 2, 1, 0]])
SIGNS = mx.where(X > 0, 1.0, -1.0)
FUNCTIONS = {
    "glu": [X], "prelu": [X, mx.array(0.2)], "binary_cross_entropy": [X, (X > 0) * 1.0],
    "cosine_similarity_loss": [X, X + 1], "cross_entropy": [X, LABELS],
    "gaussian_nll_loss": [X, X + 1, mx.abs(X) + 1], "hinge_loss": [X, SIGNS],
    "huber_loss": [X, X + 1], "kl_div_loss": [X, X + 1], "l1_loss": [X, X + 1],
    "log_cosh_loss": [X, X + 1], "margin_ranking_loss": [X, X + 1, SIGNS],
    "mse_loss": [X, X + 1], "nll_loss": [X, LABELS], "smooth_l1_loss": [X, X + 1],
    "triplet_loss": [X, X + 1, X - 1],
}  # fmt: skip
NOT_OF_ARRAYS = {
    "average_gradients", "fsdp_apply_gradients", "fully_shard", "quantize", "value_and_grad",
    "quantize_inplace", "shard_inplace", "shard_linear",
}  # fmt: skip


def functions():
    found = {}
    for space in (nn, nn.layers.activations, nn.losses):
        for name, function in vars(space).items():
            if name.startswith("_") or inspect.isclass(function) or inspect.ismodule(function):
                continue
            if callable(function) and getattr(function, "__module__", "") != "typing":
                found[name] = function
    return {n: f for n, f in found.items() if n not in NOT_OF_ARRAYS and n not in dir(mx.array)}


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", sorted(set(functions()) - {"partial", "reduce"}))
def test_a_function_of_nn_records(model, name, compile):
    space = nn if hasattr(nn, name) else nn.losses
    given = FUNCTIONS.get(name, [X])
    same_recorded_as_plain(model, lambda *args: getattr(space, name)(*args), given, compile)


def test_a_sparse_autoencoder_with_relu_reads_and_writes(chain, x):
    mx.random.seed(3)
    encoder = nn.Sequential(nn.Linear(6, 12), nn.ReLU())
    decoder = nn.Linear(12, 6)
    mx.eval(encoder.parameters(), decoder.parameters())
    for compile in (False, True, "auto", "auto"):
        with chain.trace(x, compile=compile):
            h = chain.layers[1].output
            features = encoder(h).save()
            chain.layers[1].output = decoder(features)
            out = chain.output.save()
    assert mx.all(features >= 0) and mx.any(features == 0)
    by_hand = chain.run(mg.edit("layers.1", iv_replace(decoder(features))), x).output
    assert models.same(out, by_hand, 1e-5)


def iv_replace(value):
    return mg.interventions.replace_with(value)
