"""The versions that `pyproject.toml` allows, and those that are here."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from tests.mlx_facts.on_versions import ASKED, oldest, requirements


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(".")[:3]]


@pytest.mark.parametrize("name", ASKED)
def test_what_is_installed_is_allowed_and_the_range_has_two_ends(name: str) -> None:
    low, high = sorted(requirements()[name].split(","), reverse=True)
    assert low.startswith(">=") and high.startswith("<") and not high.startswith("<=")
    assert numbers(low[2:]) <= numbers(version(name)) < numbers(high[1:])
    assert oldest(requirements()[name]) == "==" + low[2:]
