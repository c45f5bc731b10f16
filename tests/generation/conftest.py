"""Models that several pages of this folder generate with."""

from __future__ import annotations

import pytest

import mlxgraph as mg
from tests import models


@pytest.fixture(scope="module")
def one() -> mg.InterpretableModel:
    return mg.InterpretableModel(models.make_llama())
