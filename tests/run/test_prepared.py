"""A new structure is planned once, and one that comes again not at all."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlxgraph as mg
from mlxgraph.run import runner


@pytest.fixture
def plans(monkeypatch):
    """Every plan that is made."""
    made = []
    real = runner.make_plan

    def noted(*args, **given):
        made.append(args)
        return real(*args, **given)

    monkeypatch.setattr(runner, "make_plan", noted)
    return made


@pytest.mark.parametrize("compile", [False, True, "auto"])
def test_a_new_structure_is_planned_once(tied, tokens, plans, compile):
    def last_logits(number):
        with tied.trace(tokens, compile=compile):
            tied.layers[1].output[:, -1] *= number
            logits = tied.output[:, -1].save()
        return logits

    tied.refresh()
    first = last_logits(2.0)
    assert len(plans) == 1, "simplified, pushed down and proved, and planned once"
    for number in (3.0, 4.0):
        assert not mx.array_equal(last_logits(number), first)
    assert len(plans) == 1
    with tied.trace(tokens, compile=compile):
        tied.layers[0].output.save()
    assert len(plans) == 2, "the control: another structure has another plan"


def test_a_graph_as_a_function_is_planned_once(tied, tokens, plans):
    tied.refresh()
    fast = tied.compile(mg.edit("layers.1.mlp", lambda h: h * 0.5) >> mg.read("layers.2", name="h"))
    for _ in range(3):
        mx.eval(fast(tokens).saves)
    assert len(plans) == 1
