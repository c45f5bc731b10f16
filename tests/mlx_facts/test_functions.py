"""What kind of function a name of MLX's stands for."""

from __future__ import annotations

import operator

import mlx.core as mx
import mlx.nn as nn

from mlxgraph.mlx_facts.functions import is_compiled, is_native, is_of_nn


def test_the_functions_of_mlx_core_are_of_one_type() -> None:
    for function in (mx.add, mx.softmax, mx.linalg.norm, mx.fast.rope, mx.fft.fft, mx.random.key):
        assert type(function) is type(mx.mean)
        assert is_native(function) and not is_compiled(function) and not is_of_nn(function)


def test_the_activations_of_nn_are_compiled_functions() -> None:
    for function in (nn.gelu, nn.silu, nn.relu, mx.compile(operator.neg)):
        assert type(function) is type(mx.compile(abs))
        assert is_compiled(function) and not is_native(function) and not is_of_nn(function)


def test_the_losses_of_nn_are_written_in_python() -> None:
    for function in (nn.losses.cross_entropy, nn.losses.mse_loss, nn.quantize, nn.value_and_grad):
        assert is_of_nn(function) and not is_compiled(function) and not is_native(function)


def test_classes_dtypes_and_functions_of_others_are_none_of_these() -> None:
    for value in (mx.array, mx.float32, mx.Dtype, nn.Linear, len, operator.add, lambda: None, mx):
        assert not (is_native(value) or is_compiled(value) or is_of_nn(value))


def test_nearly_all_that_can_be_called_in_mlx_core_is_native() -> None:
    names = {n for n, v in vars(mx).items() if is_native(v)}
    assert {"mean", "grad", "compile", "eval", "save_safetensors", "concatenate"} <= names
    assert len(names) > 200
