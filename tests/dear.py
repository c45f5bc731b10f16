"""What takes long and shows little more, for the slow tests alone: `make sweep`."""

from __future__ import annotations

from typing import Any

import pytest


def dear(*values: Any) -> list[Any]:
    """Values of `pytest.mark.parametrize`; tuples where a test has several of them at once."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
        for value in values
    ]
