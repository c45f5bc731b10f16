"""Fixtures of this room: a model of nested values, and a second input for it."""

from __future__ import annotations

import mlx.core as mx
import pytest

from tests import models


@pytest.fixture
def mixed():
    """Several inputs, nested outputs, modules in containers, a shared module."""
    return models.made(models.Mixed)


@pytest.fixture
def y(x):
    """A second float input, shape (2, 4, 6)."""
    return mx.tanh(x[::-1] * 2)
