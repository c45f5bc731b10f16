"""What the README states as measured is what comes out."""

from __future__ import annotations

import re
from pathlib import Path

import mlx.nn as nn
import pytest

import mlxgraph as mg
from mlxgraph.tiny.evaluate import evaluate
from tests.architectures import configs, parts

README = (Path(__file__).parent.parent.parent / "README.md").read_text()


@pytest.mark.slow
def test_the_quantised_model_answers_as_the_readme_says() -> None:
    (cases,) = re.findall(r"right answer in all ([\d,]+) cases", README)
    model = mg.tiny()
    nn.quantize(model.module)
    kinds = [type(module) for _, module in model.named_modules()]
    assert nn.QuantizedLinear in kinds and nn.Linear not in kinds  # or nothing is tested here
    scores = evaluate(model.module, model.tokenizer)
    assert sum(score.cases for score in scores) == int(cases.replace(",", ""))
    assert [score.task for score in scores if score.correct < score.cases] == []


def test_the_readme_says_what_the_architectures_tests_run() -> None:
    names = [name for name in configs.KNOWN.split() if name not in parts.NO_CALLS]
    (count,) = re.findall(r"The tests run \[(\d+) of mlx-lm's architectures", README)
    assert int(count) == len(names)
