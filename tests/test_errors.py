"""R9: every deliberate error is one of ours, is what a caller would expect, and says what to do.

Most of them are tested beside the rule they guard; here are the rules for all of them, and the few
that have no other place.
"""

from __future__ import annotations

import inspect
import re

import mlx.core as mx
import pytest

from mlxgraph import errors
from mlxgraph.errors import LookError, MLXGraphError, OperationError, close_matches

OURS = [
    value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, MLXGraphError) and value is not MLXGraphError
]
BUILTIN = (
    ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError, ImportError,
    OSError,
)  # fmt: skip


def test_every_error_inherits_the_root_and_a_fitting_builtin():
    for kind in OURS:
        assert issubclass(kind, BUILTIN), f"{kind.__name__} is no builtin error"
        assert kind.__doc__ and kind.__name__.endswith("Error"), kind.__name__


def test_messages_are_shown_as_they_are_written():
    """A KeyError would show its message in quotes, with its line ends spelt out."""
    shown = [kind for kind in OURS if issubclass(kind, KeyError)]
    assert {errors.UnknownSiteError, errors.UnknownNameError} <= set(shown)
    for kind in shown:
        error = kind.__new__(kind)
        error.args = ("first line\nsecond line",)
        assert str(error) == "first line\nsecond line"


def test_close_matches_look_at_ends_of_paths():
    known = ["model.layers.0.self_attn", "model.layers.0.mlp", "model.norm"]
    assert close_matches("model.layers.0.mpl", known)[0] == "model.layers.0.mlp"
    assert "model.norm" in close_matches("norm", known)
    assert close_matches("zzzzzz", known) == []


NOT_TAKEN = {
    "a wrong keyword": lambda h: mx.softmax(h, axes=1),
    "a wrong type": lambda h: mx.softmax(h, axis="last"),
    "too many arguments": lambda h: mx.exp(h, 1, 2, 3),
    "a wrong operand": lambda h: h + "text",
    "a matrix of bools": lambda h: mx.bitwise_and(h, h),
}


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_an_operation_that_mlx_does_not_accept_raises_at_the_users_line(chain, x, name):
    kind = errors.ShapeError if name == "a wrong operand" else OperationError
    with chain.trace(x), pytest.raises(kind) as caught:
        NOT_TAKEN[name](chain.layers[0].output)
    line = NOT_TAKEN[name].__code__.co_firstlineno
    assert re.search(rf"test_errors\.py:{line}\b", str(caught.value))
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("name", ["save", "savez", "save_safetensors"])
def test_writing_a_proxy_to_disk_says_to_wait(chain, x, tmp_path, name):
    path = str(tmp_path / "file")
    with chain.trace(x), pytest.raises(LookError) as caught:
        h = chain.layers[0].output
        if name == "save_safetensors":
            mx.save_safetensors(path, {"h": h})
        else:
            getattr(mx, name)(path, h)
    assert ".save()" in str(caught.value) and "test_errors.py" in str(caught.value)
    assert isinstance(caught.value, RuntimeError)
    assert not list(tmp_path.iterdir())


def test_what_was_saved_can_be_written_to_disk(chain, x, tmp_path):
    path = str(tmp_path / "file.safetensors")
    with chain.trace(x):
        h = chain.layers[0].output.save()
    mx.save_safetensors(path, {"h": h})
    assert bool(mx.array_equal(mx.load(path)["h"], h))


def test_eval_of_a_proxy_waits_for_the_end_of_the_block(counted, x):
    with counted.trace(x):  # the census
        pass
    counted.module.reset()
    with counted.trace(x, compile=False):
        h = counted.layers[0].output.save()
        mx.eval(h, mx.ones((3,)), [h * 2])
        mx.async_eval(h)
        assert counted.module.ticks() == [0, 0, 0, 0]
    assert bool(mx.array_equal(h, counted.module.layers[0].inner(x)))


def test_an_error_shows_the_listing_around_the_faulty_operation(chain, x):
    with chain.trace(x), pytest.raises(errors.ShapeError) as caught:
        scaled = chain.layers[0].output * 2
        scaled @ mx.ones((5, 5))
    before, faulty = [line for line in str(caught.value).split("\n") if "%" in line][-2:]
    assert before.strip().startswith("%1 = %0 * 2") and faulty.startswith("->%2 = %1 @")
    assert "(2, 4, 6) float32 and (5, 5) float32" in str(caught.value)
