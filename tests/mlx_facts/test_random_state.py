"""The random state: one key, read, compared, put back, captured."""

from __future__ import annotations

from io import StringIO

import mlx.core as mx
import pytest

from mlxgraph.mlx_facts import random_state


def drawn() -> list[float]:
    return mx.random.normal((3,)).tolist()


def test_the_state_is_one_key_of_two_uint32() -> None:
    assert len(mx.random.state) == 1
    assert random_state.is_key(mx.random.state[0])
    assert random_state.is_key(random_state.current())
    assert random_state.is_key(mx.random.key(5))
    assert not random_state.is_key(mx.array([1, 2])) and not random_state.is_key([1, 2])


def test_the_state_keeps_the_same_array_until_something_is_drawn() -> None:
    key = random_state.current()
    assert mx.random.state[0] is key and random_state.same(key)
    mx.eval(key)
    assert random_state.same(key)
    mx.random.normal((1,))  # not evaluated
    assert mx.random.state[0] is not key and not random_state.same(key)


def test_a_draw_with_a_key_of_its_own_leaves_the_state() -> None:
    key = random_state.current()
    mx.random.normal((1,), key=mx.random.key(1))
    assert random_state.same(key)


def test_seeding_with_64_bits_makes_its_halves_the_key() -> None:
    mx.random.seed((4_000_000_001 << 32) | 3_000_000_002)
    assert mx.random.state[0].tolist() == [4_000_000_001, 3_000_000_002]


@pytest.mark.parametrize("before", [0, 1, 7])
def test_the_draws_after_a_key_come_again_once_it_is_put_back(before: int) -> None:
    mx.random.seed(11)
    for _ in range(before):
        drawn()
    key = random_state.current()
    first = [drawn(), drawn()]
    assert first[0] != first[1]
    random_state.restore(key)
    assert [drawn(), drawn()] == first


def splits() -> int:
    """How many the state waits for."""
    mx.export_to_dot(drawing := StringIO(), mx.random.state[0])
    return drawing.getvalue().count("Split")


def test_draws_that_nobody_looks_at_are_a_chain_in_the_state() -> None:
    random_state.settle()
    assert splits() == 0
    for _ in range(5):
        mx.random.normal((3,))
    assert splits() == 5
    drawn()  # one that is looked at computes those before it
    assert splits() <= 1
    mx.random.normal((3,))
    key = mx.array(random_state.current())
    random_state.settle()
    assert splits() == 0 and random_state.current().tolist() == key.tolist()


def test_the_state_of_a_trace_is_not_settled() -> None:
    def draws(x: mx.array) -> mx.array:
        drawn = mx.random.normal((1,))
        random_state.settle()
        return x + drawn

    compiled = mx.compile(draws, **random_state.as_captured())
    assert compiled(mx.ones((1,))).item() != compiled(mx.ones((1,))).item()


def test_a_draw_inside_a_trace_puts_a_new_array_in_the_state() -> None:
    key = random_state.current()
    mx.compile(lambda x: (mx.random.normal((1,)), [])[1])(mx.ones((1,)))
    assert not random_state.same(key)
    random_state.restore(key)
    assert random_state.current().tolist() == key.tolist()


def test_a_compiled_function_repeats_its_draws_unless_it_captures_the_state_both_ways() -> None:
    def noise(x: mx.array) -> mx.array:
        return x + mx.random.normal((3,))

    x = mx.zeros((3,))
    forgetful = mx.compile(noise)
    assert forgetful(x).tolist() == forgetful(x).tolist()
    captured = mx.compile(noise, **random_state.as_captured())
    mx.random.seed(4)
    first = [captured(x).tolist(), captured(x).tolist()]
    assert first[0] != first[1]
    mx.random.seed(4)
    assert captured(x).tolist() == first[0]


def test_the_state_can_be_put_lazily_and_whoever_holds_the_old_one_keeps_it() -> None:
    mx.random.seed(5)
    held = random_state.current()
    wanted = mx.random.key(11)
    before = held.tolist()
    random_state.put(wanted)
    assert held.tolist() == before and random_state.current().tolist() == wanted.tolist()
    ours = drawn()
    mx.random.seed(11)
    assert drawn() == ours


def test_the_state_can_be_put_inside_a_trace() -> None:
    def function(key: mx.array) -> mx.array:
        random_state.put(key)
        return mx.random.normal((3,))

    compiled = mx.compile(function, **random_state.as_captured())
    first = compiled(mx.random.key(11)).tolist()
    after = random_state.current().tolist()
    mx.random.seed(11)
    assert drawn() == first and random_state.current().tolist() == after


def test_a_draw_goes_on_with_the_first_half_of_the_state() -> None:
    mx.random.seed(5)
    start = random_state.current()
    for count in range(4):
        assert random_state.current().tolist() == random_state.after(start, count).tolist()
        assert random_state.draws_between(start, random_state.current()) == count
        drawn()
    assert random_state.draws_between(start, random_state.fork(start), most=6) == 6
    keys = [random_state.after(start, count).tolist() for count in range(4)]
    assert random_state.fork(start).tolist() not in keys


def test_a_state_has_moved_when_its_numbers_are_others() -> None:
    before = random_state.current()
    assert not random_state.moved(before)
    mx.random.normal((2,))
    assert random_state.moved(before)
    random_state.restore(before)
    assert not random_state.same(before) and not random_state.moved(before)
