"""How a round goes: the order of carriers, and the rates that depend on other cells.  Nothing is measured here."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from bench import carriers, measure, others, rounds
from bench.carriers import Carrier, alone
from bench.cells import DIRECT, FIXED_RATE, NATIVE, RELAY, Cell, Kind
from bench.report.results import Results, Round
from bench.rounds import Rounds
from rsock_nf.lab.lab import Lab

CAPACITY = {DIRECT: 200_000.0, RELAY: 100_000.0, NATIVE: 160_000.0}
OFFERED = 250_000.0


class Bench:
    """Carriers of known capacity, and the loads that they got."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loads: list[tuple[str, float]] = []
        self.rounds = Rounds({name: cast("Carrier", name) for name in CAPACITY}, Results(), 1.0)
        monkeypatch.setattr(measure, "measure_load", self._load)
        monkeypatch.setattr(measure, "measure_trips", self._trips)
        monkeypatch.setattr(measure, "settle", lambda: None)
        monkeypatch.setattr(rounds, "alone", lambda *_: contextlib.nullcontext())
        monkeypatch.setattr(others, "calm", lambda measured, _own, **_: measured())

    def _load(self, carrier: str, _cell: Cell, _seconds: float, rate: float = 0) -> dict[str, float]:
        self.loads.append((carrier, rate))
        offered = min(rate or OFFERED, OFFERED)
        received = min(offered, CAPACITY[carrier])
        return {"offered": offered, "received": received, "lost": 1 - received / offered, "cpu": 1.0}

    def _trips(self, carrier: str, _cell: Cell, _seconds: float, load: float = 0) -> dict[str, float]:
        self.loads.append((carrier, load))
        return {"p50": 1.0, "p99": 2.0, "p999": 3.0}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_another_carrier_goes_first_in_each_round(bench: Bench) -> None:
    cells = [Cell(kind, carrier) for kind in (Kind.FLOOD, Kind.FIXED) for carrier in CAPACITY]
    for turn in range(2):
        bench.rounds.run(cells, Round("now", turn))
    carriers = [carrier for carrier, _ in bench.loads]
    assert carriers == [DIRECT, RELAY, NATIVE] * 2 + [RELAY, NATIVE, DIRECT] * 2
    assert [rate for _, rate in bench.loads[3:6]] == [FIXED_RATE] * 3


def test_half_load_is_half_of_the_own_highest_rate(bench: Bench) -> None:
    bench.rounds.run([Cell(Kind.BEST, NATIVE), Cell(Kind.HALF, NATIVE)], Round("now", 0))
    assert bench.loads[-1][1] == pytest.approx(CAPACITY[NATIVE] / 2, rel=0.02)


def test_what_a_cell_depends_on_is_measured_when_it_is_missing(bench: Bench) -> None:
    bench.rounds.run([Cell(Kind.RELAY_BEST, NATIVE)], Round("now", 0))
    assert bench.rounds.results.has(Cell(Kind.BEST, RELAY))
    carrier, rate = bench.loads[-1]
    assert carrier == NATIVE
    assert rate == pytest.approx(CAPACITY[RELAY], rel=0.03)


def test_a_carrier_that_is_not_up_is_left_out(bench: Bench) -> None:
    bench.rounds.run([Cell(Kind.FLOOD, "native udp"), Cell(Kind.FLOOD, DIRECT)], Round("now", 0))
    assert bench.loads == [(DIRECT, 0)]


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Carrier]]:
    """Carriers of one process each, which waits."""
    monkeypatch.setattr(carriers, "AWAKE", 0.0)
    with contextlib.ExitStack() as stack:
        made = []
        for name in CAPACITY:
            process = stack.enter_context(subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL))
            stack.callback(process.kill)
            made.append(Carrier(name, cast("Lab", None), "", "", lambda pid=process.pid: [pid]))  # type: ignore[misc]
        yield made


def stand_still(carriers: list[Carrier]) -> list[bool]:
    return [Path(f"/proc/{one.pids()[0]}/stat").read_text().rpartition(")")[2].split()[0] == "T" for one in carriers]


def test_a_round_trip_has_the_machine_for_itself(three: list[Carrier]) -> None:
    with alone(three[1], three):
        while stand_still(three) != [True, False, True]:  # a signal arrives when it does
            pass
    while any(stand_still(three)):
        pass
