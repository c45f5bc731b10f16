"""The pages' arithmetic on weights is that of a 4-bit copy of the embedded model as well.

Their blocks run on it as they are, and print what the pages say.
"""

from __future__ import annotations

from pathlib import Path

import mlx.nn as nn
import pytest

import mlxgraph as mg
from tests.docs.test_pages import run_page, somewhere_else  # noqa: F401

ROOT = Path(__file__).parent.parent.parent
PAGES = ["docs/coming-from-transformerlens.md", "docs/examples.md", "docs/quickstart.md"]


@pytest.fixture
def in_four_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mg.tiny

    def tiny() -> mg.InterpretableModel:
        model = whole()
        nn.quantize(model.module, group_size=64, bits=4)
        return model

    monkeypatch.setattr(mg, "tiny", tiny)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.thin(3)
def test_the_page_runs_in_four_bits(page: str, in_four_bits: None) -> None:
    text = (ROOT / page).read_text().partition("\n## Inspecting")[0]  # there modules are listed
    names = run_page(text, page)
    kinds = {type(module) for _, module in names["model"].named_modules()}
    assert nn.QuantizedLinear in kinds and nn.Linear not in kinds
