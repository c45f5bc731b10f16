"""Why an array cannot be evaluated: it holds nothing, or a transformation follows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from mlxgraph.mlx_facts.placeholders import placeholder
from mlxgraph.mlx_facts.probes import (
    begin,
    holds_nothing,
    is_computed,
    is_drawn,
    is_followed,
    known_range,
    says_followed,
    says_holds_nothing,
)

TRANSFORMATIONS = {
    "grad": mx.grad,
    "value_and_grad": mx.value_and_grad,
    "vmap": mx.vmap,
    "compile": mx.compile,
}
NO_EVAL = ("vmap", "compile")  # what `mx.grad` follows can be evaluated


def inside(how: str, ask: Callable[[mx.array], Any]) -> Any:
    """What `ask` gives for the argument of a function that is being transformed, or its error."""
    answers: list[Any] = []

    def function(x: mx.array) -> mx.array:
        try:
            answers.append(ask(x))
        except Exception as error:
            answers.append(error)
        return (x * 1.0).sum()

    mx.eval(TRANSFORMATIONS[how](function)(mx.ones((2, 2))))
    return answers[0]


def test_an_array_that_holds_nothing_cannot_be_evaluated_and_says_so_in_these_words() -> None:
    with pytest.raises(RuntimeError) as caught:
        mx.async_eval(placeholder((2,), mx.float32))
    assert "[eval] Attempting to eval an array without a primitive" in str(caught.value)
    assert says_holds_nothing(caught.value) and not says_followed(caught.value)
    assert holds_nothing(placeholder((2,), mx.float32))
    assert holds_nothing(placeholder((2,), mx.float32) + 1)


@pytest.mark.parametrize("how", NO_EVAL)
@pytest.mark.parametrize("look", [mx.eval, lambda x: x.sum().item(), lambda x: x.tolist()])
def test_an_array_inside_a_transformation_cannot_be_evaluated_and_says_so_in_these_words(
    how: str, look: Callable[[mx.array], Any]
) -> None:
    error = inside(how, look)
    assert type(error) is ValueError
    assert "[eval] Attempting to eval an array during function transformations" in str(error)
    assert says_followed(error) and not says_holds_nothing(error)


@pytest.mark.parametrize("how", TRANSFORMATIONS)
def test_async_eval_refuses_what_a_transformation_follows_and_says_so_in_these_words(
    how: str,
) -> None:
    error = inside(how, mx.async_eval)
    assert type(error) is ValueError
    assert "[async_eval] Not allowed inside a graph transformation" in str(error)
    assert says_followed(error) and not says_holds_nothing(error)
    assert inside(how, is_followed) is True
    assert inside(how, lambda x: is_followed(mx.stop_gradient(x) * 2)) is True
    assert inside(how, lambda x: is_followed(x.astype(mx.int32))) is True


@pytest.mark.parametrize("how", ["grad", "value_and_grad"])
def test_what_a_gradient_follows_can_be_evaluated_and_is_followed_all_the_same(how: str) -> None:
    assert inside(how, lambda x: x.sum().item()) == 4.0
    assert inside(how, is_followed) is True


@pytest.mark.parametrize("how", TRANSFORMATIONS)
def test_what_depends_on_no_input_of_a_transformation_is_not_followed(how: str) -> None:
    assert inside(how, lambda x: is_followed(mx.ones((2,)) * 2)) is False
    assert inside(how, lambda x: (mx.ones((2,)) * 2).sum().item()) == 4.0


@pytest.mark.parametrize("how", TRANSFORMATIONS)
def test_what_is_followed_holds_something_and_nothing_follows_what_holds_nothing(how: str) -> None:
    assert inside(how, holds_nothing) is False
    assert inside(how, lambda x: holds_nothing(placeholder((2,), mx.float32))) is True
    assert inside(how, lambda x: is_followed(placeholder((2,), mx.float32))) is False


def test_an_array_at_rest_holds_something_and_is_not_followed() -> None:
    for array in (mx.ones((2,)), mx.ones((2,)) * 3, mx.array([], mx.int32)):
        assert not holds_nothing(array) and not is_followed(array)


def test_errors_of_others_say_neither() -> None:
    for error in (RuntimeError("no memory"), ValueError("[eval] a name"), KeyError("eval")):
        assert not says_holds_nothing(error) and not says_followed(error)
    assert not says_holds_nothing(ValueError("without a primitive"))
    assert not says_followed(RuntimeError("a graph transformation"))


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "uint32", "int64"])
def test_whole_numbers_are_looked_at_where_they_lie(dtype: str) -> None:
    kind = getattr(mx, dtype)
    for array in (
        mx.array([3, 9, 1], kind),
        mx.arange(1, 10).astype(kind),
        mx.array([[3, 1], [9, 4]], kind)[:, ::-1],
        mx.concatenate([mx.arange(1, 9)] * 20 + [mx.array([9])]).astype(kind),
    ):
        assert known_range(array) == (1, 9)
    assert known_range(mx.array(-4 if "u" not in dtype else 4, kind)) is not None


def test_what_cannot_be_looked_at_has_no_known_range() -> None:
    assert known_range(mx.array([], mx.int32)) is None
    assert known_range(mx.array([0.5])) is None
    assert known_range(mx.array([True])) is None
    assert known_range(placeholder((2,), mx.int32)) is None
    for how in TRANSFORMATIONS:
        assert inside(how, lambda x: known_range(x.astype(mx.int32))) is None


def test_an_input_of_a_trace_that_was_changed_in_place_is_computed() -> None:
    seen: dict[str, bool] = {}

    def function(a: mx.array, b: mx.array, c: mx.array) -> mx.array:
        b[0] = 1.0
        c += 1.0
        seen.update(a=is_computed(a), b=is_computed(b), c=is_computed(c), sum=is_computed(a + b))
        return a

    mx.compile(function)(mx.ones(3), mx.ones(3), mx.ones(3))
    assert seen == {"a": False, "b": True, "c": True, "sum": True}
    known = mx.array([1, 2])
    assert not is_computed(known) and is_computed(known + 1)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: mx.random.normal((3,)),
        lambda: mx.random.uniform(shape=(2, 2)) + 1,
        lambda: mx.random.bernoulli(shape=(4,)) * mx.ones((4,)),
        lambda: mx.random.randint(0, 5, (3,)),
        lambda: mx.random.categorical(mx.ones((2, 3))),
        lambda: mx.random.gumbel((3,)),
        lambda: mx.random.permutation(5),
    ],
)
def test_the_graph_of_a_draw_names_random_bits_until_it_is_computed(
    draw: Callable[[], Any],
) -> None:
    array = draw()
    assert is_drawn(array)
    mx.eval(array)
    assert not is_drawn(array)
    assert not is_drawn(mx.ones((3,)) + 1)


def test_what_is_begun_is_computed_and_what_is_followed_waits() -> None:
    x = mx.ones((3,)) * 2
    begin([x])
    mx.synchronize()
    assert not is_computed(x)
    seen: list[bool] = []

    def follow(y: mx.array) -> mx.array:
        begin([y * 2])
        seen.append(True)
        return (y * 2).sum()

    assert mx.grad(follow)(mx.ones((3,))).tolist() == [2, 2, 2] and seen
