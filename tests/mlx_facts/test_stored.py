"""A matrix comes back from where a module stores it, up to the rounding of its own bits."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models.switch_layers import SwitchLinear

from mlxgraph.mlx_facts.matrices import matrix_of
from mlxgraph.mlx_facts.stored import can_store, stored, stored_scaled

WIDE, OUT = 128, 64
MODES = [
    {"group_size": 64, "bits": 4},
    {"group_size": 32, "bits": 2},
    {"group_size": 128, "bits": 8},
    {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    {"group_size": 32, "bits": 8, "mode": "mxfp8"},
]


def made(kind: str, how: dict | None = None) -> nn.Module:
    mx.random.seed(2)
    module = {
        "linear": lambda: nn.Linear(WIDE, OUT),
        "embedding": lambda: nn.Embedding(OUT, WIDE),
        "experts": lambda: SwitchLinear(WIDE, OUT, 3),
    }[kind]()
    return module if how is None else module.to_quantized(**how)


@pytest.mark.parametrize("kind", ["linear", "embedding", "experts"])
@pytest.mark.parametrize("how", [None, *MODES], ids=str)
def test_the_matrix_comes_back(kind, how):
    module = made(kind, how)
    matrix = 2 * mx.random.normal(matrix_of(module).shape, key=mx.random.key(1))
    entries = stored(module, matrix)
    for name, array in entries.items():
        assert (array.shape, array.dtype) == (module[name].shape, module[name].dtype)
        module[name] = array
    size = mx.abs(matrix).mean().item()
    near = {None: 1e-6, 8: 0.08, 4: 0.4, 2: 1.0}[how and how["bits"]]
    assert mx.abs(matrix_of(module) - matrix).mean().item() < near * size
    assert mx.abs(mx.roll(matrix, 1, axis=-1) - matrix).mean().item() > size


@pytest.mark.parametrize("kind", ["linear", "experts", "embedding"])
@pytest.mark.parametrize("scale", [0.3, mx.linspace(-1, 2, OUT)], ids=["number", "by output"])
def test_affine_codes_take_a_scale_without_rounding(kind, scale):
    module = made(kind, MODES[0])
    before = matrix_of(module)
    entries = stored_scaled(module, scale)
    if kind == "embedding" and isinstance(scale, mx.array):
        assert entries is None
        return
    assert "weight" not in entries
    for name, array in entries.items():
        module[name] = array
    factor = scale if not isinstance(scale, mx.array) else scale[:, None]
    assert mx.abs(matrix_of(module) - before * factor).max().item() < 1e-6
    assert stored_scaled(made("linear", MODES[3]), scale) is None
    assert stored_scaled(made("linear"), scale) is None


def test_what_is_stored_otherwise_is_told():
    assert can_store(made("linear"))
    assert can_store(made("linear", MODES[0]))
    module = made("linear", MODES[0])
    module.global_scale = mx.ones(())
    assert not can_store(module)
