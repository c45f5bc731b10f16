"""`nn.Module` from inside."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlxgraph.mlx_facts import modules


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.scale = mx.ones((2,))
        self.width = 2
        self.activation = nn.relu

    def __call__(self, x: mx.array) -> mx.array:
        return self.activation(self.inner(x)) * self.scale * self.width


def test_a_module_is_a_dict_of_arrays_and_modules_beside_plain_attributes() -> None:
    block = Block()
    assert isinstance(block, dict)
    assert set(block) == {"inner", "scale"}
    assert {"width", "activation", "_training", modules.NO_GRAD} <= set(vars(block))
    assert not any(isinstance(v, (mx.array, nn.Module)) for v in vars(block).values())


def test_a_twin_with_the_same_entries_computes_the_same_from_the_same_arrays() -> None:
    block, x = Block(), mx.array([[1.0, -2.0]])
    twin = modules.twin_of(block)
    assert type(twin) is Block and not len(twin) and twin.width == 2
    for key, value in block.items():
        modules.enter(twin, key, value)
    assert twin.scale is block.scale and twin.inner is block.inner
    assert mx.array_equal(twin(x), block(x))


def test_writing_to_a_twin_leaves_the_module() -> None:
    block = Block()
    twin = modules.twin_of(block)
    modules.enter(twin, "scale", mx.zeros((2,)))
    twin.width = 3
    modules.attach(twin, "hook", nn.Linear(1, 1))
    assert block.width == 2 and block.scale.tolist() == [1, 1] and "hook" not in vars(block)


def test_what_is_attached_is_no_entry_though_it_is_a_module() -> None:
    block = Block()
    modules.attach(block, "hook", nn.Linear(1, 1))
    assert "hook" not in block and isinstance(block.hook, nn.Linear)
    assert not any("hook" in name for name, _ in block.named_modules())


def test_python_looks_call_up_on_the_class_and_a_module_can_wear_another() -> None:
    class Hooked(Block):
        def __call__(self, x: mx.array) -> str:
            return "hooked"

    block = Block()
    modules.attach(block, "__call__", lambda x: "own")
    assert isinstance(block(mx.ones((1, 2))), mx.array)
    modules.wear(block, Hooked)
    assert block(mx.ones((1, 2))) == "hooked" and isinstance(block, Block)


@pytest.mark.parametrize("frozen", [False, True])
def test_no_grad_names_entries_and_is_shared_by_a_twin(frozen: bool) -> None:
    block = Block()
    if frozen:
        block.freeze(keys=["scale"])
    assert vars(block)[modules.NO_GRAD] == ({"scale"} if frozen else set())
    assert vars(modules.twin_of(block))[modules.NO_GRAD] is vars(block)[modules.NO_GRAD]


def test_a_twin_needs_no_constructor() -> None:
    class Sized(nn.Module):
        def __new__(cls, width: int) -> Sized:
            raise AssertionError("made a second time")

    sized = dict.__new__(Sized)
    nn.Module.__init__(sized)
    assert type(modules.twin_of(sized)) is Sized
