"""What is wanted of the native data path, and what was found.  A goal that was missed is printed as missed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from bench.cells import (
    DIRECT,
    MIX_MEAN,
    NATIVE,
    NATIVE_AES,
    NATIVE_CHACHA,
    RELAY,
    Cell,
    Kind,
)
from bench.report.results import Results, spread

MEGABYTE, MILLISECOND = 1e6, 1e3
Values = Callable[[Results], list[float]]


@dataclass(frozen=True, slots=True)
class Goal:
    """One row."""

    text: str
    sense: Literal["≥", "≤"]
    wanted: float
    unit: str
    values: Values
    """One for each round."""


def _against(text: str, cell: Cell, reference: str | Cell, name: str, wanted: str) -> Goal:
    """A ratio; ``wanted`` is like ``≥ 1.2``."""
    other = cell.of(reference) if isinstance(reference, str) else reference
    unit = f"× {other.carrier}"
    sense: Literal["≥", "≤"] = "≥" if wanted[0] == "≥" else "≤"
    return Goal(text, sense, float(wanted[1:]), unit, lambda results: results.ratios(cell, other, name))


def _absolute(text: str, cell: Cell, name: str, wanted: float, scale: tuple[float, str]) -> Goal:
    """At most ``wanted``, in a unit that is ``scale[0]`` of what was measured."""
    factor, unit = scale
    return Goal(text, "≤", wanted, unit, lambda results: [one / factor for one in results.values(cell, name)])


def _goals() -> Iterator[Goal]:
    flood, best = Cell(Kind.FLOOD, NATIVE), Cell(Kind.BEST, NATIVE)
    yield _against("unlimited load", flood, DIRECT, "received", "≥1")
    yield _against("unlimited load", flood, RELAY, "received", "≥2")
    yield _against("at most 1 % loss", best, DIRECT, "received", "≥1.2")
    yield _against("at most 1 % loss", best, RELAY, "received", "≥1.8")
    yield _against("application with UDP GSO", flood._replace(app="gso"), DIRECT, "received", "≥0.5")
    yield _against("CPU for a GB, 30,000 a second", Cell(Kind.FIXED, NATIVE), RELAY, "cpu", "≤0.5")
    yield _against("CPU for a GB, relay's highest rate", Cell(Kind.RELAY_BEST, NATIVE), RELAY, "cpu", "≤0.4")
    yield _against("round trip idle, p50", Cell(Kind.IDLE, NATIVE), RELAY, "p50", "≤1.1")
    yield _against("round trip idle, p99", Cell(Kind.IDLE, NATIVE), RELAY, "p99", "≤1.2")
    yield _against("round trip at half load, p50", Cell(Kind.HALF, NATIVE), RELAY, "p50", "≤1")
    yield _against("round trip at half load, p99", Cell(Kind.HALF, NATIVE), RELAY, "p99", "≤1")
    for carrier, name in ((NATIVE_AES, "AES"), (NATIVE_CHACHA, "ChaCha20")):
        half = Cell(Kind.HALF, carrier)
        yield _absolute(f"{name}, round trip at half load, p50", half, "p50", 0.5, (MILLISECOND, "ms"))
        yield _absolute(f"{name}, round trip at half load, p99", half, "p99", 2, (MILLISECOND, "ms"))
    for kind, load in ((Kind.FLOOD, "unlimited load"), (Kind.BEST, "at most 1 % loss")):
        cell = Cell(kind, NATIVE)
        yield _against(f"AES, {load}", cell.of(NATIVE_AES), NATIVE, "received", "≥0.75")
        yield _against(f"ChaCha20, {load}", cell.of(NATIVE_CHACHA), NATIVE, "received", "≥0.6")
        equal = cell._replace(size=str(MIX_MEAN))
        mix = cell._replace(size="mix", conversations=1000)
        yield _against(f"mix, 1,000 conversations, {load}", mix, equal, "received", "≥0.7")
        yield _against(f"64 bytes, {load}", cell._replace(size="64"), DIRECT, "received", "≥1.5")
    memory = Cell(Kind.MEMORY, NATIVE)
    yield _absolute("memory of client and server", memory, "resident", 80, (MEGABYTE, "MB"))


GOALS = tuple(_goals())


def goal_rows(results: Results) -> list[tuple[str, str, str, str, str]]:
    """Goal, wanted, found, the rounds' extremes, met or not; ``–`` where nothing was measured."""
    rows = []
    for goal in GOALS:
        found = spread(goal.values(results))
        wanted = f"{goal.sense} {goal.wanted:g} {goal.unit}"
        if found is None:
            rows.append((goal.text, wanted, "–", "–", "not measured"))
            continue
        met = found.median >= goal.wanted if goal.sense == "≥" else found.median <= goal.wanted
        span = f"{found.low:.2f}–{found.high:.2f}" if found.rounds > 1 else "–"
        rows.append((goal.text, wanted, f"{found.median:.2f}", span, "met" if met else "**missed**"))
    return rows
