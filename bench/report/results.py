"""What was measured, and statistics of it.  Ratios are of one round: carriers that were measured in turn.

The JSON file has every single measurement.  A later run can add to it (``--merge``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeAlias

from bench.cells import Cell, from_name

Found: TypeAlias = dict[str, float]


class Round(NamedTuple):
    """One turn over all carriers: within it, numbers may be compared."""

    run: str
    """When the run began, UTC."""
    turn: int


@dataclass(frozen=True, slots=True)
class Run:
    """The circumstances of one run."""

    began: str
    command: str
    where: str
    """System, Python, processors."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and extremes of the rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @property
    def share(self) -> float:
        """Half of the distance between the extremes, as a share of the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


def spread(values: Sequence[float]) -> Spread | None:
    """None = no values."""
    return Spread(median(values), min(values), max(values), len(values)) if values else None


@dataclass(slots=True)
class Results:
    """Every measurement of every cell."""

    samples: dict[Cell, dict[Round, Found]] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    """Carriers that could not be measured, and why."""

    def add(self, cell: Cell, when: Round, found: Found) -> None:
        """One measurement."""
        self.samples.setdefault(cell, {})[when] = found

    def has(self, cell: Cell) -> bool:
        """It was measured at least once."""
        return cell in self.samples

    def values(self, cell: Cell, name: str) -> list[float]:
        """One for each round."""
        return [found[name] for found in self.samples.get(cell, {}).values() if name in found]

    def spread(self, cell: Cell, name: str) -> Spread | None:
        """None = not measured."""
        return spread(self.values(cell, name))

    def ratios(self, cell: Cell, reference: Cell, name: str) -> list[float]:
        """``cell`` ÷ ``reference``, for each round in which both were measured."""
        ours, theirs = self.samples.get(cell, {}), self.samples.get(reference, {})
        both = [(ours[when].get(name), theirs[when].get(name)) for when in ours if when in theirs]
        return [one / other for one, other in both if one is not None and other]

    def last(self, cell: Cell, name: str, when: Round) -> float | None:
        """Of this round; else the median of all; None = not measured."""
        found = self.samples.get(cell, {}).get(when, {})
        all_rounds = self.spread(cell, name)
        return found.get(name, all_rounds.median if all_rounds else None)


def load(path: Path) -> Results:
    """What ``save`` wrote.  Raises ``OSError``, ``ValueError``, ``KeyError``."""
    data = json.loads(path.read_text())
    results = Results(runs=[Run(**run) for run in data["runs"]], absent=data["absent"])
    for entry in data["cells"]:
        for sample in entry["rounds"]:
            when = Round(sample.pop("run"), sample.pop("turn"))
            results.add(from_name(entry["cell"]), when, sample)
    return results


def save(results: Results, path: Path) -> None:
    """Every single measurement, for whoever wants other statistics."""
    cells: list[dict[str, Any]] = [
        {
            "cell": cell.name,
            "rounds": [{**when._asdict(), **{name: round(one, 4) for name, one in found.items()}}
                       for when, found in rounds.items()],
        }
        for cell, rounds in results.samples.items()
    ]  # fmt: skip
    data = {"runs": [asdict(run) for run in results.runs], "absent": results.absent, "cells": cells}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n")
