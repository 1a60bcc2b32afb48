"""At which targets nobody listens, and when that is over: what the counters of a server's sockets tell of it.

A target refuses when an ICMP port unreachable has come and no answer in the second after it.  It answers again when
answers have come, and no refusal for some seconds.  The clients that have conversations there are told (``due``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from rsock_nf.core.types import TransportAddress

SETTLED: Final = 3.0
"""Seconds without a refusal after which answers show that somebody listens."""
TELL_AGAIN: Final = 10.0
"""Seconds until clients are told again of a target that refuses: a message may be lost, and another client may have
come.  More often it is not told either, if the target changes its mind all the time."""


class Counts(NamedTuple):
    """What the sockets toward one address have counted, those that are closed too."""

    refused: int
    answers: int


@dataclass(slots=True)
class Target:
    """A target that has refused, and what is known of it."""

    address: str
    refused: int
    """Datagrams, since the start."""
    refused_at: float
    """When that last grew."""
    refuses: bool = True
    """Nobody listens there: it has refused, and has not answered since."""
    suspect: bool = False
    """It has just refused: the next look decides."""
    answers: int = 0
    """When it last refused."""
    told: int = -1
    """``refused`` when the clients were last told that it refuses; -1 = not since it last answered."""
    told_at: float = -math.inf


class Refusals:
    """See the module."""

    def __init__(self) -> None:
        self._targets: dict[TransportAddress, Target] = {}
        self._refused = 0

    def needs_a_look(self, refused: int) -> bool:
        """Whether ``look`` is worth its time.  ``refused``: what all sockets have counted, over all targets."""
        return refused != self._refused or any(one.refuses or one.suspect for one in self._targets.values())

    def look(self, now: float, counts: dict[TransportAddress, Counts]) -> None:
        """Once a second.  ``counts``: of the targets that there are; others are forgotten."""
        self._refused = sum(count.refused for count in counts.values())
        self._targets = {address: target for address, target in self._targets.items() if address in counts}
        for address, count in counts.items():
            target = self._targets.get(address)
            if target is None:
                if count.refused:
                    self._targets[address] = _suspect(address, count, now)
                continue
            answered = count.answers > target.answers
            if target.suspect:
                target.suspect, target.refuses = False, not answered
            if count.refused > target.refused:
                target.suspect = not target.refuses
                target.refused, target.refused_at, target.answers = count.refused, now, count.answers
            elif answered and now - target.refused_at >= SETTLED:
                target.refuses = False

    def all(self) -> Sequence[Target]:
        """The targets that have refused anything."""
        return list(self._targets.values())

    def due(self, now: float, addresses: Iterable[TransportAddress]) -> list[tuple[int, bool]]:
        """What clients are to be told now: the number of a target, and whether nobody listens there.

        ``addresses``: of all targets, in the order of their numbers.
        """
        found: list[tuple[int, bool]] = []
        told: list[Target] = []
        for number, address in enumerate(addresses):
            target = self._targets.get(address)
            if target is None:
                continue
            news = target.refused != target.told and now - target.told_at >= TELL_AGAIN
            if (target.refuses and news) or (not target.refuses and target.told >= 0):
                found.append((number, target.refuses))
                told.append(target)
        for target in told:  # the same address may have several numbers
            target.told, target.told_at = (target.refused, now) if target.refuses else (-1, now)
        return found


def _suspect(address: TransportAddress, count: Counts, now: float) -> Target:
    return Target(str(address), count.refused, now, refuses=False, suspect=True, answers=count.answers)
