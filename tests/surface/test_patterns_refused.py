"""Patterns whose brackets hold no range of layers, in every call that takes a name."""

from __future__ import annotations

import traceback

import pytest

import mlxgraph as mg
from mlxgraph import interventions as iv
from mlxgraph.errors import PatternError

PATTERNS = {
    "layers[2].mlp": "'layers.2.mlp'",
    "layers[-1]": r"layers\.\[4-8\]",
    "model.layers[0-3].mlp": r"'model.layers.\[0-3\].mlp'",
    "layers.[": "layers.",
    "layers.[]": "layers.",
    "layers.[a]": "layers.",
    "layers.[2-1]": "layers.",
    "layers.[1,].mlp": "layers.",
}


def traced(model, **kwargs):
    with model.trace([1, 2], **kwargs):
        return model.output.save()


def cached(model, pattern):
    with model.trace([1, 2]) as t:
        t.cache(pattern)


CALLS = {
    "edit": lambda m, p: m.run(mg.edit(p, iv.zero_out), [1, 2]),
    "read": lambda m, p: m.run(mg.read(p), [1, 2]),
    "interventions": lambda m, p: traced(m, interventions={p: iv.zero_out}),
    "sites": lambda m, p: m.sites(p),
    "cache": cached,
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_says_what_to_write_on_the_users_line(tiny, call, pattern):
    with pytest.raises(PatternError, match=PATTERNS[pattern]) as caught:
        CALLS[call](tiny, pattern)
    assert repr(pattern) in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert traceback.extract_tb(caught.tb)[-1].filename == __file__


@pytest.mark.parametrize("pattern", ["layers.[0-2]", "layers.[0, 2]", "layers.[2]", "layers.*"])
def test_ranges_are_none_of_these(tiny, pattern):
    assert traced(tiny, interventions={pattern: iv.zero_out}).shape == (1, 2, 1014)
