"""Round by round, load by load, carrier by carrier: neighbours in time are what is compared."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from bench import measure, others, search
from bench.carriers import Carrier, alone
from bench.cells import FIXED_RATE, RELAY, Cell, Kind
from bench.report.results import Found, Results, Round

TRIAL = 0.4
"""Length of one try of the search, as a share of the other measurements."""


@dataclass(slots=True)
class Rounds:
    """Measures cells and keeps what it finds."""

    carriers: Mapping[str, Carrier]
    results: Results
    seconds: float
    """Of one measurement."""
    keep: Callable[[], None] = lambda: None
    """Called after each load: what was measured so far outlives an interruption."""

    def run(self, cells: Sequence[Cell], when: Round) -> None:
        """One round."""
        for same in loads(cells):
            # Another carrier goes first in each round: whoever follows a heavy one finds a warmer, or busier, machine.
            first = when.turn % len(same)
            for cell in same[first:] + same[:first]:
                if cell.carrier in self.carriers:
                    self.measure(cell, when)
            self.keep()

    def measure(self, cell: Cell, when: Round) -> None:
        """One cell, and what it depends on."""
        carrier = self.carriers[cell.carrier]
        found: Mapping[str, float] | None
        if cell.kind is Kind.BEST:
            found = self._search(cell, carrier, when)
        elif cell.kind in {Kind.START, Kind.MEMORY}:  # instances that end look like a disturbance
            found = self._how(cell, carrier, when)()
        else:
            found = others.calm(self._how(cell, carrier, when), self._own)
        if found is None:
            progress(when, f"{cell.name}: no rate is carried")
            return
        self.results.add(cell, when, dict(found))
        progress(when, f"{cell.name}: {told(found)}")
        measure.settle()

    def _own(self) -> set[int]:
        return {pid for carrier in self.carriers.values() for pid in carrier.pids()}

    def _how(self, cell: Cell, carrier: Carrier, when: Round) -> Callable[[], Found]:
        """What to do for a cell of this kind."""
        seconds = self.seconds
        match cell.kind:
            case Kind.FIXED:
                return lambda: measure.measure_load(carrier, cell, seconds, FIXED_RATE)
            case Kind.RELAY_BEST:
                rate = self._best(cell.of(RELAY), when)
                return lambda: measure.measure_load(carrier, cell, seconds, rate)
            case Kind.IDLE:
                return lambda: self._trips(carrier, cell)
            case Kind.HALF:
                half = self._best(cell, when) / 2
                return lambda: self._trips(carrier, cell, half)
            case Kind.START:
                return lambda: measure.measure_start(carrier)
            case Kind.MEMORY:
                return lambda: measure.measure_memory(carrier)
        return lambda: measure.measure_load(carrier, cell, seconds)

    def _trips(self, carrier: Carrier, cell: Cell, load: float = 0) -> Found:
        with alone(carrier, self.carriers.values()):
            return measure.measure_trips(carrier, cell, self.seconds, load)

    def _search(self, cell: Cell, carrier: Carrier, when: Round) -> search.Found | None:
        def attempt(rate: float = 0) -> Found:
            measure.settle()
            seconds = self.seconds * TRIAL
            # A search makes two tries anyway.
            return others.calm(lambda: measure.measure_load(carrier, cell, seconds, rate), self._own, tries=2)

        flood = cell._replace(kind=Kind.FLOOD)
        unlimited = self.results.samples.get(flood, {}).get(when)
        return search.highest_rate(unlimited or attempt(), attempt)

    def _best(self, cell: Cell, when: Round) -> float:
        """The carrier's highest rate, of this round if it was measured; else it is measured now."""
        best = cell._replace(kind=Kind.BEST)
        if not self.results.has(best):
            self.measure(best, when)
        return self.results.last(best, "received", when) or search.LEAST


def loads(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Neighbours that differ in their carrier only."""
    for _, same in groupby(cells, lambda cell: cell.of("")):
        yield list(same)


def told(found: Mapping[str, float]) -> str:
    """One measurement in a few words."""
    return _told(found) + (f"; others used {found['others']:.0%}" if found.get("others", 0) > others.DISTURBED else "")


def _told(found: Mapping[str, float]) -> str:
    if "received" in found:
        return f"{found['received'] / 1e3:.1f} kpps, {found['lost']:.1%} lost, {found['cpu']:.2f} s/GB"
    if "p50" in found:
        return f"{found['p50']:.0f}, {found['p99']:.0f}, {found['p999']:.0f} µs"
    if "resident" in found:
        return f"{found['resident'] / 1e6:.0f} MB"
    return f"{found['server_wall']:.2f} and {found['client_wall']:.2f} s"


def progress(when: Round, line: str) -> None:
    """What is going on, on standard error."""
    sys.stderr.write(f"round {when.turn + 1}: {line}\n")
