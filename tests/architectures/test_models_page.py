"""`docs/models.md` says what is seen: of every model file of mlx-lm, each cell."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.architectures import states
from tests.architectures.test_architectures import QUICK


def script() -> ModuleType:
    """The script that writes the page: `docs` is no package."""
    path = Path(__file__).parent.parent.parent / "docs" / "models.py"
    spec = importlib.util.spec_from_file_location("docs_models", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


page = script()
TEXT = page.PAGE.read_text()
REMARKS = {said: int(number) for number, said in re.findall(r"^(\d+)\. (.*)$", TEXT, re.M)}
ROWS = {line.split(" | ")[0].removeprefix("| "): line for line in TEXT.splitlines()}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
        for name in page.tried()
    ],
)
@pytest.mark.thin(3)
def test_a_row_says_what_is_seen(name: str):
    assert page.line(states.row(name), REMARKS) == ROWS[name]


def test_every_model_file_of_mlx_lm_is_on_the_page():
    assert {name for name in states.architectures()} <= set(ROWS)


def test_a_wrong_number_is_no_state():
    case = states.Case("llama")
    case.plain = case.plain + 1.0
    with pytest.raises(states.Wrong, match="llama, identity"):
        states.state(case, states.identity)
