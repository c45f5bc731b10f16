"""The embedded model, in float32."""

import pytest

import mlxgraph as mg


@pytest.fixture(scope="session")
def tiny():
    """The embedded model with its tokenizer."""
    return mg.tiny()
