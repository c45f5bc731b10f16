"""The embedded model, for whatever needs texts."""

import pytest

import mlxgraph as mg


@pytest.fixture(scope="session")
def tiny():
    """The embedded model with its tokenizer: 6 layers, 8 query heads on 4 key-value heads."""
    return mg.tiny()
