from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.core import pair
from tests.native.hot_end import HotEnd


@pytest.fixture
def native_ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[HotEnd]]:
    """Every end of a ``Pair`` has the native pump in front."""
    made: list[HotEnd] = []

    def wrap(make):  # noqa: ANN001, ANN202 - as ``pair.wrap``
        made.append(HotEnd(make))
        return made[-1]

    monkeypatch.setattr(pair, "wrap", wrap)
    yield made
    for end in made:
        end.engine.close()
