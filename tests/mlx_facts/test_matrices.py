"""The matrix of a module is what its forward multiplies by: `module(x) = x @ W.T + bias`."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models.switch_layers import SwitchLinear
from mlx_lm.tuner.dora import DoRAEmbedding, DoRALinear
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear, LoRASwitchLinear

from mlxgraph.mlx_facts import random_state
from mlxgraph.mlx_facts.matrices import matrix_of, may_have_matrix

try:  # the oldest mlx-lm that is allowed has no such file
    from mlx_lm.models.mla import MultiLinear
except ImportError:
    MultiLinear = None

WIDE, OUT, EXPERTS, RANK = 128, 64, 4, 3
MODES = [
    {"group_size": 64, "bits": 4},
    {"group_size": 32, "bits": 2},
    {"group_size": 128, "bits": 8},
    {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    {"group_size": 16, "bits": 4, "mode": "nvfp4"},
    {"group_size": 32, "bits": 8, "mode": "mxfp8"},
]


def drawn(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(sum(shape)))


def linear(bias: bool = True) -> nn.Linear:
    mx.random.seed(3)
    return nn.Linear(WIDE, OUT, bias=bias)


def bias_of(module: Any) -> Any:
    inner = module["linear"] if "linear" in module else module
    return inner["bias"] if "bias" in inner else 0.0


def apart(module: Any) -> float:
    """How far a module's output is from that of its matrix, and the next one's rows from it."""
    x, matrix = drawn(5, WIDE), matrix_of(module)
    assert matrix is not None
    assert (matrix.shape, matrix.dtype) == ((OUT, WIDE), mx.float32)
    own = module(x)
    control = x @ mx.roll(matrix, 1, axis=0).T + bias_of(module)
    assert mx.abs(own - control).max().item() > 0.1
    return mx.abs(own - (x @ matrix.T + bias_of(module))).max().item()


def adapted(module: Any, kind: Any, **more: Any) -> Any:
    """A module with an adapter that does something."""
    found = kind.from_base(module, r=RANK, scale=2.0, **more)
    found.lora_a = 0.1 * drawn(*found.lora_a.shape)
    found.lora_b = 0.3 * drawn(*found.lora_b.shape)
    return found


@pytest.mark.parametrize("mode", [None, *MODES], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer(mode, bias):
    module = linear(bias)
    assert apart(module if mode is None else module.to_quantized(**mode)) < 1e-5


@pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])
@pytest.mark.parametrize("mode", [None, MODES[0], MODES[3]], ids=str)
def test_an_adapted_layer(kind, mode):
    base = linear() if mode is None else linear().to_quantized(**mode)
    module = adapted(base, kind)
    assert apart(module) < 1e-5
    plain = matrix_of(base)
    assert mx.abs(matrix_of(module) - plain).max().item() > 1e-2, "the adapter counts"


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_narrow_floats_are_kept_exactly(dtype):
    module = linear()
    module.set_dtype(dtype)
    matrix = matrix_of(module)
    assert matrix.dtype == mx.float32
    assert mx.array_equal(matrix.astype(dtype), module.weight)
    quantised = module.to_quantized(**MODES[0])
    x = drawn(5, WIDE).astype(dtype)
    ours = x.astype(mx.float32) @ matrix_of(quantised).T + module.bias
    assert mx.abs(quantised(x) - ours).max().item() < 0.05  # of outputs up to 2
    assert mx.abs(quantised(x) - mx.roll(ours, 1, axis=1)).max().item() > 1.0


def embedding(mode: Any = None) -> Any:
    mx.random.seed(4)
    module = nn.Embedding(OUT, WIDE)
    return module if mode is None else module.to_quantized(**mode)


@pytest.mark.parametrize(
    "module",
    [
        *(embedding(mode) for mode in (None, *MODES)),
        adapted(embedding(), LoRAEmbedding),
        adapted(embedding(MODES[0]), LoRAEmbedding),
        adapted(embedding(), DoRAEmbedding),
    ],
    ids=lambda module: f"{type(module).__name__} {getattr(module, 'mode', '')}",
)
def test_an_embedding_as_rows_and_as_a_head(module):
    matrix, ids, x = matrix_of(module), mx.array([3, 60]), drawn(2, WIDE)
    assert matrix.shape == (OUT, WIDE)
    assert mx.abs(matrix[ids] - module(ids)).max().item() < 1e-5
    assert mx.abs(matrix[ids - 1] - module(ids)).max().item() > 1e-2
    assert mx.abs(x @ matrix.T - module.as_linear(x)).max().item() < 1e-4
    assert mx.array_equal(matrix_of(module, slice(3, 5)), matrix[3:5])


def experts(mode: Any = None) -> Any:
    mx.random.seed(5)
    module = SwitchLinear(WIDE, OUT, EXPERTS)
    return module if mode is None else module.to_quantized(**mode)


@pytest.mark.parametrize(
    "module",
    [
        *(experts(mode) for mode in (None, MODES[0], MODES[3], MODES[4])),
        adapted(experts(), LoRASwitchLinear),
        adapted(experts(MODES[0]), LoRASwitchLinear),
    ],
    ids=lambda module: f"{type(module).__name__} {getattr(module, 'mode', '')}",
)
def test_experts(module):
    matrix, x, chosen = matrix_of(module), drawn(3, WIDE), [2, 0, 3]
    assert matrix.shape == (EXPERTS, OUT, WIDE)
    own = module(x[:, None], mx.array(chosen)).reshape(3, OUT)
    for row, expert in enumerate(chosen):
        apart = [mx.abs(own[row] - x[row] @ one.T).max().item() for one in matrix]
        assert apart[expert] < 1e-4 and min(apart[:expert] + apart[expert + 1 :]) > 1e-2


@pytest.mark.skipif(MultiLinear is None, reason="not in this mlx-lm")
@pytest.mark.parametrize("mode", [None, MODES[0]], ids=str)
def test_heads_with_a_matrix_each(mode):
    mx.random.seed(6)
    module = MultiLinear(WIDE, OUT, EXPERTS)
    module = module if mode is None else module.to_quantized(**mode)
    matrix, x = matrix_of(module), drawn(EXPERTS, 2, WIDE)
    assert mx.abs(module(x) - x @ matrix.swapaxes(1, 2)).max().item() < 1e-4
    assert mx.abs(module(x) - x @ matrix[::-1].swapaxes(1, 2)).max().item() > 1e-2


@pytest.mark.parametrize("mode", MODES[4:], ids=str)
def test_a_layer_that_quantises_its_input_has_the_matrix_it_stores(mode):
    module = nn.QQLinear.from_linear(linear(bias=False), **mode)
    module.train()  # floats, quantised at each call
    trained = matrix_of(module)
    module.eval()
    assert mx.abs(trained - matrix_of(module)).max().item() < 1e-6
    assert 0 < mx.abs(trained - linear(bias=False).weight).max().item() < 0.02


# -- modules of one's own ------------------------------------------------------------------------


class Across(nn.Module):
    """A matrix the other way round, as GPT-2's checkpoints have it."""

    def __init__(self, wide: int = WIDE, out: int = OUT):
        super().__init__()
        self.weight, self.bias = drawn(wide, out), drawn(out)

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self.weight + self.bias


class Odd(nn.Linear):
    """A linear layer with a call of its own."""

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(2 * x)


class Gate(nn.Module):
    """A choice of experts: its weight is a matrix, and it gives something else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = drawn(OUT, WIDE)

    def __call__(self, x: mx.array) -> Any:
        return mx.topk(x @ self.weight.T, 2), 1.0


class Bent(Gate):
    """Not linear."""

    def __call__(self, x: mx.array) -> Any:
        return mx.tanh(x @ self.weight.T)


class Cut(Gate):
    """Not linear, though it is for small values."""

    def __call__(self, x: mx.array) -> Any:
        return mx.clip(x @ self.weight.T, -3, 3)


class Counts(Across):
    """Keeps what it is called with."""

    calls = 0

    def __call__(self, x: mx.array) -> Any:
        self.calls += 1
        self.last = x
        return super().__call__(x)


def test_a_matrix_that_lies_across_is_found_by_what_it_does():
    assert apart(Across()) < 1e-4


def test_of_a_square_matrix_the_side_is_found_too():
    module, x = Across(WIDE, WIDE), drawn(5, WIDE)
    matrix = matrix_of(module)
    assert mx.abs(matrix - module.weight.T).max().item() < 1e-5
    assert mx.abs(module(x) - (x @ matrix.T + module.bias)).max().item() < 1e-4


def test_a_subclass_with_a_call_of_its_own_is_asked():
    mx.random.seed(7)
    assert apart(Odd(WIDE, OUT)) < 1e-4


@pytest.mark.parametrize("kind", [Gate, Bent, Cut])
def test_what_is_no_linear_map_has_no_matrix(kind):
    assert matrix_of(kind()) is None
    assert may_have_matrix(kind())


@pytest.mark.parametrize(
    "module", [nn.RMSNorm(WIDE), nn.Conv1d(8, 8, 3), nn.ReLU(), nn.GRU(8, 8), nn.RoPE(8)], ids=str
)
def test_a_module_without_a_matrix(module):
    assert matrix_of(module) is None


def test_a_module_that_is_asked_is_as_it_was_and_nothing_is_drawn():
    module = Counts()
    assert matrix_of(module) is not None
    assert module.calls == 0 and "last" not in module
    lora = adapted(linear(), LoRALinear)
    before = random_state.current()
    kept = dict(lora.items())
    mx.eval(matrix_of(lora))
    assert not random_state.moved(before)
    assert dict(lora.items()).keys() == kept.keys()
    assert all(lora[name] is value for name, value in kept.items())


class Around(Across):
    """A linear map by way of another module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Counts(OUT, OUT)

    def __call__(self, x: mx.array) -> mx.array:
        return self.inner(super().__call__(x))


def test_modules_in_others_are_not_called():
    module = Around()
    assert matrix_of(module) is None
    assert module.inner.calls == 0 and "last" not in module.inner
    assert matrix_of(module.inner) is not None


def test_a_matrix_is_of_the_weights_as_they_are_and_no_way_into_them():
    module = linear()
    matrix = matrix_of(module)
    matrix[0] = 7.0
    assert mx.abs(module.weight[0] - 7.0).min().item() > 1.0
    module.weight = 2.0 * module.weight
    assert mx.array_equal(matrix_of(module), module.weight)
