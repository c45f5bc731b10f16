"""What is wrong in a question about two texts is said on the user's line, by every method."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.errors import (
    BoundsError,
    GradientError,
    HeadsError,
    InputError,
    LengthsError,
    PositionError,
    ScoreError,
    TokenError,
    UnknownNameError,
    UnknownSiteError,
    VocabularyError,
)
from tests.analysis.test_patching_maps import TEXTS

PATCHING, ATTRIBUTION, INTEGRATED = (
    "activation_patching", "attribution_patching", "integrated_gradients"
)  # fmt: skip
SLOPES = (ATTRIBUTION, INTEGRATED)
EVERY = (PATCHING, *SLOPES)
ALONE: dict[str, Any] = {INTEGRATED: {"steps": 2, "layers": [4]}}  # so that it is quick

WRONG: list[tuple[tuple[str, ...], dict[str, Any], type[Exception], str]] = [
    (EVERY, {"component": "wkv"}, UnknownSiteError, "resid_pre"),
    (EVERY, {"component": "heds"}, UnknownSiteError, "'heads'"),
    (EVERY, {"component": ["attn", "mpl"]}, UnknownSiteError, "'mlp'"),
    (EVERY, {"component": []}, InputError, "names none"),
    (EVERY, {"component": 3}, InputError, "a component is a name"),
    (EVERY, {"component": "mlp.*"}, InputError, "gate_proj"),
    (EVERY, {"component": "mlp", "heads": [1]}, HeadsError, "Leave heads out"),
    (EVERY, {"component": "heads", "heads": [8]}, BoundsError, "size 8"),
    (EVERY, {"component": "heads", "heads": "some"}, InputError, "heads='all'"),
    (EVERY, {"positions": [7]}, PositionError, "6 tokens"),
    (EVERY, {"positions": -7}, PositionError, "the corrupted text"),
    (EVERY, {"positions": "last"}, InputError, "positions='all'"),
    (EVERY, {"positions": []}, InputError, "nothing to run"),
    (EVERY, {"positions": [1.5]}, InputError, "no whole numbers"),
    (EVERY, {"metric": "logit_dif"}, UnknownNameError, "logit_diff"),
    (EVERY, {"metric": "logit_diff"}, InputError, "targets="),
    (EVERY, {"metric": "logit_diff", "targets": (" Paris", " Parisian")}, TokenError, "tokens"),
    (EVERY, {"metric": "logit_diff", "targets": " Paris"}, InputError, "two tokens"),
    (EVERY, {"metric": "logit_diff", "targets": (1, 5000)}, VocabularyError, "5000"),
    (EVERY, {"metric": "logit_diff", "targets": (1, 2.5)}, InputError, "an id"),
    (EVERY, {"targets": (1, 2)}, InputError, "logit_diff"),
    (EVERY, {"metric": lambda a, b, c: 0}, InputError, "takes 3"),
    (EVERY, {"metric": lambda o: o[:2]}, ScoreError, "one number"),
    (EVERY, {"direction": "denoising"}, InputError, "direction='denoise'"),
    (EVERY, {"layers": [9]}, BoundsError, "no layer 9"),
    (EVERY, {"corrupted_text": "The Big Ben is located in the city of"}, LengthsError, "6 tokens"),
    (SLOPES, {"metric": lambda o: float(o[2])}, GradientError, "gives a float"),
    (SLOPES, {"metric": lambda o: o[2].item()}, GradientError, "no slope"),
    (SLOPES, {"metric": lambda o: np.array(o)[2]}, GradientError, "with mx alone"),
    (SLOPES, {"metric": lambda o: mx.argmax(o)}, GradientError, "is zero|depend"),
    (SLOPES, {"metric": lambda o: mx.argmax(o) * 1.0}, GradientError, "by steps"),
    ((ATTRIBUTION,), {"metric": "l2", "direction": "noise"}, InputError, "no slope there"),
    ((ATTRIBUTION,), {"method": "atp"}, InputError, "method='atp[*]'"),
    ((ATTRIBUTION,), {"method": "atp*"}, InputError, "component='queries'"),
    (
        (ATTRIBUTION,),
        {"metric": lambda o: mx.argmax(o) * 1.0, "graddrop": True},
        GradientError,
        "steps",
    ),
    ((INTEGRATED,), {"steps": 0}, InputError, "steps=16"),
    ((INTEGRATED,), {"steps": 2.5}, InputError, "whole number"),
    ((INTEGRATED,), {"batch_size": 0}, InputError, "batch_size=0"),
    ((INTEGRATED,), {"path": "layers"}, InputError, "path='inputs'"),
]


@pytest.fixture(scope="module")
def tiny() -> mg.InterpretableModel:
    return mg.tiny()


@pytest.mark.parametrize(("methods", "given", "error", "said"), WRONG)
@pytest.mark.thin(6)
def test_what_is_wrong_is_said_on_the_users_line(tiny, methods, given, error, said):
    clean, corrupted = TEXTS
    for method in methods:
        ask = getattr(tiny, method)
        texts = {"clean_text": clean, "corrupted_text": corrupted}
        with pytest.raises(error, match=said) as caught:
            ask(**{**texts, **ALONE.get(method, {}), **given})
        assert caught.traceback[-1].path.name == "test_bad_input.py", method
