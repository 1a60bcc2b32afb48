"""Order and thoroughness of the whole test run; fixtures belong to the areas."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The machine may be busy with other tests: no deadline for one example.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fuzz", settings.get_profile("default"), max_examples=10_000)
settings.load_profile("default")

_LAST = ("firewall", "link", "sockets", "ops", "netns", "interop", "e2e")
"""Areas that need root and namespaces: they run after the rest, in this order."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is quick and needs nothing comes first: a broken core is seen before a broken tunnel."""
    root = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        area = item.path.relative_to(root).parts[0] if item.path.is_relative_to(root) else ""
        return _LAST.index(area) + 1 if area in _LAST else 0

    items.sort(key=rank)
