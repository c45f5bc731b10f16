"""Scripts in two and four processes, launched as a user launches them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.ranks.launching import Ended, launched, side_by_side

SECONDS = 120.0  # from start to end, imports included, on a busy machine; what hangs takes longer


def check(ended: Ended, count: int) -> None:
    assert ended.code == 0, ended.output
    assert [f"rank {rank} is done" in ended.output for rank in range(count)] == [True] * count, (
        ended.output
    )


def test_two_processes_give_the_answers_of_one():
    check(launched(2, "answers.py"), 2)


@pytest.mark.slow
def test_a_model_on_two_ranks_gives_what_it_gives_whole():
    check(launched(2, "sharded.py"), 2)


@pytest.mark.slow
def test_four_processes_give_the_answers_of_one():
    check(launched(4, "answers.py"), 4)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_the_message_of_a_rank_that_fails_is_on_every_rank(count: int, tmp_path: Path):
    for ended in side_by_side(count, "dying.py", "raised", "1", folder=tmp_path):
        assert ended.code == 1
        assert "that was not to be" in ended.output
        assert "this is not to be reached" not in ended.output


@pytest.mark.slow
@pytest.mark.parametrize(("count", "dying"), [(2, 0), (2, 1), (4, 0), (4, 2)])
def test_nobody_waits_for_a_rank_that_was_killed(count: int, dying: int, tmp_path: Path):
    began = time.monotonic()
    every = side_by_side(count, "dying.py", "killed", str(dying), folder=tmp_path)
    assert time.monotonic() - began < SECONDS
    for rank, ended in enumerate(every):
        assert ended.code == (-9 if rank == dying else 1), ended.output
        assert ("RankError" in ended.output) == (rank != dying), ended.output


@pytest.mark.slow
@pytest.mark.parametrize("how", ["gathering", "writing", "between", "interrupted"])
def test_nobody_waits_for_a_rank_that_ended_in_another_way(how: str, tmp_path: Path):
    began = time.monotonic()
    other, dead = side_by_side(2, "dying.py", how, "1", folder=tmp_path)
    assert time.monotonic() - began < SECONDS
    assert dead.code == {"gathering": -9, "writing": -9, "between": 1, "interrupted": -2}[how]
    assert other.code == 1 and "RankError" in other.output, other.output
    assert ("KeyboardInterrupt" in other.output) == (how == "interrupted"), other.output
    assert "this is not to be reached" not in other.output


@pytest.mark.slow
def test_what_users_do_to_two_ranks_is_noticed_or_right(tmp_path: Path):
    check(launched(2, "harsh.py", str(tmp_path)), 2)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "raised"])
def test_the_launcher_ends_with_its_ranks(how: str):
    ended = launched(2, "dying.py", how, "1")
    assert "this is not to be reached" not in ended.output
    assert ("that was not to be" in ended.output) == (how == "raised")


@pytest.mark.slow
def test_a_folder_that_ranks_write_together_goes_on_after_a_kill(tmp_path: Path):
    folder = tmp_path / "acts"
    killed = side_by_side(2, "to_disk.py", str(folder), "killed", folder=tmp_path)
    assert [ended.code for ended in killed] == [1, -9], killed[0].output
    check(launched(4, "to_disk.py", str(folder), "whole"), 4)  # with as many ranks as one likes
