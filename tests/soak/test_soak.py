"""The soak as a test (`make soak MINUTES=60`), and that a soak notices what is wrong."""

from __future__ import annotations

import os

import mlx.core as mx
import numpy as np
import pytest

from tests.soak.soak import Soak, differs


@pytest.mark.soak
@pytest.mark.skipif("SOAK_MINUTES" not in os.environ, reason="make soak MINUTES=60")
def test_results_are_right_memory_is_flat_and_nothing_is_left():
    found = Soak(float(os.environ["SOAK_MINUTES"]), threads=8).run()
    assert found["wrong"] == [] and found["left"] == []
    assert found["fine"], found


def test_a_soak_notices_a_wrong_answer_and_what_is_left(monkeypatch):
    soak = Soak(0.01, threads=1, interrupts=False)
    (work,) = [work for work in soak.works if work.name == "quick_model(1)"]
    monkeypatch.setattr("tests.soak.soak._as_numpy", drifting())
    kept = []

    def keeps():
        kept.append(mx.zeros((2**19,)) + len(kept))
        mx.eval(kept[-1])
        if len(kept) > 3:  # in the threads
            layers = soak.models.llama.module.layers
            layers[0] = layers[1]
        return work.do()

    soak.works = [work._replace(do=keeps)]
    found = soak.run()
    assert found["wrong"] and "is off by" in found["wrong"][0]
    assert "modules of llama" in found["left"]
    before, after = found["mlx before and after"]
    assert after > before + 2**20 and not found["fine"]


def drifting():
    """Answers that are another one each time."""
    times = [0.0]

    def read(answer):
        times[0] += 1.0
        return {name: [np.array(value) + times[0]] for name, value in answer.items()}

    return read


def test_what_differs_is_named():
    one = {"a": [np.ones(3)]}
    assert differs(one, one) == ""
    assert differs({"a": [np.ones(3) * 1.1]}, one).startswith("a is off by 0.1")
    assert differs({"a": [np.ones(2)]}, one).startswith("a has shape")
    assert differs({"b": [np.ones(3)]}, one) == "['b'] instead of ['a']"
    assert differs({"a": []}, one) == "a has 0 parts instead of 1"
    assert differs({"a": [np.full(3, np.nan)]}, one).startswith("a is off by nan")
