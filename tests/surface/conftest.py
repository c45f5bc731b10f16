"""The embedded model, for the stories that need a trained one."""

import pytest

import mlxgraph as mg


@pytest.fixture(scope="session")
def tiny():
    """The embedded model with its tokenizer."""
    return mg.tiny()
