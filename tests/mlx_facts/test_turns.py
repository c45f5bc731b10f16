"""One thread at a time, and nobody waits for ever for one that was interrupted."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from mlxgraph.mlx_facts import turns
from mlxgraph.mlx_facts.turns import Turns


def in_a_thread(do: Any) -> None:
    thread = threading.Thread(target=do)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_what_is_done_in_turns_is_done_alone():
    one, inside, most = Turns(), [0], [0]

    def do() -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        for _ in range(1000):
            pass
        inside[0] -= 1

    threads = [threading.Thread(target=lambda: [one.alone(do) for _ in range(50)]) for _ in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and inside == [0]


def test_a_turn_may_be_taken_within_a_turn():
    one = Turns()
    assert one.alone(lambda: one.alone(lambda: 7)) == 7


def test_a_turn_that_was_never_given_back_is_waited_for_a_moment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turns, "PATIENCE", 0.05)
    one, done = Turns(), []
    in_a_thread(lambda: one._lock.acquire())  # and its thread is gone
    in_a_thread(lambda: one.alone(lambda: done.append("second")))
    in_a_thread(lambda: one.alone(lambda: done.append("third")))
    assert done == ["second", "third"]


def test_what_fails_in_its_turn_gives_it_back():
    one, done = Turns(), []
    with pytest.raises(ZeroDivisionError):
        one.alone(lambda: 1 / 0)
    in_a_thread(lambda: one.alone(lambda: done.append("next")))
    assert done == ["next"]
