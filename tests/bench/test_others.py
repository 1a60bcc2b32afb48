"""How a measurement learns that others disturbed it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench import others
from bench.others import OTHERS, TRIES, calm


@pytest.fixture
def uses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """CPU seconds that others use during each measurement, which takes one second of two processors."""
    shares: list[float] = []
    seen = {"now": 0.0, "used": 0.0, "calls": 0.0}

    def used(_own: set[int]) -> dict[int, float]:
        seen["calls"] += 1
        if seen["calls"] % 2 == 0:
            seen["used"] += shares.pop(0)
        return {1: seen["used"]}

    def clock() -> float:
        seen["now"] += 0.5 if seen["calls"] % 2 else 1.0
        return seen["now"]

    monkeypatch.setattr(others, "used", used)
    monkeypatch.setattr(others, "_CPUS", 2)
    monkeypatch.setattr(others, "monotonic", clock)
    return shares


def measurements() -> list[dict[str, float]]:
    return [{"number": float(number)} for number in range(TRIES)]


def test_a_calm_measurement_is_made_once(uses: list[float]) -> None:
    uses += [0.01, 0.0]
    left = measurements()
    assert calm(lambda: left.pop(0), set)["number"] == 0
    assert len(left) == TRIES - 1


def test_a_disturbed_one_is_made_again_and_the_least_disturbed_counts(uses: list[float]) -> None:
    uses += [0.8, 0.4]
    left = measurements()
    found = calm(lambda: left.pop(0), set)
    assert found["number"] == 1
    assert found[OTHERS] == pytest.approx(0.2)
    assert left == []


def test_other_processes_count_and_own_ones_do_not() -> None:
    busy = (
        "import time\nend = time.process_time() + 0.3\n"
        "while time.process_time() < end: pass\n"
        "print(flush=True)\ninput()"
    )
    with subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found, without = others.used(set()), others.used({process.pid})
        process.communicate(b"\n")
    assert found[process.pid] >= 0.25
    assert process.pid not in without


def test_the_share_is_of_the_whole_machine_and_never_more_than_all_of_it(uses: list[float]) -> None:
    assert not uses
    assert others.share({1: 5.0, 2: 9.0}, {1: 5.5, 3: 0.5}, 1.0) == 0.5
    assert others.share({1: 5.0}, {1: 500.0}, 1.0) == 1.0
