"""MLX's functions are attributes of its modules, and what was taken stays what it was."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlxgraph.mlx_facts import originals
from mlxgraph.mlx_facts.originals import ARRAY, NAMESPACES


@pytest.mark.parametrize("module", [mx, mx.linalg, mx.fast, mx.fft, mx.random, nn, nn.losses])
def test_a_function_put_in_a_modules_dict_is_what_its_name_means(module) -> None:
    name = next(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
    real = getattr(module, name)
    vars(module)[name] = stand_in = object()
    try:
        assert getattr(module, name) is stand_in
    finally:
        vars(module)[name] = real
    assert getattr(module, name) is real


def test_what_was_taken_is_not_reached_by_an_exchange() -> None:
    vars(mx)["zeros"] = None
    try:
        assert originals.zeros((2,)).tolist() == [0, 0]
        assert NAMESPACES["mx"]["zeros"] is originals.zeros
    finally:
        vars(mx)["zeros"] = originals.zeros


def test_mlxs_own_layers_look_their_functions_up_at_each_call() -> None:
    seen: list[str] = []

    def noticed(*args, **kwargs):
        seen.append("rms_norm")
        return real(*args, **kwargs)

    real, norm = mx.fast.rms_norm, nn.RMSNorm(4)
    vars(mx.fast)["rms_norm"] = noticed
    try:
        norm(mx.ones((2, 4)))
    finally:
        vars(mx.fast)["rms_norm"] = real
    assert seen == ["rms_norm"]


def test_the_activations_stand_in_three_modules_and_are_the_same_functions() -> None:
    for name in ("gelu", "relu", "silu", "softmax", "tanh"):
        assert getattr(nn, name) is getattr(nn.layers.activations, name)
        assert getattr(nn, name) is getattr(nn.layers, name)


def test_every_original_is_mlxs_own() -> None:
    taken = {n: v for n, v in vars(originals).items() if n in NAMESPACES["mx"] and n[0] != "_"}
    assert len(taken) > 8
    for name, value in taken.items():
        assert value is NAMESPACES["mx"][name]
    assert originals.normal is mx.random.normal
    assert ARRAY is mx.array
